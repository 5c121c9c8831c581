"""Files of proposals, pickles that Detectron2 loads with a data set: read without running code."""

import contextlib
import pickle
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import build

from kd2.data.plain_pickle import in_place_of_pickle
from kd2.distill import ConfigError, DataError
from kd2.engine.weights.fetch import local_file


@contextlib.contextmanager
def plain_proposals(cfg: CfgNode, split: str) -> Iterator[CfgNode]:
    """Inside the block Detectron2 reads ``DATASETS.PROPOSAL_FILES_*`` as plain arrays and containers.

    Args:
        split: TRAIN or TEST.

    Yields:
        ``cfg``; with ``MODEL.LOAD_PROPOSALS`` a copy whose addresses of proposals are files on this machine.

    Raises:
        ConfigError: a file that is missing, damaged, holds other objects or lacks an image; not a file a data set.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        yield cfg
        return
    key = f"DATASETS.PROPOSAL_FILES_{split}"
    files, sets = cfg.DATASETS[f"PROPOSAL_FILES_{split}"], cfg.DATASETS[split]
    if len(files) != len(sets):
        raise ConfigError(f"{key} has {len(files)} files, MODEL.LOAD_PROPOSALS needs one a data set: {len(sets)}")
    local = cfg.clone()
    local.defrost()
    local.DATASETS[f"PROPOSAL_FILES_{split}"] = tuple(local_file(file, key) for file in files)
    try:
        with in_place_of_pickle(build):
            yield local
    except (ConfigError, DataError):
        raise
    except (pickle.UnpicklingError, LookupError, TypeError, AttributeError, ValueError) as error:
        text = f"{type(error).__name__} {error}"
        raise ConfigError(f"{key}: {', '.join(files)} cannot be used as proposals ({text})") from None
