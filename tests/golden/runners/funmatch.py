"""Golden cases of function matching: the loss, mixup, views, a whole step, distances, the schedule."""

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from kd2.data.classification.cache import mean_prediction
from kd2.data.classification.crops import Crops, Size, View
from kd2.data.classification.mixup import Mix, normalized, unit_pixels
from kd2.data.classification.views import Views
from kd2.engine.lightning.solver import lr_factor
from kd2.losses.distances import DISTANCES
from kd2.losses.kl import divergences
from tests.golden.runners._case import Case
from tests.golden.runners._module import slope
from tests.golden.runners.logits import logit_loss


def divergence(case: Case) -> dict[str, Tensor]:
    """The loss and its gradient. The reference cuts small probabilities in its entropy, which has no gradient."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    loss, temperature = logit_loss(case, student, teacher), case.options["temperature"]
    exact = divergences(student, teacher, temperature)
    logs = (teacher / temperature).log_softmax(1)
    cut = logs.clamp(min=torch.tensor(case.options["target_clip_in_entropy"]).double().log())
    constant = temperature**2 * (logs.exp() * (cut - logs)).sum(1)
    found = {"out.exact_kl": exact, "out.per_example": exact + constant, "out.loss": loss + constant.mean()}
    return found | {"grad.student": slope(loss, student)}


def fixed_ensemble(case: Case) -> dict[str, Tensor]:
    """The mean prediction over views as a target."""
    student, target = case.leaf("in.student"), mean_prediction(case.arrays["in.teacher_view_logits"])
    loss = logit_loss(case, student, target)
    return {
        "out.target_prob": target.softmax(1),
        "out.pseudo_logits": target,
        "out.per_example": divergences(student, target, case.options["temperature"]),
        "out.loss": loss,
        "grad.student": slope(loss, student),
    }


def two_teachers(case: Case) -> dict[str, Tensor]:
    """Two losses added, and one loss on averaged logits."""
    student, teachers = case.leaf("in.student"), [case.arrays[f"in.teacher{i}"] for i in range(2)]
    added = sum(logit_loss(case, student, teacher) for teacher in teachers)
    averaged = logit_loss(case, student, torch.stack(teachers).mean(0))
    return {
        "out.loss_sum": added,
        "out.loss_average_logits": averaged,
        "grad.student": slope(added, student),
        "grad.student_average_logits": slope(averaged, student),
    }


def mixup(case: Case) -> dict[str, Tensor]:
    """Mixed images, and mixed labels where the case has some."""
    mix = _mix(case)
    found = {"out.image": mix(case.arrays["in.image"])}
    if "out.labels" in case.arrays:
        labels = case.arrays.get("in.labels_onehot")
        if labels is None:
            labels = F.one_hot(case.arrays["in.target"], case.arrays["out.labels"].shape[1]).double()
        found["out.labels"] = mix(labels)
    return found


def step(case: Case) -> dict[str, Tensor]:
    """One step: pixels mixed once, each network's own normalization, linear networks, loss and gradients."""
    weight = case.leaf("in.student_weight")
    pixels = _mix(case)(unit_pixels(case.arrays["in.image"].double()))
    inputs = {
        role: normalized(pixels, case.arrays[f"in.{role}_mean"], case.arrays[f"in.{role}_std"])
        for role in ("student", "teacher")
    }
    student = inputs["student"].flatten(1) @ weight.mT
    teacher = inputs["teacher"].flatten(1) @ case.arrays["in.teacher_weight"].mT
    loss = logit_loss(case, student, teacher)
    slopes = torch.autograd.grad(loss, [student, weight])
    return {
        "out.mixed_pixels": pixels,
        "out.student_input": inputs["student"],
        "out.teacher_input": inputs["teacher"],
        "out.student_logits": student,
        "out.teacher_logits": teacher,
        "out.loss": loss,
        "grad.student": slopes[0],
        "grad.student_weight": slopes[1],
    }


class StoredViews(Views):
    """Views whose random draws are those of a case."""

    case: Case

    def student(self, image: Size, epoch: int, index: int) -> View:
        return self._stored("student", index)

    def teacher(self, image: Size, epoch: int, index: int) -> View:
        return self._stored("teacher", index) if self.mode.relation == "ind" else super().teacher(image, epoch, index)

    def _stored(self, role: str, index: int) -> View:
        top, left = self.case.arrays[f"in.box_{role}"][index].tolist()
        return View((top, left, self.size, self.size), bool(self.case.arrays[f"in.flip_{role}"][index]))


def views(case: Case) -> dict[str, Tensor]:
    """What each network sees under four modes."""
    images, size = case.arrays["in.image"], case.options["crop"]
    crops, found = Crops(scale=images.shape[2] / size), {}
    for mode, name in (
        ("fix/cc", "fix_cc"),
        ("ind/rc", "ind_rc"),
        ("same/rc", "same_rc"),
        ("same/rc+mixup", "funmatch"),
    ):
        seen = StoredViews(mode, size, size, 0, crops)
        seen.case = case
        for role, batch in zip(
            ("student", "teacher"), zip(*(seen.pixels(image, 0, i) for i, image in enumerate(images)))
        ):
            pixels = torch.stack(batch)
            found[f"out.{name}_{role}"] = _mix(case)(unit_pixels(pixels.double())) if seen.mode.mixup else pixels
    return found


def distances(case: Case) -> dict[str, Tensor]:
    """Every distance of each example."""
    student, teacher = case.arrays["in.student"], case.arrays["in.teacher"]
    return {f"out.{name}": distance(student, teacher) for name, distance in DISTANCES.items()}


def cosine_schedule(case: Case) -> dict[str, Tensor]:
    """The learning rate's factor at some steps, under the solver keys that give it."""
    steps = case.options["total_steps"]
    solver = {
        "LR_SCHEDULER_NAME": "WarmupCosineLR",
        "MAX_ITER": steps,
        "WARMUP_ITERS": case.options["warmup_steps"],
        "WARMUP_FACTOR": 0.0,
        "RESCALE_INTERVAL": True,
        "BASE_LR": case.options["base"],
        "BASE_LR_END": 0.0,
        "STEPS": [],
    }
    factor = lr_factor(CfgNode({"SOLVER": solver}))
    values = [factor(step / steps) for step in case.arrays["in.step"].tolist()]
    return {"out.multiplier": torch.tensor(values, dtype=torch.float64)}


def _mix(case: Case) -> Mix:
    return Mix(case.arrays["in.coefficient"].item(), case.arrays["in.permutation"])


CASES = {
    "funmatch_kl": divergence,
    "funmatch_fixed_ensemble": fixed_ensemble,
    "funmatch_two_teachers": two_teachers,
    "mixup": mixup,
    "funmatch_step": step,
    "funmatch_views": views,
    "funmatch_distances": distances,
    "cosine_schedule": cosine_schedule,
}
