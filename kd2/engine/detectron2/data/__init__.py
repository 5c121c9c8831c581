"""Data on the road of Detectron2: catalogs, mappers, and the stream of batches."""

from kd2.engine.detectron2.data.catalog import align, align_semantic, custom_records, register
from kd2.engine.detectron2.data.loaders import check_readable, eval_loader, train_loader

__all__ = ["align", "align_semantic", "check_readable", "custom_records", "eval_loader", "register", "train_loader"]
