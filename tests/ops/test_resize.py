"""Maps of different sizes: refused, or one side is interpolated on request; for every loss that compares whole maps."""

import pytest
import torch
import torch.nn.functional as F

from kd2.distill import ConfigError
from kd2.losses.features import FeatureDistance
from kd2.losses.fgd import Fgd
from kd2.losses.kl import KLDivergence
from kd2.losses.mgd import Mgd
from kd2.losses.pairwise import Pairwise
from kd2.losses.tat import Tat
from kd2.ops.resize import same_size

from ..helpers.whole import batch_info, random_map, spec, value

LOSSES = pytest.mark.parametrize("kind", [Mgd, FeatureDistance, Fgd, Tat, KLDivergence, Pairwise])
FINE, COARSE = spec(6, (8, 12), 8), spec(6, (4, 6), 16)


@LOSSES
def test_other_strides_are_refused_by_name(kind):
    text = (
        r"level 0 is a map of \(8, 12\) cells at stride \(8, 8\) in the student and of \(4, 6\) at stride \(16, 16\) "
        "in the teacher; .* RESIZE: student or RESIZE: teacher"
    )
    with pytest.raises(ConfigError, match=text):
        kind(FINE, COARSE)


@LOSSES
@pytest.mark.parametrize("resize", ["student", "teacher"])
def test_one_side_is_resized_on_request(kind, resize):
    torch.manual_seed(0)
    student, teacher = random_map(2, 6, 8, 12), random_map(2, 6, 4, 6, seed=1)
    loss = kind(FINE, COARSE, resize=resize)
    state = torch.get_rng_state()
    found = value(loss, student, teacher)
    if resize == "student":
        student = F.interpolate(student, (4, 6), mode="bilinear", align_corners=False)
    else:
        teacher = F.interpolate(teacher, (8, 12), mode="bilinear", align_corners=False)
    torch.set_rng_state(state)
    torch.testing.assert_close(found, value(loss, student, teacher))


@LOSSES
def test_sizes_that_differ_in_a_batch_are_refused(kind):
    with pytest.raises(ConfigError, match=r"the student's map has \(8, 12\) cells, the teacher's \(8, 11\)"):
        kind(FINE, FINE)([random_map(2, 6, 8, 12)], [random_map(2, 6, 8, 11)], batch_info())


def test_equal_sizes_are_left_alone():
    a, b = random_map(1, 2, 3, 4), random_map(1, 5, 3, 4)
    assert same_size(a, b, "student") == (a, b)
