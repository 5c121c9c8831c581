"""What weights of Detectron2's zoo were trained with that no shape shows."""

import logging
from operator import attrgetter

from fvcore.common.config import CfgNode

from kd2.config import assemble, defaults_of
from kd2.zoo.torchvision_configs import trained_with

logger = logging.getLogger(__name__)

_UNSEEN = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.STRIDE_IN_1X1")
_OF_PYRAMID = "MODEL.FPN.P6_FROM"


def tell_other_inputs(cfg: CfgNode, weights: str, key: str) -> None:
    """Warn where a model with weights of Detectron2's zoo would see other images, or have its strides elsewhere, than
    they were trained with.

    Args:
        cfg: the model's config.
        weights: what its key ``key`` gives; what is not of the zoo is passed over, see ``trained_with``.
    """
    name, trained = trained_with(weights)
    if not name:
        return
    theirs, pyramid = assemble(defaults_of("torchvision"), trained, name), "FPN" in trained["MODEL"]
    for setting in (*_UNSEEN, *([_OF_PYRAMID] if pyramid else [])):
        expected, own = (attrgetter(setting)(side) for side in (theirs, cfg))
        if expected != own:
            logger.warning("%s: %s was trained with %s %s, the config has %s", key, name, setting, expected, own)
