"""Data sets as records, and the stream of training batches. Imports torch only."""
