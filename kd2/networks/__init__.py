"""Networks that the frameworks do not bring, and inference with them. Imports torch and ``kd2.distill`` alone."""
