"""Folders of finished runs without their training: the config, the drawn weights and the class names."""

import os

import torch

from kd2 import engine
from kd2.runs import folder
from kd2.runs.files import save_atomically


def write_run(config: str, *options: str) -> str:
    """The folder that ``tools/train_net.py --config-file config *options`` would leave, as far as files are read."""
    experiment = engine.for_evaluation(config, list(options))
    data = experiment.load_data("TEST")
    experiment.check([], data)
    torch.manual_seed(0)
    student = experiment.build_student().module
    output = experiment.cfg.OUTPUT_DIR
    os.makedirs(output)
    folder.begin(output, experiment.config_text(), overwrite=False)
    content = {"model": student.state_dict(), "kd2": {"classes": experiment.class_names(data)}}
    save_atomically(content, os.path.join(output, folder.FINAL))
    return output
