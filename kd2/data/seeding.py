"""Random draws that depend on what is drawn for, not on when or where."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python, NumPy and torch (CPU) from ``key`` inside the block; their states are restored afterwards."""
    words = np.random.SeedSequence(key).generate_state(3)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed the GPUs as well
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def random_states() -> dict[str, Any]:
    """The states of the global torch generators of this process (CPU and every CUDA device), for a checkpoint."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo ``random_states``. States of devices that this process does not have are ignored."""
    torch.set_rng_state(states["cpu"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
