"""Losses: one paper a file. The formula stands first, the module that feeds it second."""
