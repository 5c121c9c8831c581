"""Golden cases of DIST: classifiers, pixels, proposals and anchors."""

from torch import Tensor

from kd2.distill import BatchInfo, FeatureSpec
from kd2.losses.dist import Dist
from tests.golden.runners._case import Case
from tests.golden.runners._module import slope


def relations(case: Case) -> dict[str, Tensor]:
    """The loss, its two parts, the student's gradient."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    maps = [x if x.dim() == 4 else x[:, :, None, None] for x in (student, teacher)]
    spec = [FeatureSpec(student.shape[1], tuple(maps[0].shape[2:]), (1.0, 1.0))]
    options = {name: case.options[name] for name in ("temperature", "activation")}
    loss_module = Dist(spec, spec, beta=case.options["beta_inter"], gamma=case.options["gamma_intra"], **options)
    parts = loss_module([maps[0]], [maps[1]], BatchInfo([], (0, 0)))
    loss = case.options["loss_weight"] * sum(parts.values())
    found = {f"out.{name}": part for name, part in parts.items()}
    return found | {"out.loss": loss, "grad.student": slope(loss, student)}


CASES = {"dist": relations}
