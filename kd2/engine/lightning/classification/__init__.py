"""Classification with timm."""
