"""Tests what an experiment tells of itself on given data."""

from __future__ import annotations

import pytest

from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment


@pytest.mark.parametrize(("asked", "few"), [(None, 0), (40, 40), (10_000, 0)])
def test_a_training_sees_no_more_images_than_there_are(asked: int | None, few: int, digits: PreparedData) -> None:
    experiment = Experiment().override({"training.images": asked})
    assert experiment.seen(digits) == (few or digits.sizes["train"]) < 10_000


@pytest.mark.parametrize(("enough", "trunk", "shift"), [(10_000, "photo", 1), (100, "photo", 0), (10_000, "mlp", 0)])
def test_few_images_are_shifted(
    enough: int, trunk: str, shift: int, digits: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aemodels.experiment.ENOUGH", enough)
    settled = Experiment().override({"model.trunk": trunk}).for_data(digits)
    assert settled.training.augmentation.shift == shift
    kept = Experiment().override({"model.trunk": trunk, "training.augmentation.shift": 2}).for_data(digits)
    assert kept.training.augmentation.shift == 2
