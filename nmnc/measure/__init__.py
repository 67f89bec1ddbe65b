"""What is measured about a network and a rule: alignment, alpha, dimension, angles, losses of signals."""
