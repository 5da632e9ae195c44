"""Tests what a search tries: proposals, pruning, two objectives, and real trainings."""

from __future__ import annotations

import warnings
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
from quick import first
from searches import CONFIG, EXPERIMENT, NAMES, SMALL, facts, pretend, replace_trials, run

from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import TrialEpoch, TrialStarted
from aemodels.tuning.messages import TrialEvents
from aemodels.tuning.opening import open_study
from aemodels.tuning.pruner import LEAST_TRIALS
from aemodels.tuning.sampler import RANDOM_TRIALS
from aemodels.tuning.search import search
from aemodels.tuning.task import Task

# ---------------------------------------------------------------- what it tries


@pytest.mark.usefixtures("pretended")
def test_same_seed_same_trials(digits: PreparedData) -> None:
    _, first = run(digits)
    _, again = run(digits)
    _, other = run(digits, experiment=EXPERIMENT.override({"seed": 1}))
    assert facts(first) == facts(again)
    assert facts(first) != facts(other)
    assert [trial.index for trial in first.trials] == list(range(8))
    assert first.best == min((t for t in first.trials if t.state == "complete"), key=lambda trial: trial.values)


@pytest.mark.usefixtures("pretended")
def test_first_trial_is_the_experiment_as_it_stands(digits: PreparedData) -> None:
    _, inside = run(digits)
    assert inside.trials[0].params == {"model.latent_dim": 20, "model.beta": 1.0}
    section = CONFIG.override({"space.model.trunk": {"choices": ["mlp", "conv"]}})
    _, sections = run(digits, section)
    assert sections.trials[0].params == {"model.latent_dim": 20, "model.beta": 1.0, "model.trunk": "mlp"}
    narrow = CONFIG.override({"space.model.beta": {"low": 2.0, "high": 4.0}})
    _, outside = run(digits, narrow)
    assert all(2 <= trial.params["model.beta"] <= 4 for trial in outside.trials)


TWO_OR_THREE = {"model.latent_dim": {"low": 2, "high": 3}}
ONE_BETA = {"model.beta": {"choices": [1.0]}}
WIDTHS = {"model.trunk.widths": {"choices": [[128], [256, 128], [64, 64, 32]]}}


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    ("trials", "space", "expected"),
    [
        (12, {"model.latent_dim": {"low": 2, "high": 8}, "model.beta": {"choices": [0.5, 1.0]}}, 12),
        (14, {"model.latent_dim": {"low": 2, "high": 8}, "model.beta": {"choices": [0.5, 1.0]}}, 14),
        (8, {**TWO_OR_THREE, **ONE_BETA}, 2),
        (8, {**TWO_OR_THREE, "model.beta": {"low": 0.5, "high": 0.5}}, 2),
        (8, {**TWO_OR_THREE, "model.beta": {"choices": [0.5, 1, 1.0, "1"]}}, 4),  # of which three are one
        (9, {"model.latent_dim": {"low": 2, "high": 10**6, "log": True}, **ONE_BETA}, 9),
        (30, {**WIDTHS, **TWO_OR_THREE, "model.beta": {"choices": [0.5, 1.0]}}, 12),
        (8, {"model.latent_dim": {"choices": [20]}, **ONE_BETA}, 1),
        (8, {**TWO_OR_THREE, "model.beta": {"low": 0.5, "high": 1.0}}, 8),
    ],
)
@pytest.mark.parametrize("generation", first(1, [None, 1, 8]))
def test_no_setting_is_trained_twice(
    digits: PreparedData, trials: int, space: dict[str, Any], expected: int, generation: int | None
) -> None:
    """A setting is tried once, also in later generations. The search ends when all settings of its space were tried."""
    config = TuningConfig.parse({"trials": trials, "generation": generation, "space": space})
    events, result = run(digits, config)
    started = [event.experiment.model_dump_json() for event in events if isinstance(event, TrialStarted)]
    assert len(started) == len(set(started)) == len(result.trials) == expected
    _, again = run(digits, config)
    assert facts(again) == facts(result)


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize("generation", first(1, [4, None, 2, 1, 9]))
def test_there_are_as_many_trials_as_were_asked_for(digits: PreparedData, generation: int | None) -> None:
    for trials in range(1, 10):
        events, result = run(digits, TuningConfig(trials=trials, generation=generation, epochs=1))
        started = [event.trial.index for event in events if isinstance(event, TrialStarted)]
        assert started == [trial.index for trial in result.trials] == list(range(trials))


@pytest.mark.usefixtures("pretended")
def test_lists_and_sections_can_be_searched(digits: PreparedData) -> None:
    """Texts, numbers and null can be searched too, and keep their types. The experiment's own settings come first."""
    trunks = ["mlp", {"name": "mlp", "widths": [64, 32], "activation": "tanh"}, {"name": "conv", "channels": [8, 16]}]
    space = {
        "model.trunk": {"choices": trunks},
        "training": {"images": {"choices": [100, None]}},
        **ONE_BETA,
        "model.latent_dim": {"choices": [20, "8"]},
    }
    name, config = next(NAMES), TuningConfig.parse({"trials": 40, "space": space})
    events, result = run(digits, config, name=name)
    own = {"model.trunk": "mlp", "training.images": None, "model.beta": 1.0, "model.latent_dim": 20}
    assert result.trials[0].params == own
    tried = [trial.params for trial in result.trials]
    assert [tried.count({**own, "model.trunk": trunk, "training.images": 100}) for trunk in trunks] == [1, 1, 1]
    assert len(tried) == 12
    models = {event.trial.index: event.experiment.model for event in events if isinstance(event, TrialStarted)}
    for trial in result.trials:
        trunk = models[trial.index].flat()
        if trial.params["model.trunk"] == trunks[1]:
            assert (trunk["trunk.widths"], trunk["trunk.activation"]) == ([64, 32], "tanh")
        if trial.params["model.trunk"] == trunks[2]:
            assert (trunk["trunk.name"], trunk["trunk.channels"]) == ("conv", [8, 16])
    _, again = run(digits, config, name=name)  # what is recorded
    assert again == result


@pytest.mark.usefixtures("pretended")
def test_generation_is_recorded_before_it_runs(digits: PreparedData) -> None:
    study = open_study(next(NAMES), Task(EXPERIMENT, CONFIG, digits))
    features: Any = object()
    steps = search(study, features)
    assert isinstance(next(steps), TrialStarted)
    assert [trial.state for trial in study.trials()] == ["running", "waiting", "waiting"]


@pytest.mark.usefixtures("pretended")
def test_a_generation_is_a_share_of_the_search(digits: PreparedData) -> None:
    """Its size depends on the settings alone, not on the machine. A large search gives work to many cores."""
    assert [TuningConfig(trials=n).generation_size for n in (1, 12, 16, 17, 64)] == [1, 4, 4, 5, 16]
    assert [TuningConfig(trials=n, generation=6).generation_size for n in (4, 64)] == [4, 6]
    config = TuningConfig(trials=26)
    study = open_study(next(NAMES), Task(EXPERIMENT, config, digits))
    features: Any = object()
    assert isinstance(next(search(study, features)), TrialStarted)
    assert [trial.state for trial in study.trials()] == ["running"] + ["waiting"] * 6
    assert [trial.index for trial in study.generation(3)] == [21, 22, 23, 24, 25]


def test_trial_is_smaller_than_the_experiment(digits: PreparedData) -> None:
    limits = Task(EXPERIMENT, TuningConfig(epochs=10, images=500), digits).trial({"model.beta": 2.0})
    assert (limits.training.epochs, limits.training.images, limits.model.flat()["beta"]) == (10, 500, 2.0)
    own = EXPERIMENT.override({"training.epochs": 3, "training.images": 100})
    assert Task(own, TuningConfig(), digits).trial({}).training == own.for_data(digits).training
    assert Task(own, TuningConfig(images=None), digits).trial({}).training == own.for_data(digits).training
    long = EXPERIMENT.override({"training.epochs": 60})
    assert Task(long, TuningConfig(), digits).trial({}).training.epochs == 10


def test_a_trial_gets_a_quarter_of_the_updates(digits: PreparedData) -> None:
    def length(training: dict[str, int], tuning: TuningConfig, params: dict[str, int] | None = None) -> object:
        experiment = EXPERIMENT.override({f"training.{key}": value for key, value in training.items()})
        trial = Task(experiment, tuning, digits).trial(params or {}).training
        return trial.updates or f"{trial.epochs} epochs"

    assert length({"updates": 2_000}, TuningConfig()) == 500
    assert length({"updates": 300}, TuningConfig(updates=400)) == 300
    assert length({"updates": 300}, TuningConfig(epochs=2)) == "2 epochs"
    assert length({"epochs": 30}, TuningConfig(updates=400)) == 400
    assert length({"updates": 300}, TuningConfig(), {"training.epochs": 7}) == "7 epochs"


@pytest.mark.parametrize(
    ("training", "tuning", "params", "warm_up"),
    [
        ({}, {}, {}, 25),  # of 375 updates, as 100 of 1,500
        ({"updates": 600}, {"updates": 600}, {}, 100),
        ({"updates": 600}, {"updates": 50}, {}, 9),  # 8.3, rounded up
        ({}, {"epochs": 2, "images": 640}, {}, 2),  # of 20 updates
        ({}, {"epochs": 2, "images": 640}, {"training.batch_size": 32}, 3),  # of 40 updates
        ({"epochs": 60}, {"updates": 50}, {}, 0),
        ({}, {}, {"training.updates": 5_000}, 100),  # a length that varies is that of the training
        ({"warmup_steps": 60}, {}, {}, 60),
        ({}, {}, {"training.warmup_steps": 60}, 60),
    ],
)
def test_the_warm_up_is_a_share_of_a_trial(
    training: dict[str, int], tuning: dict[str, int], params: dict[str, int], warm_up: int, digits: PreparedData
) -> None:
    """A trial of 40 updates whose learning rate rises over 100 would not reach the learning rates that are searched."""
    task = Task(EXPERIMENT.override({"training": training}), TuningConfig.parse(tuning), digits)
    trials = [task.trial({**params, "model.latent_dim": size}).training for size in (2, 20)]
    assert trials[0] == trials[1]  # so they train in one population
    assert trials[0].warm_up == warm_up


@pytest.mark.usefixtures("pretended")
def test_later_generations_are_better(digits: PreparedData) -> None:
    """The sampler learns: the mean of the last half is lower than that of the random trials."""
    _, result = run(digits, TuningConfig(trials=24, prune=False))
    values = [trial.values[0] for trial in result.trials]
    assert np.mean(values[12:]) < np.mean(values[1:RANDOM_TRIALS])


# ---------------------------------------------------------------- pruning


@pytest.mark.usefixtures("pretended")
def test_bad_trials_are_pruned(digits: PreparedData) -> None:
    events, result = run(digits, TuningConfig(trials=16, epochs=5, prune_after=0.4))
    states = [trial.state for trial in result.trials]
    assert "pruned" not in states[:LEAST_TRIALS]
    assert "pruned" in states
    for trial in result.trials:
        epochs = [event.epoch for event in events if isinstance(event, TrialEpoch) and event.index == trial.index]
        assert epochs == list(range(1, len(epochs) + 1))
        assert list(trial.curve) == epochs
        assert len(epochs) == 5 if trial.state == "complete" else 2 <= len(epochs) < 5
    assert result.best.state == "complete"


def test_a_pruned_trial_is_stopped(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []
    numbers = count()

    def watched(index: int, experiment: Experiment, metric: str | None) -> TrialEvents:
        number, steps, stop = next(numbers), pretend(index, experiment, metric), None
        while True:
            try:
                stop = yield steps.send(stop)
            except StopIteration:
                stopped.extend([number] if stop else [])
                return

    replace_trials(monkeypatch, watched)
    _, result = run(digits, TuningConfig(trials=12, epochs=5, prune_after=0.25))
    assert sorted(stopped) == [trial.index for trial in result.trials if trial.state == "pruned"]


@pytest.mark.usefixtures("pretended")
def test_no_pruning_no_curve(digits: PreparedData) -> None:
    events, result = run(digits, TuningConfig(prune=False))
    assert all(event.value is None for event in events if isinstance(event, TrialEpoch))
    assert all(trial.state == "complete" and not trial.curve for trial in result.trials)


# ---------------------------------------------------------------- two objectives


@pytest.mark.usefixtures("pretended")
def test_pareto_front(digits: PreparedData) -> None:
    _, result = run(digits, TuningConfig(pareto=("mse", "frechet_samples")))
    assert result.objectives == ("mse", "frechet_samples")
    assert all(trial.state == "complete" and len(trial.values) == 2 for trial in result.trials)
    assert len(result.front) > 1
    for trial in result.trials:
        better = [f for f in result.front if f.values <= trial.values and f.values[1] <= trial.values[1]]
        assert trial in result.front or better
    for a, b in pairwise(result.front):
        assert a.values[0] <= b.values[0]
        assert a.values[1] >= b.values[1]
    assert result.best == min(result.front, key=lambda trial: trial.metrics["frechet_samples"])


# ---------------------------------------------------------------- real trainings, silence


def test_real_search_is_silent(digits: PreparedData, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events, result = run(digits, TuningConfig(trials=5, generation=4), SMALL)
    assert capfd.readouterr() == ("", "")
    assert {"mse", "negative_elbo", "active_units"} <= result.best.metrics.keys()
    first = next(event for event in events if isinstance(event, TrialEpoch))
    assert {"train/loss", "val/negative_elbo"} <= first.metrics.keys()
    assert first.value is not None
    assert result.best.values == (result.best.metrics["mse"],)
