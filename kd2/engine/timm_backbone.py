"""timm's networks as backbones: building, strides, and maps in one layout, for every framework.

Letters: N images, C channels, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn

from kd2.distill import ConfigError, nearest


def is_model(name: str) -> bool:
    """Whether timm itself has a network ``name``, ``NAME.TAG`` included: no file and no address of a hub."""
    return not {"/", ":"} & set(name) and timm.is_model(name)


def pretrained(name: str, key: str) -> dict[str, Any]:
    """What timm says of the weights of a network, ``NAME.TAG``: where they lie, the input that they expect.

    Raises:
        ConfigError: an unknown network, or one without weights at the Hugging Face hub; names ``key``.
    """
    try:
        found = timm.get_pretrained_cfg(name).to_dict() if is_model(name) else {}
    except RuntimeError:  # no such tag
        found = {}
    if not found.get("hf_hub_id"):
        raise ConfigError(f"{key}: timm has no weights of {name!r}; {nearest(name, timm.list_models(pretrained=True))}")
    return found


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm as a config names it.

    Attributes:
        name: of timm's models.
        args: more arguments for ``timm.create_model``, such as ``{"output_stride": 8}``.
        pretrained: whether it starts from timm's ImageNet weights, which needs network access.
        channels: of the images.
        name_key, args_key: the config keys that gave name and args, for errors.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    channels: int = 3
    name_key: str = "MODEL.BACKBONE.NAME"
    args_key: str = "MODEL.BACKBONE.ARGS"

    def build(self, **options: Any) -> nn.Module:
        """The network that gives its maps, one a stride; ``feature_maps`` reads them.

        Args:
            options: arguments that the code decides, such as ``out_indices``.

        Raises:
            ConfigError: an unknown name, or arguments that the network does not take.
        """
        if not is_model(self.name):
            raise ConfigError(f"{self.name_key} is {self.name!r}; {nearest(self.name, timm.list_models())}")
        common = {"features_only": True, "pretrained": self.pretrained, "in_chans": self.channels}
        try:
            return timm.create_model(self.name, **common, **options, **self.args)
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            if not self.args:
                raise
            reason = str(error) or "a value that it does not take"
            raise ConfigError(f"{self.args_key} {dict(self.args)} does not suit {self.name!r}: {reason}") from None

    def strides(self) -> list[int]:
        """Pixels a cell of all maps that the network has. Draws nothing from the global generator, loads no weights."""
        with torch.random.fork_rng(devices=[]):
            return strides(replace(self, pretrained=False).build())


def strides(network: nn.Module) -> list[int]:
    """Pixels a cell of each map of a built network."""
    return network.feature_info.reduction()


def channels(network: nn.Module) -> list[int]:
    """Channels of each map of a built network."""
    return network.feature_info.channels()


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps (N, C, H / stride, W / stride) of images (N, 3, H, W); some networks compute them as (N, H, W, C)."""
    maps = network(images)
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return [x.permute(0, 3, 1, 2) for x in maps] if channels_last else maps
