"""Training with Lightning, for every framework that has no trainer of its own."""
