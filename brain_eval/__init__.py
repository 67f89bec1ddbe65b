"""Score how similar a network is to the primate ventral stream: benchmarks, activations, metrics, scores."""
