"""What the entries of a checkpoint must be, judged on reading; ``checkpoint.py`` beside it says what they mean."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd2.distill import ConfigError

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_WHOLE = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
# What stands before every name: of DistributedDataParallel, torch.compile, and a LightningModule's attribute.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# The counter of a moving average of PyTorch, beside the weights.
_AVERAGED = "n_averaged"
# Where other tools keep them.
_OF_WEIGHTS = ("model", "state_dict", "model_state_dict")
# Above any number of steps.
_MOST = 1 << 53


def weights(found: Any, where: str) -> dict[str, Tensor]:
    """Weights by name, those of NumPy as tensors, all on the CPU.

    Args:
        where: config key, file and entry, which begin every error.

    Raises:
        ConfigError: no dict, or an element of it that is no finite dense tensor of real numbers; names it.
    """
    for name, value in _named(found, where).items():
        found[name] = _tensor(value, f"{where}: {name}")
    return found


def verified(content: Any, where: str) -> dict[str, Any]:
    """The content of a checkpoint, changed in place: every entry that a run of kd2 writes is what it must be.

    Files of other tools have weights, in the entry ``model``, ``state_dict`` or ``model_state_dict`` or by themselves,
    and whatever else they like. The name that a wrapper puts before all names of their weights is taken away.

    Raises:
        ConfigError: names the entry, what was found and what was expected.
    """
    _named(content, where)
    if "kd2" not in content:
        content = _unwrapped(content, where)
    if "model" in content:
        content["model"] = weights(content["model"], f"{where}: model")
    if "kd2" in content:
        _check(content, _ENTRIES, where)
        _check(content["kd2"], _RUN, f"{where}: kd2")
    return content


def _unwrapped(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of another tool's file: its weights under plain names, in the entry ``model`` or by themselves."""
    entry = next((name for name in _OF_WEIGHTS if isinstance(content.get(name), dict)), "")
    if entry:
        return content | {"model": _plain_names(content[entry])}
    others = [name for name, x in content.items() if isinstance(x, dict) and Tensor in map(type, x.values())]
    if others:
        raise ConfigError(
            f"{where} has tensors in {', '.join(others)}, expected them in one of {', '.join(_OF_WEIGHTS)}"
        )
    return _plain_names(content)


def _plain_names(state: dict[str, Any]) -> dict[str, Any]:
    if _AVERAGED in state:
        state = {name: value for name, value in state.items() if name != _AVERAGED}
    while prefix := next((x for x in _WRAPPERS if state and all(str(name).startswith(x) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def check_run(content: dict[str, Any], where: str) -> None:
    """Raises ConfigError when an entry without which a run cannot go on is missing."""
    for known, holder, inside in ((_ENTRIES, content, ""), (_RUN, content.get("kd2", {}), "kd2.")):
        missing = [f"{inside}{name}" for name in known if name not in holder and name not in _OPTIONAL]
        if missing:
            raise ConfigError(f"{where} is not a checkpoint of a run of kd2: it has no {', '.join(missing)}")


def _named(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict) or set(getattr(found, "__dict__", ())) - {"_metadata"}:
        raise ConfigError(f"{where} holds {_kind(found)}, expected a dict of weights by name")
    for name in found:
        if not isinstance(name, str):
            raise ConfigError(f"{where} has the name {_shown(name)} ({type(name).__name__}), expected texts as names")
    return found


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    problem = _problem(value)
    if problem:
        raise ConfigError(f"{where} is {problem}, expected a dense tensor of finite real numbers")
    return value


def _problem(value: Any) -> str:
    """What keeps a value from being a weight; empty for a good one."""
    if type(value) not in (Tensor, torch.nn.Parameter):
        return _kind(value)
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
        form = "quantized" if value.is_quantized else "nested" if value.is_nested else str(value.layout)
        return f"a tensor that is {value.device.type if value.device.type != 'cpu' else form}"
    if value.dtype not in _FLOATS | _WHOLE:
        return f"a tensor of {value.dtype}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"a tensor {tuple(value.shape)} whose elements share {value.untyped_storage().nbytes()} bytes"
    if value.dtype in _FLOATS:
        bad = value.numel() - int(value.isfinite().sum())
        return f"NaN or infinite in {bad} of {value.numel()} elements" if bad else ""
    return ""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_optimizer(value: Any) -> bool:
    states, groups = (value.get(name) for name in ("state", "param_groups")) if isinstance(value, dict) else (0, 0)
    return (
        isinstance(states, dict)
        and all(isinstance(state, dict) for state in states.values())
        and isinstance(groups, list)
        and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups)
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in value.values()
    )


def _is_random_states(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(state, dict) and _is_generator(state.get("cpu")) and isinstance(state.get("cuda"), list)
        for state in value
    )


def _is_generator(value: Any) -> bool:
    try:
        torch.Generator().set_state(value)
    except (TypeError, RuntimeError):
        return False
    return True


Entries = dict[str, tuple[Callable[[Any], bool], str]]

_DICT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, dict), "a dict")
_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "a text")
_ENTRIES: Entries = {
    "model": _DICT,
    "adapters": _DICT,
    "optimizer": (_is_optimizer, "a dict of states and param_groups"),
    "scheduler": _DICT,
    "iteration": (_is_count, "a whole number from 0"),
    "kd2": _DICT,
    "trainer": _DICT,
}
_RUN: Entries = {
    "version": _TEXT,
    "seed": (_is_count, "a whole number from 0"),
    "rng": (_is_random_states, "a list of states of torch's generators"),
    "classes": (_is_names, "lists of names by kind"),
    "teacher": _DICT,
    "config": _TEXT,
    "shares": _DICT,
    "best": _DICT,
    "raw_model": _DICT,
}
_OPTIONAL = ("best", "raw_model")
# Entries that hold weights.
_WEIGHTS = ("adapters", "raw_model", "shares")


def _check(holder: dict[str, Any], known: Entries, where: str) -> None:
    for name in known.keys() & holder.keys():
        good, expected = known[name]
        if not good(holder[name]):
            raise ConfigError(f"{where}: {name} is {_kind(holder[name])}, expected {expected}")
        if name in _WEIGHTS:
            weights(holder[name], f"{where}: {name}")


def _kind(value: Any) -> str:
    text = "" if isinstance(value, (dict, list, tuple, Tensor, np.ndarray)) else f" {_shown(value)}"
    return f"a {type(value).__name__}{text}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]} ..."
