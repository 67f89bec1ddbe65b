"""Brain-Score's public assemblies, read without its loaders."""
