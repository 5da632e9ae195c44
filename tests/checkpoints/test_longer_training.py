"""A training with more epochs goes on where the same one with fewer ended, and equals one that was never shorter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quick import first

from aemodels.checkpoints.longer_training import keep_state, shorter_training
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.training.state import TrainingState
from aemodels.training.train import train

BASE = Experiment().override(
    {"model.trunk.widths": [16], "model.latent_dim": 2, "training.images": 200, "training.batch_size": 64}
)


@pytest.fixture(autouse=True)
def own_cache(digits: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  prepared before
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path))


def trained(experiment: Experiment, data: PreparedData, resume: TrainingState | None = None) -> TrainingState:
    *_, last = train(experiment.model, data, experiment.training, experiment.seed, resume)
    return last.state


@pytest.mark.parametrize(
    "changes", first(2, [{}, {"training.warmup_steps": 5, "training.optimizer": "adamw"}, {"model": "ae"}])
)
def test_a_longer_training_equals_one_that_was_not_interrupted(
    changes: dict[str, object], digits: PreparedData
) -> None:
    short, long = (BASE.override({**changes, "training.epochs": epochs}) for epochs in (2, 4))
    assert shorter_training(long, digits) is None
    keep_state(short, digits, trained(short, digits))
    state = shorter_training(long, digits)
    assert state is not None
    assert state.epoch == 2
    went_on, whole = trained(long, digits, state), trained(long, digits)
    assert went_on.best_epoch == whole.best_epoch
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in went_on.tensors.items())


def test_only_the_same_training_goes_on_and_the_longest_state_is_kept(digits: PreparedData) -> None:
    two, four = BASE.override({"training.epochs": 2}), BASE.override({"training.epochs": 4})
    state = trained(two, digits)
    keep_state(two, digits, state)
    assert shorter_training(two, digits) is None, "the same command again is a run of its own"
    for changes in ({"seed": 1}, {"model.beta": 2}, {"training.learning_rate": 0.1}, {"training.schedule": "cosine"}):
        assert shorter_training(four.override(changes), digits) is None, changes
    assert shorter_training(four, digits.override({"digest": "f" * 32})) is None
    longer = trained(four, digits)
    keep_state(four, digits, longer)
    keep_state(two, digits, trained(two, digits))
    assert shorter_training(BASE.override({"training.epochs": 6}), digits).epoch == 4  # type: ignore[union-attr]
    assert shorter_training(BASE.override({"training.epochs": 3}), digits) is None


@pytest.mark.parametrize("changes", [{"training.schedule": "cosine"}, {"training.epochs": 9}])
def test_what_could_not_go_on_bit_for_bit_is_not_kept(
    changes: dict[str, object], digits: PreparedData, tmp_path: Path
) -> None:
    """The rates of another schedule depend on the number of epochs, and a training that lost patience has ended."""
    keep_state(BASE.override({"training.epochs": 2} | changes), digits, TrainingState(2, 1.0, 1, [], {}))
    assert not (tmp_path / "states").exists()


def test_a_damaged_state_counts_as_none(digits: PreparedData, tmp_path: Path) -> None:
    two = BASE.override({"training.epochs": 2})
    keep_state(two, digits, trained(two, digits))
    (file,) = tmp_path.glob("states/*/state.safetensors")
    file.write_bytes(b"damaged")
    assert shorter_training(BASE.override({"training.epochs": 4}), digits) is None
