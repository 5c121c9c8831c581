"""Segmentation networks that the frameworks do not bring, and what surrounds them. Imports torch and nothing else."""
