"""Tests what a search refuses, and trials that diverge, fail or die."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
from searches import CONFIG, EXPERIMENT, NAMES, SMALL, miss, pretend, replace_trials, run

from aemodels.config import Range, SettingsError, UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.processes import GeneratorProcess
from aemodels.tuning import runner
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import TrialEnded, TrialEpoch
from aemodels.tuning.messages import MemberEnd, TrialEvents
from aemodels.tuning.opening import open_study
from aemodels.tuning.search import search
from aemodels.tuning.space import search_space
from aemodels.tuning.task import Task, check_models


@pytest.mark.slow
def test_a_search_outlives_its_processes(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of a killed process has failed, in the record too. The others keep their values."""
    config, name = TuningConfig(trials=4, generation=2, epochs=2, images=128), next(NAMES)
    _, alone = run(digits, config, SMALL)
    monkeypatch.setattr(runner, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(runner, "cores", lambda: 2)
    peers: list[GeneratorProcess] = []

    def counted(*given: Any, **named: Any) -> GeneratorProcess:
        peers.append(GeneratorProcess(*given, **named))
        return peers[-1]

    monkeypatch.setattr(runner, "GeneratorProcess", counted)
    steps = search(open_study(name, Task(SMALL, config, digits)), None)
    ended: list[int] = []
    for event in steps:
        if isinstance(event, TrialEpoch) and event.index == 1 and len(peers) == 2:
            peers[1].popen.kill()
        ended += [event.trial.index] if isinstance(event, TrialEnded) else []
    assert sorted(ended) == [0, 1, 2, 3]
    assert len(peers) == 3
    assert all(peer.popen.poll() is not None for peer in peers)
    _, result = run(digits, config, SMALL, name)  # what is recorded
    assert [trial.state for trial in result.trials] == ["complete", "failed", "complete", "complete"]
    assert "ended by signal 9" in result.trials[1].error
    assert result.trials[0].values == pytest.approx(alone.trials[0].values, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": {"model.betta": {"low": 1.0, "high": 2.0}}}, r"tuning\.space: model\.betta.*model\.beta\?"),
        ({"space": {"data.image_size": {"low": 8, "high": 28}}}, r"tuning\.space: data\.image_size cannot vary"),
        ({"space": {"model.beta": {"low": -1.0, "high": 2.0}}}, r"tuning\.space: model\.beta=-1\.0.*at least 0"),
        (
            {"space": {"model.trunk.name": {"choices": ["mlp", "cnn"]}}},
            r"tuning\.space: model\.trunk\.name=cnn.*unknown",
        ),
        (
            {"space": {"model.trunk.widths": {"choices": [[128], 64]}}},
            r"tuning\.space: model\.trunk\.widths=64: must be a list, such as \[400, 200\]",
        ),
        ({"space": {"model.trunk.widths": {"choices": [[]]}}}, r"model\.trunk\.widths=\[\]: .*a list of at least 1"),
        (
            {"space": {"model.trunk": {"choices": ["conv", {"name": "mlp", "widht": [8]}]}}},
            r"tuning\.space: model\.trunk\.widht=\[8\]: .*did you mean model\.trunk\.widths\?",
        ),
    ],
)
def test_space_that_does_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        search_space(EXPERIMENT, TuningConfig.parse(settings))


def test_combination_that_does_not_fit() -> None:
    config = TuningConfig.parse(
        {"space": {"model.trunk.name": {"choices": ["mlp", "conv"]}, "model.trunk.activation": {"choices": ["tanh"]}}}
    )
    with pytest.raises(SettingsError, match=r"tuning\.space: .*activation"):
        search_space(EXPERIMENT, config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space.model.beta": {"low": 2, "high": 1}}, r"space.*model\.beta.*low <= high"),
        ({"space.model.beta": {"low": 0, "high": 1, "log": True}}, r"space.*model\.beta.*low > 0"),
        ({"space.model.beta": {"from": 0, "to": 1}}, r"space.*model\.beta"),
        ({"space.model.beta": 3}, r"space.*model\.beta=3: give"),
        ({"space.model.beta": {"choices": []}}, r"space.*model\.beta\.choices: must be a list of at least 1"),
        ({"pareto": ["mse", "msee"]}, r"pareto.*msee"),
        ({"pareto": ["mse", "mse"]}, r"pareto.*the same"),
        ({"trials": 0}, "trials"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TuningConfig.parse(settings)


def test_models_that_do_not_fit_the_images(digits: PreparedData) -> None:
    article = EXPERIMENT.override({"model": {"name": "ae", "latent_dim": 32, "trunk": {"name": "article_conv"}}})
    with pytest.raises(SettingsError, match=r"tuning\.space: this model has nothing that varies"):
        run(digits, experiment=article)
    with pytest.raises(SettingsError, match=r"tuning\.space: model\.latent_dim"):
        run(digits, TuningConfig(space={"model.latent_dim": Range(low=2, high=64)}), article)


def test_objective_that_the_model_does_not_have(digits: PreparedData) -> None:
    plain = EXPERIMENT.override({"model": "ae", "evaluation.primary": "negative_elbo"})
    with pytest.raises(SettingsError, match="negative_elbo"):
        run(digits, experiment=plain)
    with pytest.raises(SettingsError, match=r"tuning\.pareto: rate needs"):
        run(digits, TuningConfig(pareto=("mse", "rate")), EXPERIMENT.override({"model": "ae"}))


@pytest.mark.parametrize(
    ("training", "tuning", "message"),
    [
        ({"warmup_steps": 100}, {"updates": 100}, "training.warmup_steps=100: no trial would get out of this warm-up"),
        ({"warmup_steps": 100}, {"updates": 101}, ""),
        ({"warmup_steps": 100, "updates": 90}, {"updates": 90}, ""),  # the training does not get out of it either
        ({}, {"updates": 1}, ""),
        (
            {"warmup_steps": 20},
            {"epochs": 2, "images": 640, "space": {"training.batch_size": {"choices": [16, 64]}}},
            "training.warmup_steps=20: with training.batch_size=64, no trial",
        ),
        (
            {"warmup_steps": 1_000},
            {"space": {"training.warmup_steps": {"low": 10, "high": 400}}},
            "training.warmup_steps=400: no trial",
        ),
        ({"warmup_steps": 1_000}, {"space": {"training.warmup_steps": {"low": 10, "high": 300}}}, ""),
    ],
)
def test_trials_that_end_in_their_warm_up(
    training: dict[str, int], tuning: dict[str, Any], message: str, digits: PreparedData
) -> None:
    task = Task(EXPERIMENT.override({"training": training}), TuningConfig.parse(tuning), digits)
    with pytest.raises(SettingsError, match=message) if message else nullcontext():
        check_models(task)


def failing(index: int, experiment: Experiment, watched: str | None) -> TrialEvents:
    if miss(experiment) > 1:
        yield MemberEnd(index, {}, 0.0, "epoch 1: train/loss is nan")
    else:
        yield from pretend(index, experiment, watched)


def test_diverging_trials_do_not_end_a_search(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_trials(monkeypatch, failing)
    name = next(NAMES)
    _, result = run(digits, name=name)
    bad = [trial for trial in result.trials if trial.state == "failed"]
    assert bad
    assert all("train/loss is nan" in trial.error and not trial.values for trial in bad)
    assert miss(Task(EXPERIMENT, CONFIG, digits).trial(result.best.params)) <= 1
    events, again = run(digits, name=name)
    assert again == result
    assert all(not isinstance(event, TrialEpoch) and event.replayed for event in events)  # nor do they run again


def test_value_that_is_not_finite(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(index: int, experiment: Experiment, watched: str | None) -> TrialEvents:
        for told in pretend(index, experiment, watched):
            if isinstance(told, MemberEnd) and miss(experiment) > 1:
                told = MemberEnd(index, told.metrics | {"frechet_samples": math.nan}, told.seconds)
            yield told

    replace_trials(monkeypatch, broken)
    _, result = run(digits)
    assert {trial.error for trial in result.trials if trial.state == "failed"} == {"val/frechet_samples is nan"}
    assert math.isfinite(result.best.values[0])


def test_all_trials_fail(digits: PreparedData) -> None:
    """The steps are far too large, so every trial really diverges."""
    wild = {"training.optimizer": "adamw", "training.learning_rate": 1e30}
    with pytest.raises(UserError, match=r"all 2 trials failed.*epoch 1"):
        run(digits, TuningConfig(trials=2), Experiment.override(SMALL, wild))
