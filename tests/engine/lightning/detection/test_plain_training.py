"""Without an active loss, training is plain training of the student, bit for bit."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from torch import nn

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers.tiny_tasks import plain_faster_rcnn, plain_retinanet

STEPS = 20
LINEAR_WARMUP, DROP = 4, 12
RESNET = {
    "MODEL": {"BACKBONE": {"NAME": "resnet18"}, "RETINANET": {"NUM_CONVS": 4}},
    "SOLVER": {
        "MAX_ITER": STEPS,
        "WARMUP_ITERS": LINEAR_WARMUP,
        "WARMUP_FACTOR": 0.25,
        "STEPS": [DROP],
        "BASE_LR": 0.0078125,
        "GAMMA": 0.5,
        "CHECKPOINT_PERIOD": 1000,
    },
}


def learning_rate(step: int) -> float:
    """Exact in binary, so that no rounding can differ."""
    if step < LINEAR_WARMUP:
        return 0.0078125 * (0.25 + 0.75 * step / LINEAR_WARMUP)
    return 0.0078125 * (0.5 if step >= DROP else 1.0)


def trained_by_hand(config: str, model: nn.Module, first_label: int) -> dict[str, torch.Tensor]:
    """The weights after a loop that anybody would write, from the same initial weights and batches."""
    experiment = runs.experiment(config)
    model.load_state_dict(experiment.build_student().module.state_dict())
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    others = [p for p in model.parameters() if all(p is not q for q in norms)]
    optimizer = torch.optim.SGD([{"params": others, "weight_decay": 1e-4}, {"params": norms}], lr=0, momentum=0.9)
    torch.manual_seed(experiment.cfg.SEED)
    batches = iter(experiment.train_loader(experiment.load_data("TRAIN"), start=0, rank=0, ranks=1))
    for step in range(STEPS):
        batch = next(batches)
        targets = [{"boxes": t["boxes"], "labels": t["labels"] + first_label} for t in batch.targets]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        sum(model([x / 255 for x in batch.images], targets).values()).backward()
        optimizer.step()
    return model.state_dict()


CASES = {"RetinaNet": (plain_retinanet, 0), "FasterRCNN": (plain_faster_rcnn, 1)}


@pytest.fixture(scope="module", params=list(CASES))
def by_hand(request, data, tmp_path_factory):
    """Changes to the config for one architecture, and the weights that the hand-written loop gives."""
    make, first_label = CASES[request.param]
    changes = runs.merged(RESNET, {"MODEL": {"META_ARCHITECTURE": request.param}})
    config = tiny.write_config(tmp_path_factory.mktemp("hand"), data, changes)
    return changes, trained_by_hand(config, make().train(), first_label)


def test_without_losses_20_iterations_equal_a_plain_loop(by_hand, data, tmp_path):
    changes, expected = by_hand
    runs.train(tiny.write_config(tmp_path, data, changes))
    assert runs.same(runs.weights(tmp_path / "out"), expected) == []


def test_with_weight_0_20_iterations_equal_a_plain_loop(by_hand, data, teacher, tmp_path):
    changes, expected = by_hand
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher, changes))
    runs.train(config, "KD.LOSSES.imitation.WEIGHT", "0")
    assert runs.same(runs.weights(tmp_path / "out"), expected) == []


def test_with_a_weight_they_do_not(data, teacher, tmp_path):
    plain = tiny.write_config(tmp_path, data, {"OUTPUT_DIR": str(tmp_path / "plain")})
    distilled = tiny.write_config(tmp_path, data, tiny.distilled(teacher), "distilled")
    runs.train(plain), runs.train(distilled)
    a, b = runs.weights(tmp_path / "plain"), runs.weights(tmp_path / "out")
    assert "head.classification_head.cls_logits.weight" in runs.same(a, b)


@pytest.mark.parametrize("name", ["loss_classification", "loss_bbox_regression"])
def test_the_first_losses_of_a_distilled_run_are_those_of_a_plain_run(data, teacher, tmp_path, name):
    """Same initial weights, same batch: the teacher and the adapters draw nothing from the student's random stream."""
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    losses = []
    for weight in ("0", "1"):
        options = ["KD.LOSSES.imitation.WEIGHT", weight]
        losses.append(runs.distiller(config, *options)(runs.first_batch(config, *options))[name])
    assert torch.equal(*losses)


def test_before_its_start_a_loss_leaves_the_student_alone(data, teacher, tmp_path):
    criterion = {"imitation": {"START_ITER": 100}}
    late = tiny.distilled(teacher, {"KD": {"LOSSES": criterion}, "OUTPUT_DIR": str(tmp_path / "late")})
    runs.train(tiny.write_config(tmp_path, data)), runs.train(tiny.write_config(tmp_path, data, late, "late"))
    a, b = runs.weights(tmp_path / "out"), runs.weights(tmp_path / "late")
    assert [name for name in runs.same(a, b) if not name.startswith("adapters")] == []
