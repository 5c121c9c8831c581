"""Boxes and masks: COCO and Pascal VOC files as checked records."""
