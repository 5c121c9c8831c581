"""Classification with timm models."""
