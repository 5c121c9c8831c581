"""The torchvision bridge: detectors and segmentation networks, their data and their distillation."""
