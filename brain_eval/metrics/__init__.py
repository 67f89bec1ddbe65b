"""RDMs and what compares them, CKA, encoding models: pure functions on arrays."""
