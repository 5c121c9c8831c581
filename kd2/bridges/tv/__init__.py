"""The torchvision bridge: detectors, their data and their distillation."""
