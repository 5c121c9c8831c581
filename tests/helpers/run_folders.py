"""Folders as runs leave them, written by hand: config, scores, log, an empty checkpoint."""

import json
from pathlib import Path
from typing import Any

import yaml

from .lightning_runs import merged

PLAIN = {
    "FRAMEWORK": "detectron2",
    "MODEL": {"META_ARCHITECTURE": "OfATest", "RESNETS": {"DEPTH": 18}},
    "DATASETS": {"TEST": ["val"], "CUSTOM": {"val": {"JSON": "val.json", "IMAGES": "images"}}},
    "SOLVER": {"MAX_ITER": 40},
    "KD": {"LOSSES": {"imitation": {"WEIGHT": 0.0}}, "TEACHER": {"WEIGHTS": ""}},
}
DISTILLED = {"KD": {"LOSSES": {"imitation": {"WEIGHT": 1.0}}}}
TEACHER = {"MODEL": {"RESNETS": {"DEPTH": 50}}}


def write_run(
    folder: Path, seed: int, ap: float, changes: dict | None = None, *, finished: bool = True, seconds: float = 2.0
) -> str:
    """A run of 40 iterations with a log of Detectron2's form; every score is ``ap``. Returns the folder."""
    folder.mkdir(parents=True)
    config = merged(merged(PLAIN, {"SEED": seed, "OUTPUT_DIR": str(folder)}), changes or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    scores = {f"bbox/{name}": ap for name in ("AP", "AP50", "APs", "AP-cell")} | {"bbox/APl": float("nan")}
    lines: list[dict[str, Any]] = [{"iteration": i, "total_loss": 40 - i, "time": seconds} for i in (19, 39)]
    lines.append({"iteration": 40} | scores)
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        (folder / "results.json").write_text(json.dumps(scores | {"bbox/APl": None}))
        (folder / "model_final.pth").touch()
    return str(folder)
