"""Detection and instance segmentation with torchvision."""
