"""Several teachers: each teaches what its taps and its classes allow."""

from dataclasses import replace

import pytest
import torch

from kd2.distill import ConfigError, Probe, shared_channels
from kd2.engine.build import BuiltModel, Step, assemble, check_pair
from kd2.engine.further_teachers import FurtherTeacher

from ..helpers.toys import Toy, batch, batch_info

TAPS = ["fpn=backbone:p3,p4", "scores=head"]
BLOCKS = {"mimic": {"WEIGHT": 1.0}, "logits": {"TAP": "scores", "WEIGHT": 2.0}}


# Of one class a softmax over the classes says nothing, one over its cells does.
CELLS = BLOCKS | {"logits": BLOCKS["logits"] | {"TYPE": "channel_kd"}}


def built(width: int, names: tuple[str, ...], taps=TAPS) -> BuiltModel:
    model = Toy(width)
    model.head = torch.nn.Conv2d(width, len(names), 1)
    model.roi_heads = torch.nn.ModuleDict({"box_predictor": model.head})
    probe = Probe(lambda: model({"image": torch.zeros(1, 3, 32, 48)}), (32, 48))
    return BuiltModel(model, probe, taps, "KD.TAPS", {"things": ("KEY", len(names))}, names={"things": names})


def distiller(
    names: tuple[str, ...],
    taps=TAPS,
    weight: float = 1.0,
    blocks=BLOCKS,
    first: tuple[str, ...] = ("car", "person"),
    first_taps=TAPS,
    own: tuple[str, ...] = ("car", "person"),
    **options,
):
    """A student of ``own``, a teacher that knows ``first``, and one more teacher, which knows ``names``."""
    torch.manual_seed(0)
    student, teacher, more = built(4, own), built(6, first, first_taps), built(8, names, taps)
    check_pair(student, teacher, blocks, several=True)
    step = Step(
        run_teacher=lambda model, batch: model(batch), batch_info=batch_info, offers={"sizes", "boxes"}, **options
    )
    further = FurtherTeacher(more, step.run_teacher, "teacher2", "KD.TEACHERS[0]", weight)
    return assemble(student, teacher, step, blocks, further=[further]).train()


def test_each_teaches_every_loss_by_its_own_name():
    losses = distiller(("car", "person"))(batch())
    assert set(losses) == {"loss_score", "loss_mimic", "loss_logits", "loss_mimic_teacher2", "loss_logits_teacher2"}


def test_its_adapters_are_its_own():
    model = distiller(("car", "person"))
    sizes = {name: {tuple(p.shape) for p in loss.parameters()} for name, loss in model.losses.items()}
    assert sizes["mimic"] != sizes["mimic_teacher2"]


def test_a_weight_is_that_of_all_its_losses():
    one, half = (distiller(("car", "person"), weight=weight)(batch()) for weight in (1.0, 0.5))
    assert half["loss_logits"].item() == one["loss_logits"].item()
    for name in ("loss_mimic_teacher2", "loss_logits_teacher2"):
        assert half[name].item() == pytest.approx(0.5 * one[name].item())


def test_a_share_is_multiplied_by_the_teachers_weight():
    """Of a loss with a share it is no factor of the value, but of the gradient in the student's maps."""
    model = distiller(("car", "person"), weight=0.25, blocks={"mimic": {"SHARE": 2.0}})
    given = batch()
    own, maps = model.student_features(given)
    factors = {name: config.schedule.at(0) for name, config in model.configs.items()}
    found = model.distillation_losses(own, maps, model.teacher_features(given), model.placed_batch_info(given), factors)
    sent = [found["loss_mimic"], found["loss_mimic_teacher2"], own["loss_score"]]
    p4 = maps["fpn"][-1]  # into which no other level sends a gradient
    first, second, score = (torch.autograd.grad(x, p4, retain_graph=True)[0].norm() for x in sent)
    assert [(first / score).item(), (second / score).item()] == pytest.approx([2.0, 0.5], rel=1e-4)


def test_it_teaches_the_losses_of_its_taps_alone():
    losses = distiller(("car", "person"), taps=["fpn=backbone:p3,p4"])(batch())
    assert "loss_mimic_teacher2" in losses and "loss_logits_teacher2" not in losses


def test_scores_are_compared_for_the_classes_that_both_know_by_name():
    """A teacher of dogs, people and riders teaches the student's people and riders, whatever it says of dogs."""
    own = ("car", "person", "rider")
    model = distiller(("dog", "person", "rider"), first=own, own=own)
    before = model(batch())["loss_logits_teacher2"]
    with torch.no_grad():
        model.others[0].teacher.model.head.bias[0] += 5
        model.student.head.bias[0] += 5
    torch.testing.assert_close(model(batch())["loss_logits_teacher2"], before)
    with torch.no_grad():
        model.others[0].teacher.model.head.bias[1] += 5
    assert (model(batch())["loss_logits_teacher2"] - before).abs() > 0.1
    assert model.configs["logits_teacher2"].shared.student.tolist() == [1, 2]


def test_one_knows_cars_and_the_other_one_people():
    model = distiller(("person",), first=("car",), blocks=CELLS)
    losses = model(batch())
    assert {"loss_logits", "loss_logits_teacher2"} <= set(losses)
    shared = {name: model.configs[name].shared.student.tolist() for name in ("logits", "logits_teacher2")}
    assert shared == {"logits": [0], "logits_teacher2": [1]}


def test_a_softmax_over_the_one_class_that_both_know_is_refused_with_the_teacher():
    begin = (
        r"^KD.TEACHERS\[0\], of the classes that it shares with the student: KD.LOSSES.logits: the scores are of one"
    )
    with pytest.raises(ConfigError, match=begin):
        distiller(("person",))


def test_the_first_one_leaves_out_a_loss_whose_tap_another_one_has():
    losses = distiller(("car", "person"), first_taps=["fpn=backbone:p3,p4"])(batch())
    assert set(losses) == {"loss_score", "loss_mimic", "loss_mimic_teacher2", "loss_logits_teacher2"}


def test_a_tap_that_no_teacher_has_is_refused():
    with pytest.raises(ConfigError, match="^KD.LOSSES.logits.TAP is 'scores', no tap of the teacher has that alias"):
        distiller(("car",), taps=TAPS[:1], first_taps=TAPS[:1])


def test_a_first_one_of_no_loss_is_refused():
    with pytest.raises(ConfigError, match=r"^KD.TEACHER: none of its taps \(other\) is one of a loss of KD.LOSSES$"):
        distiller(("car", "person"), first_taps=["other=backbone:p3"])


def test_a_first_one_of_other_classes_teaches_no_boxes():
    blocks = {"dense_kd": {"TAP": "scores", "WEIGHT": 1.0}}
    with pytest.raises(ConfigError, match="^KD.TEACHER: KD.LOSSES.dense_kd compares more than scores; expected a teac"):
        distiller(("car",), TAPS[:1], blocks=blocks | {"mimic": {"WEIGHT": 1.0}}, first=("car",))


def test_pixels_of_a_panoptic_model_are_compared_by_the_names_of_its_pixels():
    names = {"things": ("car", "person"), "stuff": ("road", "sky")}
    counts = {"things": ("KEY", 2), "stuff": ("KEY", 2)}
    models = []
    for stuff in (("road", "sky"), ("sky", "road")):
        model = built(4, ("car", "person"), ["scores=sem_seg_head.predictor"])
        model.module.sem_seg_head = torch.nn.ModuleDict({"predictor": torch.nn.Conv2d(4, 2, 1)})
        model.module.head = model.module.sem_seg_head["predictor"]
        models.append(replace(model, classes=counts, names=names | {"stuff": stuff}))
    step = Step(run_teacher=lambda model, batch: model(batch), batch_info=batch_info, offers={"sizes", "boxes"})
    further = FurtherTeacher(models[1], step.run_teacher, "teacher2", "KD.TEACHERS[0]", 1.0)
    model = assemble(models[0], models[0], step, {"logits": BLOCKS["logits"]}, further=[further])
    assert model.configs["logits"].shared is None
    assert model.configs["logits_teacher2"].shared.teacher.tolist() == [1, 0]


def test_classes_of_several_anchors_are_found_in_each():
    assert shared_channels((["a", "b", "c"], 6), (["c", "a"], 4)) == ([0, 2, 3, 5], [1, 0, 3, 2])


def test_classes_without_a_name_in_common_are_refused():
    with pytest.raises(ConfigError, match=r"^KD.TEACHERS\[0\]: KD.LOSSES.logits: the teacher knows no class of the"):
        distiller(("dog", "cat"))


def test_a_background_beside_the_classes_is_refused():
    with pytest.raises(ConfigError, match="^the tap has 3 channels, expected a multiple of the 2 classes$"):
        shared_channels((["a", "b"], 3), (["a", "c"], 3))


def test_a_teacher_of_no_loss_is_refused():
    with pytest.raises(
        ConfigError, match=r"^KD.TEACHERS\[0\]: none of its taps \(other\) is one of a loss of KD.LOSSES$"
    ):
        distiller(("car", "person"), taps=["other=backbone:p3"])


def test_predictions_that_are_known_of_the_first_pair_alone_are_refused():
    with pytest.raises(
        ConfigError, match=r"^KD.TEACHERS\[0\]: KD.LOSSES.dense_kd needs coding of the batch, known of KD.TEACHER alone"
    ):
        distiller(("car", "person"), blocks={"dense_kd": {"TAP": "scores", "WEIGHT": 1.0}})


def test_heads_on_proposals_are_tapped_on_the_first_teacher_alone():
    with pytest.raises(ConfigError, match=r"^KD.TEACHERS\[0\]: its taps \(KD.TAPS\) have one in roi_heads"):
        distiller(("car", "person"), taps=[*TAPS, "roi=roi_heads.box_predictor"])


def test_all_of_them_run_behind_a_student_whose_proposals_the_first_one_needs():
    model, order = distiller(("car", "person"), student_first=True), []
    networks = {"student": model.student, "first": model.teacher.model, "second": model.others[0].teacher.model}
    for name, network in networks.items():
        network.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    model(batch())
    assert order == ["student", "first", "second"]


def test_none_of_it_is_in_the_students_state_or_trains():
    model = distiller(("dog", "person"), blocks=CELLS)
    assert not [name for name in model.state_dict() if "others" in name or "shared" in name]
    sum(model(batch()).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.others[0].teacher.model.parameters())


def test_all_are_let_go_when_every_loss_is_over():
    model = distiller(("car", "person"))
    model.configs = {
        name: replace(config, schedule=replace(config.schedule, stop=1)) for name, config in model.configs.items()
    }
    model(batch()), model(batch())
    assert model.teacher is None and model.others == []
