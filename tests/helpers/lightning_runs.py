"""What the tests of every path that Lightning trains share."""

import argparse
import copy
from pathlib import Path

import torch


def merged(base: dict, changes: dict) -> dict:
    """``base`` with the entries of ``changes``, group by group."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result


def arguments(**changes) -> argparse.Namespace:
    """What tools/train_net.py hands over without options."""
    defaults = {
        "num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", "resume": False, "eval_only": False,
    }
    return argparse.Namespace(**(defaults | changes))


def weights(folder: Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    """All tensors of a final checkpoint, adapters included."""
    content = torch.load(folder / name, weights_only=True)
    return content["model"] | {f"adapters.{k}": v for k, v in content["adapters"].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names that differ between two state dicts; empty when they are equal bit for bit."""
    return sorted(set(a) ^ set(b)) + [name for name in a if name in b and not torch.equal(a[name], b[name])]
