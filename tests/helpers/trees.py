"""What lies on disk, to see whether a run changes any of it."""

from pathlib import Path


def tree(*folders: Path, without: Path | None = None) -> dict[str, bytes | None]:
    """The content of every file below ``folders``, None for a folder; the folder ``without`` is left out."""
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    kept = [path for path in found if without is None or without not in (path, *path.parents)]
    return {str(path): path.read_bytes() if path.is_file() else None for path in kept}
