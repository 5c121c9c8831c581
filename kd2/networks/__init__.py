<<<<<<< HEAD
"""Segmentation networks that the frameworks do not bring, and what surrounds them. Imports torch and nothing else."""
=======
"""Networks that no library ships; torch only."""
>>>>>>> skd
