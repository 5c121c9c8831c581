"""Segmentation networks that no framework brings, their losses and inference. Imports torch and nothing else."""
