"""Does distillation pay? A grid of runs over seeds, a journal of every run, and the table that they give.

``benchmarks/pays.py`` is the command.
"""
