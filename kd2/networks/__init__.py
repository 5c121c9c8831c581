"""Segmentation networks that the frameworks do not bring, their losses and inference. Imports torch and nothing else."""
