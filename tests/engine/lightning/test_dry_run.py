"""A dry run looks at a distilled step, also where training would begin with plain ones."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from kd2 import engine

from ...helpers import tiny_detection


def test_a_loss_that_starts_later_counts_in_the_step_of_a_dry_run(tmp_path, data, teacher):
    config = tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))
    with engine.dry_run(config, ["KD.LOSSES.imitation.START_ITER", "400"]) as found:
        assert found.distiller(found.batch)["loss_imitation"].item() > 0
