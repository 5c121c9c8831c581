"""The proposals that the heads of an R-CNN student were trained on, recorded for the teacher's heads."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from kd2.distill import ConfigError, Proposals, Tap

# From the number of a box head and what sampled its proposals gave: boxes (R_n, 4) per image, and what losses may know.
Read = Callable[[int, Any], tuple[list[Tensor], Proposals]]
# Why a batch of a detector does not offer what a loss of predictions needs, see ``Step``.
REASONS = {
    "proposals": "the teacher's heads see the student's proposals when the box predictor of an R-CNN is tapped, as in "
    "roi=roi_heads.box_predictor@vector",
    "anchors": "the student has points, or no grid of anchors; gt_box needs none",
    "coding": "the scores of two detectors are compared anchor by anchor, theirs are not the same",
}


class SampledProposals:
    """What the heads of a student saw in its last training step.

    Args:
        heads: the student's ``roi_heads``.
        methods: those of its methods that sample or label the proposals of a box head, each once a head.
        mask_pooler: the module that is called with features and boxes of the mask head, if it is there.
        read: see ``Read``.

    Attributes:
        boxes: per box head and image (R_n, 4), in pixels of the student's image.
        proposals: per box head.
        masked: per image what the mask head's pooler was called with; empty without one.
    """

    def __init__(self, heads: nn.Module, methods: Sequence[str], mask_pooler: str, read: Read):
        self.heads, self.methods, self.mask_pooler, self.read = heads, methods, mask_pooler, read
        self.boxes: list[list[Tensor]] = []
        self.proposals: list[Proposals] = []
        self.masked: list[Any] = []

    def run(self, run_student: Callable[..., Any], student: nn.Module, batch: Any) -> Any:
        """``run_student(student, batch)`` while its heads are watched; nothing stays on the model."""
        self.boxes, self.proposals, self.masked = [], [], []
        with contextlib.ExitStack() as stack:
            for method in self.methods:
                stack.enter_context(_watched(self.heads, method, self._see))
            pooler = getattr(self.heads, self.mask_pooler, None)
            if pooler is not None:
                stack.enter_context(pooler.register_forward_pre_hook(self._see_masks))
            return run_student(student, batch)

    def _see(self, result: Any) -> None:
        boxes, proposals = self.read(len(self.boxes), result)
        self.boxes.append(boxes)
        self.proposals.append(proposals)

    def _see_masks(self, _pooler: nn.Module, inputs: tuple) -> None:
        self.masked = list(inputs[1])


def taps_heads(taps: Sequence[str]) -> bool:
    """Whether one of these taps lies in the heads that look at proposals."""
    return any(Tap.parse(text).path.startswith("roi_heads.") for text in taps)


def check_stages(taps: Sequence[str], key: str) -> None:
    """Raises ConfigError when the tapped box heads of a cascade are not its first ones in order: losses count them."""
    found: dict[str, list[str]] = {}
    for tap in map(Tap.parse, taps):
        path, _, stage = tap.path.rpartition(".")
        if path == "roi_heads.box_predictor" and stage.isdigit():
            found.setdefault(tap.alias, []).append(stage)
    for alias, stages in found.items():
        if stages != [str(i) for i in range(len(stages))]:
            raise ConfigError(
                f"{key}: {alias} taps the stages {', '.join(stages)} of roi_heads.box_predictor, expected 0, 1, ... in "
                "order, from the first on"
            )


@contextlib.contextmanager
def _watched(owner: nn.Module, method: str, see: Callable[[Any], None]) -> Iterator[None]:
    """Hand whatever ``owner.method`` returns to ``see`` inside the block."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def watching(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        see(result)
        return result

    setattr(owner, method, watching)
    try:
        yield
    finally:
        delattr(owner, method)
