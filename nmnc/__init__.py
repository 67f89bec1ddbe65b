"""Learning rules and networks: neural manifold noise correlation, its relatives and its controls."""
