"""The sampler of ``DATALOADER.SAMPLER_TRAIN``."""

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler
from torch.utils.data import Sampler

from kd2.distill import ConfigError, nearest


def build_sampler(cfg: CfgNode, sets: dict[str, list[dict]]) -> Sampler:
    """The sampler of ``DATALOADER.SAMPLER_TRAIN``, seeded with ``SEED``."""
    count = sum(map(len, sets.values()))
    samplers = {
        "TrainingSampler": lambda: TrainingSampler(count, seed=cfg.SEED),
        "RandomSubsetTrainingSampler": lambda: RandomSubsetTrainingSampler(
            count, cfg.DATALOADER.RANDOM_SUBSET_RATIO, seed_shuffle=cfg.SEED, seed_subset=cfg.SEED
        ),
        "RepeatFactorTrainingSampler": lambda: RepeatFactorTrainingSampler(
            _category_factors(cfg, [record for part in sets.values() for record in part]), seed=cfg.SEED
        ),
        "WeightedTrainingSampler": lambda: RepeatFactorTrainingSampler(_set_factors(cfg, sets), seed=cfg.SEED),
        "WeightedCategoryTrainingSampler": lambda: RepeatFactorTrainingSampler(_both_factors(cfg, sets), seed=cfg.SEED),
    }
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in samplers:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; {nearest(name, samplers)}")
    return samplers[name]()


def _category_factors(cfg: CfgNode, records: list[dict]) -> torch.Tensor:
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    return factors(records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT)


def _set_factors(cfg: CfgNode, sets: dict[str, list[dict]]) -> torch.Tensor:
    factors = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    for name in factors.keys() - sets.keys():
        raise ConfigError(f"DATASETS.TRAIN_REPEAT_FACTOR names {name!r}; {nearest(name, sets)}")
    return torch.cat([torch.full((len(part),), float(factors.get(name, 1))) for name, part in sets.items()])


def _both_factors(cfg: CfgNode, sets: dict[str, list[dict]]) -> torch.Tensor:
    factors = torch.cat([_category_factors(cfg, part) for part in sets.values()]) * _set_factors(cfg, sets)
    return factors / factors.min()
