"""Tests that a trial trains the model that the training after the search trains."""

from __future__ import annotations

from typing import Any

import pytest
from searches import NAMES, run

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.settings import Settings
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import TrialStarted
from aemodels.tuning.opening import open_study
from aemodels.tuning.task import Task

LIMITS = {"training.updates", "training.epochs", "training.images", "training.warmup_steps"}
SPACES: dict[str, dict[str, Any]] = {
    "own": {},
    "trunk": {"model.trunk": {"choices": ["mlp", "conv", "photo", "auto"]}},
    "width": {"model.trunk.width": {"low": 8, "high": 64}},
    "likelihood": {"model.likelihood": {"choices": ["auto", "bernoulli", "gaussian"]}},
    "model": {"model.name": {"choices": ["vae", "iwae", "ae", "vae_gan"]}, "model.beta": None},
    "training": {"training.batch_size": {"choices": [32, 512]}, "training.images": {"choices": [None, 300]}},
    "length": {"training.updates": {"choices": [None, 5, 20_000]}},
}
IMAGES: dict[str, dict[str, Any]] = {
    "digits": {},
    "black and white": {"binarize": "dynamic"},
    "tiny": {"image_shape": (1, 8, 8)},
    "large": {"image_shape": (1, 64, 64), "sizes": {"train": 1_000_000, "val": 1_000, "test": 1_000}},
}
TUNINGS = [TuningConfig(), TuningConfig(updates=30, images=200), TuningConfig(epochs=2, images=None)]


def differences(one: Experiment, other: Experiment) -> set[str]:
    a, b = one.flat(), other.flat()
    return {key for key in a | b if a.get(key) != b.get(key)}


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("space", SPACES)
def test_a_trial_is_the_training_after_it_but_shorter(space: str, images: str, digits: PreparedData) -> None:
    data, given = digits.model_copy(update=IMAGES[images]), Settings()
    for tuning in TUNINGS:
        config = tuning.override({"space": SPACES[space]})
        task = Task(given.experiment, config, data)
        study = open_study(next(NAMES), task)
        for trial in study.generation(0):
            tried = task.trial(trial.params)
            trained = given.override(trial.params).for_data(data).experiment
            assert differences(tried, trained) <= LIMITS
            assert "auto" not in tried.flat().values()
        study.close()


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_a_search_trains_what_is_trained_after_it(binarize: str, digits: PreparedData) -> None:
    data, given = digits.model_copy(update={"binarize": binarize}), Experiment()
    trunks = TuningConfig.parse({"trials": 4, "space": {"model.trunk": {"choices": ["mlp", "photo"]}}})
    events, result = run(data, trunks, given)
    tried = {event.trial.index: event.experiment for event in events if isinstance(event, TrialStarted)}
    assert result.trials[0].params["model.trunk"] == "photo"  # what is chosen for these images is the experiment's own
    assert {trial.training.augmentation.shift for trial in tried.values()} == {0, 1}
    for trial in result.trials:
        assert differences(tried[trial.index], given.override(trial.params).for_data(data)) <= LIMITS
