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


def test_what_is_chosen_is_told(digits: PreparedData) -> None:
    given = Experiment()
    settled = given.for_data(digits)
    kinds = "trunk photo, likelihood gaussian"
    rates = "cosine learning rate, warm-up of 100 updates"
    told = f"chosen for these images: {kinds}, 1,500 updates, {rates}, shifts of up to 1 px"
    assert settled.chosen(given, digits) == told
    assert settled.chosen(settled, digits) == ""
    many = digits.model_copy(update={"sizes": {**digits.sizes, "train": 1_000_000}})
    some = "trains on 192,000 of 1,000,000 images, training.updates=N sees more"
    told = f"{some}; chosen for these images: {kinds}, 3,000 updates, {rates}, no shifts"
    assert given.for_data(many).chosen(given, many) == told
    short = given.override({"training.updates": 1_000, "training.images": 500_000})
    assert "trains on 64,000 of 500,000 images" in short.for_data(many).chosen(short, many)


@pytest.mark.parametrize("model", ["ae", "vae", "gan", "vae_gan"])
@pytest.mark.parametrize("length", [{}, {"training.epochs": 2}, {"training.updates": 10}])
def test_all_that_is_chosen_is_told(model: str, length: dict[str, int], digits: PreparedData) -> None:
    """A setting that is chosen in future is told too, as `key=value` at least."""
    given = Experiment().override({"model": model, **length})
    settled = given.for_data(digits)
    told, before = settled.chosen(given, digits), given.flat()
    changed = {key: value for key, value in settled.flat().items() if before.get(key) != value}
    for key, value in changed.items():
        inside = key.startswith(("model.trunk.", "model.likelihood.")) and not key.endswith(".name")
        assert inside or (f"{value:,}" if isinstance(value, int) and value else value or "no ") in told
