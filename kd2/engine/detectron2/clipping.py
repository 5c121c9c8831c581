"""Gradient clipping by Detectron2's keys; parts of a loss with a solver of their own are clipped by that alone."""

import torch
from detectron2.config import CfgNode
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from kd2.distill import ConfigError, clip_overrides, nearest

Parameters = list[torch.nn.Parameter]


def _each(parameters: Parameters, clip: CfgNode) -> None:
    for parameter in parameters:
        clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)


_CLIPS = {
    "value": lambda parameters, clip: clip_grad_value_(parameters, clip.CLIP_VALUE),
    "norm": _each,
    "full_model": lambda parameters, clip: clip_grad_norm_(parameters, clip.CLIP_VALUE),
}


def clipping(optimizer: type[torch.optim.Optimizer], clip: CfgNode, own: list[dict]) -> type[torch.optim.Optimizer]:
    """A subclass of ``optimizer`` whose ``step`` first clips; ``optimizer`` itself where nothing asks for clipping.

    Inside ``step`` the gradients are already unscaled and averaged, in float16 training too.

    Args:
        clip: ``SOLVER.CLIP_GRADIENTS``. ``CLIP_TYPE`` is ``value``, ``norm`` (of each tensor) or ``full_model`` (of
            everything that the run's solver trains).
        own: the groups of ``kd2.distill.override_groups`` among those of the optimizer.

    Raises:
        ConfigError: an unknown type of clipping.
    """
    if clip.ENABLED and clip.CLIP_TYPE not in _CLIPS:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; {nearest(clip.CLIP_TYPE, _CLIPS)}")
    if not clip.ENABLED and not own:
        return optimizer

    class Clipping(optimizer):
        def step(self) -> None:
            common = clip_overrides(self.param_groups)
            if clip.ENABLED:
                _CLIPS[clip.CLIP_TYPE](common, clip)
            super().step()

    Clipping.__name__ = f"{optimizer.__name__}WithClipping"
    return Clipping
