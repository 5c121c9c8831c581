"""Data of the Detectron2 path: catalogs, mappers, and the stream of batches."""

from kd2.engine.detectron2.data.catalog import register
from kd2.engine.detectron2.data.loaders import eval_loader, train_loader

__all__ = ["eval_loader", "register", "train_loader"]
