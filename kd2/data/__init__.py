"""Data sets: readers that check what they read, and seeded batches that a run can resume.

``images`` is the one way from a file to pixels, ``root`` says where data sets lie, ``stream`` and ``seeding`` order
records and draws; ``detection``, ``segmentation`` and ``classification`` hold what belongs to one task. Imports torch,
NumPy, PIL and ``kd2.distill``; ``read_parquet`` also imports pyarrow when it is called.
"""
