"""Tests what an experiment tells of itself on given data."""

from __future__ import annotations

import pytest

from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment


@pytest.mark.parametrize(("asked", "few"), [(None, 0), (40, 40), (10_000, 0)])
def test_a_training_sees_no_more_images_than_there_are(asked: int | None, few: int, digits: PreparedData) -> None:
    experiment = Experiment().override({"training.images": asked})
    assert experiment.seen(digits) == (few or digits.sizes["train"]) < 10_000


def test_the_order_in_which_settings_are_declared_does_not_count_in_the_name_of_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = Experiment()
    names = {experiment.identity("d"), Experiment(seed=1).identity("d"), experiment.identity("e")}
    assert len(names) == 3
    dumped = dict(reversed(experiment.model_dump(mode="json").items()))
    monkeypatch.setattr(Experiment, "model_dump", lambda _, mode: dumped)
    assert experiment.identity("d") in names


@pytest.mark.parametrize(("enough", "trunk", "shift"), [(10_000, "photo", 1), (100, "photo", 0), (10_000, "mlp", 0)])
def test_few_images_are_shifted(
    enough: int, trunk: str, shift: int, digits: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aemodels.experiment.ENOUGH", enough)
    settled = Experiment().override({"model.trunk": trunk}).for_data(digits)
    assert settled.training.augmentation.shift == shift
    kept = Experiment().override({"model.trunk": trunk, "training.augmentation.shift": 2}).for_data(digits)
    assert kept.training.augmentation.shift == 2
