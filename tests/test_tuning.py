"""The search: a killed one ends as one that was not, whatever the moment; pruning, fronts, errors, figures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.storages import RDBStorage

from aemodels import trials
from aemodels.config import Range, SettingsError, UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.members import MemberEnd, MemberEpoch, MemberStart, Told
from aemodels.trials import Runner
from aemodels.tuning import (
    Event,
    SearchResult,
    Trial,
    TrialEnded,
    TrialEpoch,
    TrialStarted,
    TuningConfig,
    search_identity,
    search_space,
    trial_experiment,
)
from aemodels.tuning_figures import draw_search_figures
from aemodels.tuning_sampler import RANDOM_TRIALS
from aemodels.tuning_search import search
from aemodels.tuning_storage import open_storage
from aemodels.tuning_study import open_study
from aemodels.workers import Worker

NAMES = (f"test-{number}" for number in count())
WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
)
EXPERIMENT = Experiment()
CONFIG = TuningConfig(trials=8, generation=3, epochs=4, prune_after=0.25)
SMALL = Experiment().override(
    {
        "model.trunk.widths": [16],
        "training.epochs": 3,
        "training.images": 128,
        "training.batch_size": 32,
        "evaluation.primary": "mse",
    }
)


def miss(experiment: Experiment) -> float:
    """How far a model is from the best one."""
    model: Any = experiment.model
    return math.log(model.latent_dim / 12) ** 2 + math.log(model.beta / 0.7) ** 2


def pretend(index: int, experiment: Experiment, watched: str | None) -> Told:
    """A trial that trains nothing."""
    value = miss(experiment)
    for epoch in range(1, experiment.training.epochs + 1):
        stop = yield MemberEpoch(index, epoch, {"train/loss": value}, value + 1 / epoch if watched else None, epoch)
        if stop:
            return
    model: Any = experiment.model
    yield MemberEnd(index, {"frechet_samples": value, "mse": 1 / model.latent_dim}, epoch)


def replace_trials(monkeypatch: pytest.MonkeyPatch, trial: Callable[[int, Experiment, str | None], Told]) -> None:
    def run(self: Runner, experiments: Sequence[Experiment]) -> Told:
        for index, experiment in enumerate(experiments):
            yield MemberStart(index)
            yield from trial(index, experiment, self.goals.watched)

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(Runner, "start", lambda *_: None)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_trials(monkeypatch, pretend)


def run(
    data: PreparedData, config: TuningConfig = CONFIG, experiment: Experiment = EXPERIMENT, name: str | None = None
) -> tuple[list[Event], SearchResult]:
    study = open_study(name or next(NAMES), experiment, config)
    features: Any = object() if experiment is not SMALL else None
    steps = search(experiment, data, features, config, study)
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return events, end.value


def facts(result: SearchResult) -> list[dict[str, Any]]:
    """What a killed and an uninterrupted search have in common: all but the time that trials took."""
    return [{**vars(trial), "seconds": None} for trial in result.trials]


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


@pytest.mark.usefixtures("pretended")
def test_no_trial_is_run_twice(digits: PreparedData) -> None:
    config = TuningConfig.parse(
        {"trials": 12, "space": {"model": {"latent_dim": {"low": 2, "high": 8}, "beta": {"choices": [0.5, 1.0]}}}}
    )
    _, result = run(digits, config)
    assert len({tuple(trial.params.values()) for trial in result.trials}) == 12


@pytest.mark.usefixtures("pretended")
def test_generation_is_recorded_before_it_runs(digits: PreparedData) -> None:
    study = open_study(next(NAMES), EXPERIMENT, CONFIG)
    features: Any = object()
    steps = search(EXPERIMENT, digits, features, CONFIG, study)
    assert isinstance(next(steps), TrialStarted)
    assert [trial.state for trial in study.trials()] == ["running", "waiting", "waiting"]


@pytest.mark.usefixtures("pretended")
def test_a_generation_is_a_share_of_the_search(digits: PreparedData) -> None:
    """Of its settings alone, whatever the machine; a large search finds work for many cores, or a large stack."""
    assert [TuningConfig(trials=n).generation_size for n in (1, 12, 16, 17, 64)] == [1, 4, 4, 5, 16]
    assert [TuningConfig(trials=n, generation=6).generation_size for n in (4, 64)] == [4, 6]
    config = TuningConfig(trials=26)
    study = open_study(next(NAMES), EXPERIMENT, config)
    features: Any = object()
    assert isinstance(next(search(EXPERIMENT, digits, features, config, study)), TrialStarted)
    assert [trial.state for trial in study.trials()] == ["running"] + ["waiting"] * 6
    assert [trial.index for trial in study.generation(3)] == [21, 22, 23, 24, 25]


def test_trial_is_smaller_than_the_experiment() -> None:
    limits = trial_experiment(EXPERIMENT, TuningConfig(epochs=10, images=500), {"model.beta": 2.0})
    assert (limits.training.epochs, limits.training.images, limits.model.flat()["beta"]) == (10, 500, 2.0)
    own = EXPERIMENT.override({"training.epochs": 3, "training.images": 100})
    assert trial_experiment(own, TuningConfig(), {}).training == own.training
    assert trial_experiment(own, TuningConfig(epochs=None, images=None), {}).training == own.training


@pytest.mark.usefixtures("pretended")
def test_later_generations_are_better(digits: PreparedData) -> None:
    """The sampler learns: the mean of the last half is lower than that of the random trials."""
    _, result = run(digits, TuningConfig(trials=24, prune=False))
    values = [trial.values[0] for trial in result.trials]
    assert np.mean(values[12:]) < np.mean(values[1:RANDOM_TRIALS])


# ---------------------------------------------------------------- killed and resumed


class Killed(BaseException):
    """Stands for kill -9 between two writes; no handler may catch it."""


@pytest.mark.usefixtures("pretended")
def test_killed_before_any_write(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.override({"trials": 5, "epochs": 2})
    _, whole = run(digits, config)
    for moment in count(0, 3):  # every third write; the writes of three trials are out of step with that
        name = next(NAMES)
        with monkeypatch.context() as patch:
            killed = killed_at_write(patch, moment, lambda name=name: run(digits, config, name=name))
        if not killed:
            break
        _, resumed = run(digits, config, name=name)
        assert facts(resumed) == facts(whole), f"killed before write {moment}"
    assert moment > 30


@pytest.mark.usefixtures("pretended")
def test_killed_again_and_again(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.override({"trials": 5, "epochs": 2})
    _, whole = run(digits, config)
    name = next(NAMES)
    killed = [True]
    while killed[-1]:
        with monkeypatch.context() as patch:
            killed.append(killed_at_write(patch, 17, lambda: run(digits, config, name=name)))
    _, resumed = run(digits, config, name=name)
    assert sum(killed) > 2
    assert facts(resumed) == facts(whole)


def killed_at_write(patch: pytest.MonkeyPatch, moment: int, action: Any) -> bool:
    """Whether the action was killed before that write to the storage."""
    left = iter(range(moment, -1, -1))

    def dying(real: Any) -> Any:
        def write(*args: Any, **kwargs: Any) -> Any:
            if next(left, -1) <= 0:
                raise Killed
            return real(*args, **kwargs)

        return write

    for name in WRITES:
        patch.setattr(RDBStorage, name, dying(getattr(RDBStorage, name)))
    try:
        action()
    except Killed:
        return True
    return False


@pytest.mark.usefixtures("pretended")
def test_finished_search_is_told_again(digits: PreparedData) -> None:
    name = next(NAMES)
    _, first = run(digits, name=name)
    events, again = run(digits, name=name)
    assert again == first
    assert all(not isinstance(event, TrialEpoch) and event.replayed for event in events)
    assert [event.trial for event in events if isinstance(event, TrialEnded)] == first.trials


REAL_KILLS = """
import json, os, signal, sys, threading
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_tuning as t
from aemodels.data import prepare
from aemodels.data.digits import DigitsConfig
from aemodels.progress import finish

data = finish(prepare(DigitsConfig()))
config = t.TuningConfig(trials=4, generation=2, prune_after=0.3)

def child(action):
    if not (pid := os.fork()):
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_after(events):
    steps = t.search(t.SMALL, data, None, config, t.open_study("killed", t.SMALL, config))
    for _ in range(events):
        next(steps)
    threading.Timer(0.005, os.kill, (os.getpid(), signal.SIGKILL)).start()
    for _ in steps:
        pass

codes = [child(lambda: killed_after(events)) for events in (1, 4, 12, 9)]
_, resumed = t.run(data, config, t.SMALL, name="killed")
_, whole = t.run(data, config, t.SMALL, name="whole")
print(json.dumps({"codes": codes, "resumed": t.facts(resumed), "whole": t.facts(whole)}))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_kill_9() -> None:
    """Real trainings, really killed; in a process of its own, whose threads do not mind a fork."""
    command = [sys.executable, "-c", REAL_KILLS, __file__.rpartition("/")[0]]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["codes"] == [-9] * 4
    assert answer["resumed"] == answer["whole"]
    assert {trial["state"] for trial in answer["whole"]} <= {"complete", "pruned"}


def test_notes_are_kept() -> None:
    study = open_study("notes", EXPERIMENT, CONFIG)
    assert study.notes() == {}
    study.remember("run", "abc")
    assert open_study("notes", EXPERIMENT, CONFIG).notes() == {"run": "abc"}


def test_damaged_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path))
    (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"not a database.*move .*optuna\.db away"):
        open_study("x", EXPERIMENT, CONFIG)
    with pytest.raises(UserError, match=r"check postgresql://me:\*\*\*@nowhere\.invalid/x") as raised:
        open_storage("postgresql://me:secret@nowhere.invalid/x?password=secret")
    assert "secret" not in str(raised.value)


def test_identity() -> None:
    identity = search_identity(EXPERIMENT, CONFIG, "d1")
    assert identity == search_identity(Experiment(), CONFIG.override({}), "d1")
    others = [
        search_identity(EXPERIMENT, CONFIG, "d2"),
        search_identity(EXPERIMENT, CONFIG.override({"trials": 9}), "d1"),
        search_identity(EXPERIMENT.override({"seed": 1}), CONFIG, "d1"),
    ]
    assert len({identity, *others}) == 4


# ---------------------------------------------------------------- pruning


@pytest.mark.usefixtures("pretended")
def test_bad_trials_are_pruned(digits: PreparedData) -> None:
    events, result = run(digits, TuningConfig(trials=16, epochs=5, prune_after=0.4))
    states = [trial.state for trial in result.trials]
    assert "pruned" not in states[:RANDOM_TRIALS]
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

    def watched(index: int, experiment: Experiment, metric: str | None) -> Told:
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


# ---------------------------------------------------------------- what goes wrong


def test_a_search_outlives_its_processes(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of one that is killed has failed, in the record too; the others have the values that they have."""
    config, name = TuningConfig(trials=4, generation=2, epochs=2, images=128), next(NAMES)
    _, alone = run(digits, config, SMALL)
    monkeypatch.setattr(trials, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(trials, "cores", lambda: 2)
    workers: list[Worker] = []
    monkeypatch.setattr(trials, "Worker", lambda threads: workers.append(Worker(threads)) or workers[-1])
    steps = search(SMALL, digits, None, config, open_study(name, SMALL, config))
    ended: list[int] = []
    for event in steps:
        if isinstance(event, TrialEpoch) and event.index == 1 and len(workers) == 2:
            workers[1].process.kill()
        ended += [event.trial.index] if isinstance(event, TrialEnded) else []
    assert sorted(ended) == [0, 1, 2, 3]
    assert len(workers) == 3
    assert all(worker.process.poll() is not None for worker in workers)
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


def failing(index: int, experiment: Experiment, watched: str | None) -> Told:
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
    assert miss(trial_experiment(EXPERIMENT, CONFIG, result.best.params)) <= 1
    events, again = run(digits, name=name)
    assert again == result
    assert all(not isinstance(event, TrialEpoch) and event.replayed for event in events)  # nor do they run again


def test_value_that_is_not_finite(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(index: int, experiment: Experiment, watched: str | None) -> Told:
        for told in pretend(index, experiment, watched):
            if isinstance(told, MemberEnd) and miss(experiment) > 1:
                told = MemberEnd(index, told.metrics | {"frechet_samples": math.nan}, told.seconds)
            yield told

    replace_trials(monkeypatch, broken)
    _, result = run(digits)
    assert {trial.error for trial in result.trials if trial.state == "failed"} == {"val/frechet_samples is nan"}
    assert math.isfinite(result.best.values[0])


def test_all_trials_fail(digits: PreparedData) -> None:
    """Real divergence: steps far too large."""
    wild = {"training.optimizer": "adamw", "training.learning_rate": 1e30}
    with pytest.raises(UserError, match=r"all 2 trials failed.*epoch 1"):
        run(digits, TuningConfig(trials=2), Experiment.override(SMALL, wild))


# ---------------------------------------------------------------- real trainings, figures, silence


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


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"history", "importances", "contour"}),
        ({"pareto": ["mse", "frechet_samples"]}, {"history", "importances", "front"}),
        ({"space.model.beta": {"choices": [1.0]}}, {"history", "contour"}),
        ({"trials": 1}, {"history", "contour"}),
        (
            {"trials": 2, "space.training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
            {"history", "contour"},
        ),
    ],
)
def test_figures(digits: PreparedData, settings: dict[str, Any], names: set[str]) -> None:
    _, result = run(digits, TuningConfig().override(settings))
    figures = draw_search_figures(result)
    assert figures.keys() >= names
    for picture in figures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[-1] == 3
        assert picture.std() > 5


def test_figure_of_one_parameter() -> None:
    space = search_space(EXPERIMENT.override({"model": "ae"}), CONFIG)
    trials = [
        Trial(0, {"model.latent_dim": 8}, "complete", (1.0,)),
        Trial(1, {"model.latent_dim": 16}, "complete", (20.0,)),
        Trial(2, {"model.latent_dim": 32}, "failed", error="nan"),
    ]
    result = SearchResult("x", space, ("mse",), ("minimize",), trials, trials[:1], trials[0], {})
    assert draw_search_figures(result).keys() == {"history", "slice"}
