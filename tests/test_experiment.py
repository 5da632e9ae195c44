"""Tests what an experiment tells of itself on given data."""

from __future__ import annotations

import pytest

from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment


@pytest.mark.parametrize(("asked", "few"), [(None, 0), (40, 40), (10_000, 0)])
def test_a_training_sees_no_more_images_than_there_are(asked: int | None, few: int, digits: PreparedData) -> None:
    experiment = Experiment().override({"training.images": asked})
    assert experiment.seen(digits) == (few or digits.sizes["train"]) < 10_000
