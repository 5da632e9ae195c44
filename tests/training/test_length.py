"""Tests the length of a training: in updates, whatever the number of images, or in epochs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from aemodels.checkpoints.checkpoint import load_state, save_state
from aemodels.checkpoints.longer_training import keep_state, shorter_training
from aemodels.config import SettingsError
from aemodels.data import streaming
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import GANConfig, VAEConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.settings import comparisons, load_comparison, load_settings, presets
from aemodels.training.config import EPOCH, MOST_UPDATES, UPDATES, TrainingConfig
from aemodels.training.passes import stretches
from aemodels.training.state import TrainingState
from aemodels.training.train import train

SMALL = MLPConfig(widths=(16,))
COUNTS = (10, 11, 127, 128, 129, 300, 2_062, 54_000, 320_000, 1_000_000)


def run(model, data: PreparedData, config: TrainingConfig, resume: TrainingState | None = None) -> TrainingState:
    *_, last = train(model, data, config, seed=0, resume=resume)
    return last.state


@pytest.mark.parametrize("count", COUNTS)
def test_a_training_has_about_as_many_updates_whatever_the_number_of_images(count: int) -> None:
    config = TrainingConfig().for_images(count)
    updates = UPDATES if count < 32_000 else math.ceil(3 * 54_000 / 64) if count == 54_000 else MOST_UPDATES
    assert config.all_updates(count) == config.updates == updates
    assert 10 <= config.number_of_epochs <= 40
    assert config.epoch_updates(count) == EPOCH >= 50
    seen = min(count, config.images or count)
    assert seen == min(count, updates * config.batch_size)
    found = list(stretches(0, updates, seen, config.batch_size))
    assert sum(math.ceil((each.stop - each.start) / config.batch_size) for each in found) == updates
    assert all(each.stop - each.start == seen for each in found[:-1])
    assert config.for_images(count) == config


@pytest.mark.parametrize(("images", "batch_size"), [(10, 128), (300, 128), (256, 128), (50_000, 16)])
def test_the_epochs_are_cut_from_the_same_passes(images: int, batch_size: int) -> None:
    def places(some: list) -> list[tuple[int, int]]:
        return [(each.number, place) for each in some for place in range(each.start, each.stop)]

    cut = [each for first in range(0, 700, EPOCH) for each in stretches(first, first + EPOCH, images, batch_size)]
    assert places(cut) == places(list(stretches(0, 700, images, batch_size)))
    assert all(each.start % batch_size == 0 for each in cut)


def test_a_length_in_epochs_stays_what_it_is() -> None:
    config = TrainingConfig(epochs=7, batch_size=100)
    assert config.for_images(10**6) == config.override({"schedule": "constant", "warmup_steps": 0})
    assert (config.number_of_epochs, config.epoch_updates(250), config.all_updates(250)) == (7, 3, 21)
    assert config.waits is None
    assert [each.number for index in range(2) for each in stretches(3 * index, 3 * index + 3, 250, 100)] == [1, 2]


def test_the_presets_of_papers_keep_their_epochs() -> None:
    lengths = {name: load_settings({}, name).training for name in presets()}
    assert all(training.epochs is not None and training.updates is None for training in lengths.values())
    for name in comparisons():
        for settings in load_comparison([], {}, [name]).settings.values():
            assert settings.training.updates is None


def test_two_lengths_of_one_training_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"training: updates=9 and epochs=3 .* give it as null where a preset"):
        Experiment().override({"training": {"updates": 9, "epochs": 3}})
    with pytest.raises(SettingsError, match="tuning: updates=9 and epochs=3"):
        load_settings({"tuning.updates": 9, "tuning.epochs": 3})


def test_the_later_length_wins() -> None:
    training = load_settings({"training.updates": "50"}, "conv-vae").training
    assert (training.updates, training.epochs, training.schedule) == (50, None, "cosine")
    settled = Experiment().override({"training": TrainingConfig().for_images(100).model_dump()})
    assert settled.training.updates == UPDATES
    assert settled.override({"training.epochs": 4}).training.number_of_epochs == 4


def test_the_patience_is_a_third_of_the_updates_or_three_epochs_unless_it_is_given() -> None:
    assert TrainingConfig(updates=1_200).waits == 400
    assert TrainingConfig(updates=200).waits == 300
    assert TrainingConfig(updates=900, patience=50).waits == 50
    assert TrainingConfig(updates=900, patience=0).waits is None
    assert TrainingConfig(epochs=9, patience=50).waits == 50


@pytest.mark.parametrize("images", [150, 1_000])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_resumed_equals_uninterrupted(images: int, schedule: str, digits: PreparedData, tmp_path: Path) -> None:
    """The epochs end within a pass; the last is shorter."""
    config = TrainingConfig.parse({"updates": 250, "images": images, "batch_size": 64, "schedule": schedule})
    data = digits.override({"binarize": "dynamic"})
    whole = run(VAEConfig(trunk=SMALL), data, config)
    assert whole.epoch == 3
    for epoch in train(VAEConfig(trunk=SMALL), data, config, seed=0):
        save_state(tmp_path, epoch.state)
        if epoch.index == 1:
            break
    resumed = run(VAEConfig(trunk=SMALL), data, config, load_state(tmp_path))
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in resumed.tensors.items())
    assert whole.tensors["optimizer.autoencoder.step"].item() == 250


def test_more_updates_go_on_where_fewer_ended(
    digits: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path))
    base = Experiment().override({"model.trunk.widths": [16], "training.images": 150, "training.schedule": "constant"})
    short, long, uneven = (base.override({"training.updates": updates}) for updates in (100, 200, 150))
    keep_state(uneven, digits, TrainingState(2, 1.0, 1, [], {}))
    assert shorter_training(base.override({"training.updates": 900}), digits) is None, "its last epoch was shorter"
    keep_state(short, digits, run(short.model, digits, short.training))
    assert shorter_training(base.override({"training.epochs": 900}), digits) is None, "its epochs are others"
    state = shorter_training(long, digits)
    assert state is not None
    went_on, whole = (run(long.model, digits, long.training, resume) for resume in (state, None))
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in went_on.tensors.items())


def test_an_adversarial_training_is_never_stopped(digits: PreparedData) -> None:
    config = TrainingConfig(updates=300, images=64, patience=1)
    state = run(GANConfig(trunk=SMALL), digits, config)
    assert (state.epoch, state.best_epoch) == (3, 3)


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 7), (30, 64), (64, 100), (99, 100)])
def test_a_part_of_a_streamed_pass_is_that_part(start: int, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 40)
    monkeypatch.setattr(streaming, "WINDOW", 200)
    order = torch.cat([window.rows for window in streaming.shuffled(100, 8, seed=1).windows])
    windows = list(streaming.part(streaming.shuffled(100, 8, seed=1), start, stop).windows)
    assert torch.equal(torch.cat([window.rows for window in windows]), order[start:stop])
    for window in windows:
        read = torch.cat([torch.arange(block.start, block.stop) for block in window.blocks])
        assert torch.equal(read[window.place], window.rows)
    assert len(windows) <= math.ceil((stop - start) / 25) + 1
