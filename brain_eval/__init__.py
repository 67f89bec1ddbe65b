"""Stimuli, activations, benchmarks, comparison and tables: how primate-like is a network?"""
