"""Objects of all processes of a run."""

from typing import Any

from torch import distributed


def gathered(value: Any) -> list[Any]:
    """The value of every process, in order of rank; collective where there are several."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found
