"""From a trained student to a device: what predicts, exported files, their comparison with PyTorch."""
