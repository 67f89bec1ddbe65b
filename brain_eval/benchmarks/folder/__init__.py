"""Benchmarks in a folder of the user's own."""
