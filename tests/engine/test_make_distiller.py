"""The front door in Python: any two networks, a loop of one's own."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd2 import make_distiller
from kd2.distill import BatchInfo, ConfigError

from ..helpers.ranks import in_two_ranks

Batch = tuple[Tensor, Tensor]


def network(width: int) -> nn.Sequential:
    """A classifier of 5 classes; module ``1`` gives a map at stride 4."""
    stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU())
    stage = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
    return nn.Sequential(stem, stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def run_student(student: nn.Module, batch: Batch) -> dict[str, Tensor]:
    images, labels = batch
    return {"loss_cls": F.cross_entropy(student(images), labels)}


def run_teacher(teacher: nn.Module, batch: Batch) -> None:
    teacher(batch[0])


def labels_of(batch: Batch) -> BatchInfo:
    size = (batch[0].shape[2], batch[0].shape[3])
    return BatchInfo([size] * len(batch[0]), size, labels=batch[1])


def batch(seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 32, 32, generator=draw), torch.randint(5, (4,), generator=draw)


MGD = {"mgd": {"TAP": "map", "WEIGHT": 1e-3}}


def distiller(losses=MGD, student=None, teacher=None, **options):
    torch.manual_seed(0)
    options = {
        "taps": ["map=1"],
        "run_student": run_student,
        "run_teacher": run_teacher,
        "image_size": (32, 32),
    } | options
    return make_distiller(student or network(4), teacher or network(6), losses=losses, **options)


def test_training_returns_own_and_distillation_losses_ready_to_be_summed():
    model = distiller().train()
    losses = model(batch())
    assert list(losses) == ["loss_cls", "loss_mgd"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_few_steps_bring_the_losses_down():
    model = distiller().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    totals = []
    for _ in range(20):
        total = sum(model(batch()).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


def test_student_and_adapters_can_be_had():
    student = network(4)
    model = distiller(student=student)
    assert model.student is student
    assert list(model.adapters) == ["mgd"] and len(list(model.adapters.parameters())) > 0


def test_building_changes_neither_student_nor_random_state():
    student = network(4)
    before, state = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    make_distiller(
        student,
        network(6),
        taps=["map=1"],
        losses=MGD,
        run_student=run_student,
        run_teacher=run_teacher,
        example_batch=batch(),
        image_size=(32, 32),
    )
    torch.set_rng_state(state)
    network(6)
    assert all(torch.equal(x, student.state_dict()[name]) for name, x in before.items())


def test_keys_of_a_block_may_be_lower_case():
    model = distiller({"mgd": {"tap": "map", "weight": 1e-3, "ratio": 0.5}})
    assert model.losses["mgd"].ratio == 0.5 and model.configs["mgd"].schedule.weight == 1e-3


def test_taps_may_differ_on_both_sides():
    model = distiller(taps={"student": ["map=0"], "teacher": ["map=0.0"]})
    assert model.student_taps.specs["map"][0].stride == model.teacher.taps.specs["map"][0].stride == (2, 2)


def test_an_unknown_module_names_the_side():
    with pytest.raises(ConfigError, match=r"taps\['student'\]: the model has no module 'stage'"):
        distiller(taps=["map=stage"])


def test_a_loss_on_labels_without_batch_info_is_refused_when_built():
    with pytest.raises(ConfigError, match="KD.LOSSES.dkd needs labels of the batch, this task offers none"):
        distiller({"dkd": {"TAP": "map"}}, taps=["map=@vector"])


def test_a_loss_on_labels_with_batch_info_trains():
    model = distiller({"dkd": {"TAP": "logits"}}, taps=["logits=@vector"], batch_info=labels_of).train()
    assert set(model(batch())) == {"loss_cls", "loss_dkd_target", "loss_dkd_others"}


def test_a_name_of_the_students_own_is_refused_when_an_example_shows_it():
    with pytest.raises(ConfigError, match="loss_cls cannot be in the log twice"):
        distiller({"cls": {"TYPE": "mgd", "TAP": "map"}}, example_batch=batch())


def test_a_student_without_losses_of_its_own_learns_from_the_teacher_alone():
    model = distiller(run_student=lambda student, batch: student(batch[0]) is None or {}).train()
    assert list(model(batch())) == ["loss_mgd"]


def test_in_eval_mode_it_is_the_student():
    model, images = distiller().eval(), batch()[0]
    assert torch.equal(model(images), model.student(images))


def test_under_autocast_losses_are_float32():
    model = distiller().train()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch())["loss_mgd"].dtype == torch.float32


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("in_place", [True, False], ids=["model.compile()", "torch.compile(model)"])
def test_compiled_networks_give_the_same_losses(side, in_place):
    expected = distiller().train()(batch())
    torch.manual_seed(0)
    models = {"student": network(4), "teacher": network(6)}
    for name in models if side == "both" else [side]:
        if in_place:
            models[name].compile(backend="aot_eager")
        else:
            models[name] = torch.compile(models[name], backend="aot_eager")
    model = make_distiller(
        *models.values(),
        taps=["map=1"],
        losses=MGD,
        run_student=run_student,
        run_teacher=run_teacher,
        image_size=(32, 32),
    ).train()
    for _ in range(2):
        model.iteration = 0
        found = model(batch())
        assert all(torch.allclose(found[name], expected[name], rtol=1e-4) for name in expected)


@pytest.mark.parametrize("losses", [MGD, {"mgd": {"TAP": "map"}}], ids=["weight", "share"])
def test_the_compiled_distiller_gives_the_same_losses(losses):
    plain, model = distiller(losses).train(), distiller(losses).train()
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(2):
        found, expected = compiled(batch(step)), plain(batch(step))
        assert all(torch.allclose(found[name], expected[name], rtol=1e-4) for name in expected)


@pytest.mark.parametrize("loss", ["mgd", "mimic"])
def test_a_loss_by_its_name_alone_trains_at_the_rate_of_the_student(loss):
    torch.manual_seed(0)
    model = distiller({loss: {"TAP": "map"}}, network(16), network(32)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    values = []
    for step in range(30):
        losses = model(batch(step))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        model.clip_adapters()
        norm = torch.stack([p.grad.norm() for p in model.adapters.parameters()]).norm()
        assert norm <= 1.0 + 1e-4
        optimizer.step()
        values.append(losses[f"loss_{loss}"].item())
    assert values[-1] < 0.9 * values[0] and all(p.isfinite().all() for p in model.parameters())


def test_adapters_are_clipped_apart_from_the_student():
    model = distiller({"mgd": {"TAP": "map"}}).train()
    sum(model(batch()).values()).backward()
    before = {name: p.grad.clone() for name, p in model.student.named_parameters()}
    model.clip_adapters()
    assert all(torch.equal(p.grad, before[name]) for name, p in model.student.named_parameters())


def _work(rank: int) -> dict[str, torch.Tensor]:
    model = DistributedDataParallel(distiller({"mgd": MGD["mgd"], "hint": {"TAP": "map", "WEIGHT": 1e-3}}).train())
    for step in range(2):
        model.zero_grad()
        sum(model(batch(2 * step + rank)).values()).backward()
    return {name: p.grad for name, p in model.module.named_parameters()}


def test_two_processes_have_equal_gradients_of_student_and_adapters(tmp_path):
    first, second = in_two_ranks(_work, tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_torchvision_detectors_with_boxes():
    detection = pytest.importorskip("torchvision.models.detection", reason="needs torchvision")
    options = {"weights": None, "weights_backbone": None, "num_classes": 3, "min_size": 64, "max_size": 64}
    make = detection.retinanet_resnet50_fpn
    images = [torch.rand(3, 64, 64)] * 2
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
    model = make_distiller(
        make(**options),
        make(**options),
        taps=["fpn=backbone:0,1,2"],
        losses={"imitation": {"TAP": "fpn", "MODE": "gt_box"}},
        run_student=lambda student, found: student(*found),
        run_teacher=lambda teacher, found: teacher(found[0]),
        batch_info=lambda found: BatchInfo([(64, 64)] * 2, (64, 64), [t["boxes"] for t in found[1]]),
        image_size=(64, 64),
    ).train()
    losses = model((images, [target] * 2))
    assert set(losses) == {"classification", "bbox_regression", "loss_imitation"}
    assert losses["loss_imitation"] > 0


def test_networks_of_timm():
    timm = pytest.importorskip("timm", reason="needs timm")
    model = make_distiller(
        timm.create_model("test_resnet", num_classes=5),
        timm.create_model("test_resnet", num_classes=5),
        taps=["last=layer4", "logits=@vector"],
        losses={"mgd": {"TAP": "last", "WEIGHT": 1e-4}, "logits": {"TAP": "logits", "TEMPERATURE": 2.0}},
        run_student=run_student,
        run_teacher=run_teacher,
        image_size=(64, 64),
    ).train()
    assert set(model((torch.randn(2, 3, 64, 64), torch.tensor([0, 4])))) == {"loss_cls", "loss_mgd", "loss_logits"}


class Transformers(nn.Module):
    """A model in the manner of Hugging Face: keyword output of tuples, tokens behind a class token."""

    def __init__(self, width: int):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.layer = nn.TransformerEncoderLayer(width, 2, width, batch_first=True)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        tokens = self.patch(pixel_values).flatten(2).transpose(1, 2)
        hidden = self.layer(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
        return {"last_hidden_state": hidden, "logits": hidden[:, 0]}


def test_models_that_return_a_dict_are_tapped_as_a_whole():
    model = make_distiller(
        Transformers(8),
        Transformers(12),
        taps=["tokens=:last_hidden_state@tokens+1"],
        losses={"mgd": {"TAP": "tokens"}},
        run_student=lambda student, images: {"loss_own": student(images)["logits"].square().mean()},
        image_size=(32, 32),
    ).train()
    assert set(model(torch.randn(2, 3, 32, 32))) == {"loss_own", "loss_mgd"}


def test_the_ten_lines_of_the_readme_run():
    timm = pytest.importorskip("timm", reason="the networks of this test are timm's")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = readme.split("<!-- front door -->\n```python\n")[1].split("```")[0]
    torch.manual_seed(0)
    names = {
        "torch": torch,
        "F": F,
        "student": timm.create_model("test_resnet", num_classes=5),
        "teacher": timm.create_model("test_resnet", num_classes=5),
        "loader": [(torch.randn(2, 3, 64, 64), torch.tensor([0, 4]))] * 2,
    }
    before = names["student"].conv1[0].weight.clone()
    exec(code, names)
    assert names["distiller"].iteration == 2 and not torch.equal(before, names["student"].conv1[0].weight)


def test_a_weight_on_maps_without_a_gradient_is_refused():
    student = network(4)
    student[:2].requires_grad_(False)
    model = distiller({"hint": {"TAP": "map", "WEIGHT": 1.0}}, student=student).train()
    with pytest.raises(ConfigError, match="^KD.LOSSES.hint: the student's maps have no gradient: .* is frozen"):
        model(batch())


def test_a_share_behind_a_reentrant_checkpoint_is_told():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.rest = nn.Conv2d(3, 4, 3, 2, 1), nn.Sequential(nn.Flatten(), nn.LazyLinear(5))

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.rest, self.body(x), use_reentrant=True)

    model = distiller(
        {"hint": {"TAP": "map"}}, Checkpointed(), taps={"student": ["map=body"], "teacher": ["map=0"]}
    ).train()
    with pytest.raises(ConfigError, match="use_reentrant=True forbids; expected False$"):
        model(batch())


def test_a_key_in_large_and_small_letters_is_refused():
    with pytest.raises(ConfigError, match=r"^losses\['mgd'\] has the keys tap, share, SHARE, expected each once"):
        distiller({"mgd": {"tap": "map", "share": 1.0, "SHARE": 2.0}})


class ClassToken(nn.Module):
    """Patches of 8 x 8 pixels behind a class token; the own loss reads the token, and the patches by a thousandth."""

    def __init__(self, width: int):
        super().__init__()
        self.patches, self.tokens = nn.Conv2d(3, width, 8, 8), nn.Identity()
        self.head = nn.Linear(width, 5)

    def forward(self, images):
        patches = self.patches(images).flatten(2).mT
        self.out = self.tokens(torch.cat([patches.mean(1, keepdim=True).detach() + patches[:, :1], patches], 1))
        return self.head(self.out[:, 0] + 1e-3 * self.out[:, 1:].mean(1))


def test_a_share_of_tokens_is_of_the_maps_own_gradient_not_of_the_class_token():
    torch.manual_seed(0)
    student, teacher = ClassToken(4), ClassToken(6)
    losses = {"pkd": {"TAP": "map", "SHARE": 1.0}}
    model = distiller(losses, student, teacher, taps=["map=tokens@tokens+1/4x4"]).train()
    found = model(batch())
    own, sent = (torch.autograd.grad(found[x], student.out, retain_graph=True)[0] for x in ("loss_cls", "loss_pkd"))
    assert own[:, 0].norm() > 100 * own[:, 1:].norm()
    torch.testing.assert_close(sent[:, 1:].norm(), own[:, 1:].norm())
