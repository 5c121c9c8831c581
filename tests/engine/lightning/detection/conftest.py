"""A detector to be distilled, for the tests of this folder."""

import pytest


@pytest.fixture
def build(tmp_path, data, teacher):
    """The distiller of a student's config with options over it."""
    from ....helpers import lightning_runs, tiny_detection

    def build_with(*options: str):
        config = tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))
        return lightning_runs.distiller(config, *options)

    return build_with
