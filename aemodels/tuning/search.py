"""Searches for the settings that make the best model, with trials in synchronous generations; it yields events.

A search is a function of the experiment, its TuningConfig and the data alone. The parameters of a generation are drawn
from the results of the generations before it, and a trial is pruned by comparison with those. So a search that was
killed, at whatever moment, goes on to the same trials as one that was not. The trials of a generation may run in any
order and any place. On a GPU, where trials are stacked, the noise of a trial depends on which others are in its stack:
there values are the same to within what another seed changes.

The place may be another machine: any number of processes may work on a study in a shared database. Each finds the same
trials and the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from torch import Tensor

from aemodels.evaluation.features import Features
from aemodels.experiment import Experiment
from aemodels.runtime.progress import Driven
from aemodels.tuning.events import Event, SearchResult, Trial, TrialEnded, TrialEpoch, TrialLost, TrialStarted, Waiting
from aemodels.tuning.messages import MemberEnd, MemberEpoch, MemberStart
from aemodels.tuning.runner import Runner
from aemodels.tuning.study import Study
from aemodels.tuning.task import check_models
from aemodels.tuning.trial import Conditions

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two looks at what other processes do


def search(
    study: Study, features: Features, start: Mapping[str, Tensor] | None = None
) -> Generator[Event, None, SearchResult]:
    """Runs a search, or goes on with it, or works on it beside others.

    The end of a trial is told before it is recorded: after a kill the caller may hear of it twice, but never not at
    all. If the trial was lost meanwhile, that is told next, and the end does not count. Trials that ended elsewhere or
    earlier are told too, marked as replayed.

    Args:
        start: the weights that every trial starts from; those that belong to the seed, if none are given.

    Raises:
        SettingsError: a model of the space does not fit the images or the objectives.
        UserError: every trial failed.
    """
    task, config = study.task, study.config
    runner = Runner(Conditions(task.data, features, study.goals, start))
    with closing(runner):
        if not study.ended:
            runner.start(
                [task.trial({})] * config.generation_size, config.trials
            )  # the processes import while the models are checked
        check_models(task)
        for number in range(math.ceil(config.trials / config.generation_size)):
            yield from _generation(number, runner, study)
    return study.result()


def _generation(number: int, runner: Runner, study: Study) -> Generator[Event, None, None]:
    """Runs what waits, and waits for what others run, until all trials of the generation have ended."""
    told: set[int] = set()
    pause = FIRST_PAUSE
    while True:
        trials = study.generation(number)
        for trial in trials:
            if trial.ended and trial.index not in told:
                yield TrialStarted(trial, study.task.trial(trial.params), replayed=True)
                yield TrialEnded(trial, replayed=True)
                told.add(trial.index)
        if all(trial.ended for trial in trials):
            return
        if any(trial.state == "waiting" for trial in trials):
            told |= yield from _run(number, runner, study)
            pause = FIRST_PAUSE
        else:
            if pause == FIRST_PAUSE:
                yield Waiting(tuple(trial.index for trial in trials if not trial.ended))
            time.sleep(pause)
            pause = min(1.3 * pause, LONGEST_PAUSE)


@dataclass
class _Running:
    trial: Trial
    experiment: Experiment
    curve: dict[int, float] = field(default_factory=dict)


def _run(number: int, runner: Runner, study: Study) -> Generator[Event, None, set[int]]:
    """Claims trials as the runner has room for them, until none waits; returns the indices of those that ended."""
    mine: list[_Running] = []

    def claims() -> Iterator[Experiment]:
        while trial := study.claim(number):
            mine.append(_Running(trial, study.task.trial(trial.params)))
            yield mine[-1].experiment

    ended: set[int] = set()
    with Driven(runner.run(claims())) as told:
        for happened in told:
            for event in _events(mine[happened.index], happened, study):
                yield event
                goes_on = isinstance(event, TrialEpoch)  # neither pruned nor lost
                told.answer = isinstance(happened, MemberEpoch) and not goes_on
                if isinstance(event, TrialEnded):
                    if study.end(event.trial):
                        ended.add(event.trial.index)
                    else:  # it was lost while the caller was told of its end
                        yield TrialLost(event.trial.index)
    return ended


def _events(running: _Running, happened: MemberStart | MemberEpoch | MemberEnd, study: Study) -> Iterator[Event]:
    """Yields what follows from what happened to a trial; one that is pruned or lost is to stop."""
    trial, curve = running.trial, running.curve
    if isinstance(happened, MemberStart):
        yield TrialStarted(trial, running.experiment)
    elif not study.keeps(trial.index):
        yield TrialLost(trial.index)
    elif isinstance(happened, MemberEnd):
        yield TrialEnded(_ended(replace(trial, curve=curve), happened, study.goals.objectives))
    else:
        yield TrialEpoch(trial.index, happened.epoch, happened.metrics, happened.value)
        if happened.value is None:
            return
        curve[happened.epoch] = happened.value
        study.report(trial, happened.epoch, happened.value)
        # A trial in its last epoch is not pruned: once trained to its end, it is evaluated like all others.
        if happened.epoch < running.experiment.training.number_of_epochs and study.prunes(curve):
            yield TrialEnded(replace(trial, state="pruned", seconds=happened.seconds, curve=curve))


def _ended(trial: Trial, end: MemberEnd, objectives: Sequence[str]) -> Trial:
    if end.error:
        return replace(trial, state="failed", seconds=end.seconds, error=end.error)
    values = tuple(end.metrics[name] for name in objectives)
    trial = replace(trial, metrics=end.metrics, seconds=end.seconds)
    bad = [f"val/{name} is {value}" for name, value in zip(objectives, values, strict=True) if not math.isfinite(value)]
    return replace(trial, state="failed", error=bad[0]) if bad else replace(trial, state="complete", values=values)
