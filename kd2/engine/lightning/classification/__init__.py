"""The timm bridge: classification."""
