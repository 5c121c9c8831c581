"""Comparisons of runs and pictures."""
