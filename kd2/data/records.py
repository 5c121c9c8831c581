"""What the records of every task have in common."""

from collections.abc import Iterable
from typing import Any

_LABELS = ("annotations", "sem_seg_file_name")


def without_labels(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of images alone, as those of ``KD.UNLABELED`` are taken; the given ones stay as they are."""
    return [{key: value for key, value in record.items() if key not in _LABELS} for record in records]
