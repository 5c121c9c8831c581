"""The keys of FRAMEWORK timm alone: classification."""

from collections.abc import Sequence
from typing import Annotated, Any

from kd2.config.keys.key import Key
from kd2.config.keys.shared import EVERY, LIGHTNING
from kd2.data.classification.views import MODES
from kd2.distill import values as v

_AtLeastOne = Annotated[float, v.Range(low=1)]

KEYS = (
    *EVERY,
    *LIGHTNING,
    #: Any model of timm.list_models(), or kd2_resnet20, 32, 44, 56, 110: the networks of He et al. for CIFAR.
    Key("MODEL.NAME", "resnet18", str),
    #: Keyword arguments for timm.create_model, such as {drop_path_rate: 0.1}.
    Key("MODEL.ARGS", {}, dict),
    #: Classes of images.
    Key("MODEL.NUM_CLASSES", 1000, v.Count),
    #: Class names in the order of the outputs. Data sets meet them by name; the other network must have the same order.
    #: Empty: those that the checkpoint holds, otherwise whatever the data say.
    Key("MODEL.CLASSES", [], v.Texts),
    #: Start from timm's own weights (needs network access), before WEIGHTS.
    Key("MODEL.PRETRAINED", False, bool),
    #: Of the student's own loss.
    Key("MODEL.LABEL_SMOOTHING", 0.0, v.BelowOne),
    #: Side of the network's square input in pixels. A teacher's own config gives the teacher's.
    Key("INPUT.SIZE", 224, v.Count),
    #: Evaluation brings the shorter side to this many times SIZE and takes the center; 1.0 takes a square image whole.
    Key("INPUT.TEST_SCALE", 256 / 224, _AtLeastOne),
    #: In epochs (passes over the images) when above 0, in place of MAX_ITER. Steps matter: a thousand epochs of a
    #: thousand images are 2000 iterations of 512.
    Key("SOLVER.MAX_EPOCHS", 0.0, v.NonNegative),
    #: In place of STEPS.
    Key("SOLVER.STEPS_EPOCHS", [], Sequence[v.NonNegative]),
    #: In place of WARMUP_ITERS.
    Key("SOLVER.WARMUP_EPOCHS", 0.0, v.NonNegative),
    #: In place of CHECKPOINT_PERIOD.
    Key("SOLVER.CHECKPOINT_EPOCHS", 0.0, v.NonNegative),
    #: In place of EVAL_PERIOD.
    Key("TEST.EVAL_EPOCHS", 0.0, v.NonNegative),
    #: Test images of a batch.
    Key("TEST.IMS_PER_BATCH", 128, v.Count),
    #: Compare with the teacher: agreement and KL beside the accuracy. Its logits of a test set are computed once a run.
    Key("TEST.TEACHER", True, bool),
    #: Evaluate and export the student with batch norm statistics of NUM_ITER batches of clean central crops; training
    #: itself goes on with its own. For students that see mixed images only.
    Key("TEST.PRECISE_BN.ENABLED", False, bool),
    #: Batches.
    Key("TEST.PRECISE_BN.NUM_ITER", 200, v.Count),
    #: Where both networks are tapped, as with the other frameworks.
    Key("KD.TAPS", ["logits=@vector"], v.Texts),
    #: Weight of the student's own cross-entropy. 0: labels play no part, and training images may have any classes.
    Key("KD.TASK_WEIGHT", 1.0, v.NonNegative),
    #: Further teachers beside KD.TEACHER, a list of {CONFIG_FILE, WEIGHTS, OPTS}. The logits of all are averaged, so no
    #: map inside them can be tapped. All see the view that the largest INPUT.SIZE among them gives, reduced for the
    #: smaller ones.
    Key("KD.TEACHERS", [], Sequence[Any]),
    #: What student and teacher see of an image, see kd2/data/classification/views.py. Training on labels alone sees the
    #: student's views.
    Key("KD.VIEWS.MODE", "same/ic", v.one_of(*MODES)),
    #: cc and rc bring the shorter side to SCALE x SIZE and cut.
    Key("KD.VIEWS.SCALE", 1.25, _AtLeastOne),
    #: Above 0: rc shifts the whole image by up to so many pixels instead, and cc is the whole image.
    Key("KD.VIEWS.PADDING", 0, v.CountOrZero),
    #: ic keeps a share of the area between these.
    Key(
        "KD.VIEWS.AREA",
        [0.05, 1.0],
        Annotated[Sequence[Annotated[float, v.Range(low=0, high=1, open=("low",))]], v.Length((2,))],
    ),
    #: ic has width / height between these.
    Key("KD.VIEWS.ASPECT", [3 / 4, 4 / 3], Annotated[Sequence[v.Positive], v.Length((2,))]),
    #: Probability of the mirror image in rc and ic.
    Key("KD.VIEWS.FLIP", 0.5, v.Share),
    #: Mixup draws from Beta(MIXUP_ALPHA, MIXUP_ALPHA); 1 is uniform.
    Key("KD.VIEWS.MIXUP_ALPHA", 1.0, v.Positive),
    #: A folder for the teacher's outputs, for fix modes only: made by the first training, checked and read afterwards.
    #: fix/ic_ens needs it.
    Key("KD.VIEWS.CACHE", "", str, path=True),
    #: Views that fix/ic_ens averages over.
    Key("KD.VIEWS.ENSEMBLE", 1000, v.Count),
)
