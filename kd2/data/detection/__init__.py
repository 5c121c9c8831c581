"""Boxes and masks: COCO and Pascal VOC files as checked records.

``coco`` and ``voc`` read a file or folder into one table of objects, ``objects`` checks the table and makes the
records, ``masks`` and ``pictures`` check what belongs to one object and one image, ``records`` knows the data sets by
name.
"""
