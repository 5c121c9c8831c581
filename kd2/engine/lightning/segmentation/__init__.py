"""Semantic segmentation with torchvision and timm."""
