"""Data sets as records, and the stream of training batches. Imports torch, NumPy and PIL only."""
