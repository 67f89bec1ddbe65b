"""Files: written in one move, sealed by a digest, read through one guard; and which sources a module is made of."""
