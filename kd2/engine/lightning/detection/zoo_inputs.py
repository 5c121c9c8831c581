"""What a detector of Detectron2's zoo was trained with and no shape of its weights shows."""

import logging
from operator import attrgetter

from fvcore.common.config import CfgNode

from kd2.config import assemble, defaults_of
from kd2.zoo.detectron2 import name_of, torchvision_config, torchvision_names

logger = logging.getLogger(__name__)

_UNSEEN = (
    "INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.STRIDE_IN_1X1", "MODEL.FPN.P6_FROM",
)  # fmt: skip


def tell_other_inputs(cfg: CfgNode, weights: str, key: str) -> None:
    """Warn where a detector with the weights of a zoo name, of its address or scheme would see other images, or have
    its strides elsewhere, than these weights were trained with.

    Args:
        cfg: the detector's config.
        weights: what its key ``key`` gives; other names and files are passed over.
    """
    name = name_of(weights)
    if name not in torchvision_names():
        return
    trained = assemble(defaults_of("torchvision"), torchvision_config(name, key), name)
    for setting in _UNSEEN:
        theirs, own = (attrgetter(setting)(side) for side in (trained, cfg))
        if theirs != own:
            logger.warning("%s: %s was trained with %s %s, the config has %s", key, name, setting, theirs, own)
