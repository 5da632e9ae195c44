"""Tests that trials are the same in this process, in others and stacked, and that memory may run out."""

from __future__ import annotations

import math
import re
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
import searches
import torch

from aemodels.data import batches
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.processes import GeneratorProcess, Yielded
from aemodels.tuning import runner as trials
from aemodels.tuning.costs import forward_seconds, stack_bytes
from aemodels.tuning.messages import Goals, MemberEnd, MemberEpoch, MemberStart
from aemodels.tuning.runner import Runner
from aemodels.tuning.trial import Conditions

GOALS = Goals(objectives=("mse",), watched="mse")
SMALL = Experiment().override(
    {
        "model.trunk.widths": [16],
        "training": {"epochs": 3, "images": 300, "batch_size": 30, "learning_rate": 0.01},
        "evaluation.primary": "mse",
    }
)
VARIED = [SMALL.override({"model.latent_dim": d, "model.beta": beta}) for d, beta in ((2, 0.5), (6, 1.0), (4, 2.0))]
OTHER = SMALL.override({"training.learning_rate": 0.02})


def told(runner: Runner, experiments: Sequence[Experiment], stopped: int | None = None) -> list[Any]:
    """Returns all messages after the starts; the trial `stopped` is stopped after its first epoch."""
    steps, events, answer = runner.run(experiments), [], None
    while True:
        try:
            event = steps.send(answer)
        except StopIteration:
            return events
        events += [] if isinstance(event, MemberStart) else [event]
        answer = isinstance(event, MemberEpoch) and event.index == stopped


def values(events: Sequence[Any]) -> dict[Any, float]:
    """Returns the squared error by trial and epoch (0 stands for the trained model)."""
    return {
        (e.index, 0 if isinstance(e, MemberEnd) else e.epoch): e.metrics["mse"] if isinstance(e, MemberEnd) else e.value
        for e in events
    }


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    tape = torch.linspace(-1.5, 1.5, 20)
    monkeypatch.setattr("aemodels.nn.noise.noise_like", lambda z: tape[: z.shape[-1]].to(z.device).expand_as(z))


@pytest.fixture
def alone(digits: PreparedData) -> dict[Any, float]:
    return values(told(Runner(Conditions(digits, None, GOALS)), [*VARIED, OTHER]))


@pytest.fixture
def alone_with_noise(same_noise: None, digits: PreparedData) -> dict[Any, float]:  # noqa: ARG001
    return values(told(Runner(Conditions(digits, None, GOALS)), [*VARIED, OTHER]))


class Stacked(Runner):
    """Stacks trials, as a GPU does."""

    run = Runner._stacked


def test_stacked_trials_are_those_alone(digits: PreparedData, alone_with_noise: dict[Any, float]) -> None:
    events = told(Stacked(Conditions(digits, None, GOALS)), [*VARIED, OTHER])
    assert values(events) == pytest.approx(alone_with_noise, rel=1e-4)
    assert all(event.seconds > 0 for event in events)


@pytest.mark.slow
@pytest.mark.parametrize(("members", "images", "expected"), [(0, 1, []), (2.5, 1, [2]), (2.02, 1, [2]), (2.02, 0, [])])
def test_a_stack_is_as_large_as_the_memory(
    digits: PreparedData,
    alone_with_noise: dict[Any, float],
    members: float,
    images: int,
    expected: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory holds so many members, with or without the images."""
    largest = max(stack_bytes(experiment, digits) for experiment in VARIED)
    resident = math.prod(digits.image_shape) * (300 + digits.sizes["val"])
    monkeypatch.setattr(trials, "free_memory", lambda _: members * largest / trials.STACK_SHARE + images * resident)
    sizes: list[int] = []
    real = trials.train_population

    def watched(configs: Sequence[Any], *rest: Any) -> Any:
        sizes.append(len(configs))
        return real(configs, *rest)

    monkeypatch.setattr(trials, "train_population", watched)
    assert values(told(Stacked(Conditions(digits, None, GOALS)), [*VARIED, OTHER])) == pytest.approx(
        alone_with_noise, rel=1e-4
    )
    assert sizes == expected


@pytest.mark.slow
@pytest.mark.parametrize("when", [1, 2])
def test_out_of_memory_halves_the_stack_and_goes_on(
    digits: PreparedData, alone_with_noise: dict[Any, float], when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message comes twice, and none is missing; the time of the stack is told too."""
    real = trials.train_population

    def small_device(configs: Sequence[Any], *rest: Any) -> Any:
        training = real(configs, *rest)
        for epoch in range(1, 100):
            if len(configs) > 1 and epoch == when:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            if len(configs) > 1:
                time.sleep(1.5)  # which the later epochs' seconds hold too
            try:
                yield next(training)
            except StopIteration:
                return

    monkeypatch.setattr(trials, "train_population", small_device)
    events = told(Stacked(Conditions(digits, None, GOALS)), [*VARIED, OTHER])
    assert len(events) == len(values(events))
    for trial in range(len(VARIED)):
        seconds = [event.seconds for event in events if event.index == trial]
        assert seconds == sorted(seconds)
        assert seconds[-1] >= 0.5 * (when - 1)
    assert values(events) == pytest.approx(alone_with_noise, rel=1e-4)


@pytest.mark.slow
def test_a_model_that_the_memory_does_not_hold(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        yield

    monkeypatch.setattr(trials, "train_population", no_device)
    ends = told(Stacked(Conditions(digits, None, GOALS)), VARIED)
    assert [end.index for end in ends] == [0, 1, 2]
    assert all("memory does not hold the model" in e.error and "training.batch_size" in e.error for e in ends)


@pytest.mark.parametrize("kind", [Runner, Stacked])
def test_a_stopped_trial_ends_and_the_others_go_on(digits: PreparedData, kind: type[Runner]) -> None:
    events = told(kind(Conditions(digits, None, GOALS)), VARIED, stopped=1)
    epochs = [[e.epoch for e in events if isinstance(e, MemberEpoch) and e.index == i] for i in range(3)]
    assert epochs == [[1, 2, 3], [1], [1, 2, 3]]
    assert sorted(e.index for e in events if isinstance(e, MemberEnd)) == [0, 2]


@pytest.mark.slow
def test_a_stack_that_failed_is_gone_when_its_halves_run(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    real, alive = trials.train_population, []

    def small_device(configs: Sequence[Any], *rest: Any) -> Any:
        assert not any(reference() is not None for reference in alive)
        big = torch.zeros(1000)
        alive.append(weakref.ref(big))
        training = real(configs, *rest)
        if len(configs) > 1:
            next(training)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        del big
        return (yield from training)

    monkeypatch.setattr(trials, "train_population", small_device)
    events = told(Stacked(Conditions(digits, None, GOALS)), VARIED)
    assert sorted(e.index for e in events if isinstance(e, MemberEnd)) == [0, 1, 2]
    assert len(alive) == 5  # of 3, then 1 and 2, then 1 and 1


@pytest.mark.parametrize("kind", [Runner, Stacked])
def test_settings_that_do_not_fit_fail_alone(digits: PreparedData, kind: type[Runner]) -> None:
    article = {"model": {"name": "ae", "latent_dim": 5, "trunk": {"name": "article_conv"}}}
    ends = {
        e.index: e
        for e in told(kind(Conditions(digits, None, GOALS)), [SMALL.override(article), *VARIED])
        if isinstance(e, MemberEnd)
    }
    assert "article_conv" in ends[0].error
    assert not any(ends[i].error for i in (1, 2, 3))


@pytest.mark.parametrize("kind", [Runner, Stacked])
def test_a_diverging_trial_fails_alone(digits: PreparedData, kind: type[Runner]) -> None:
    wild = [VARIED[0], VARIED[1].override({"model.beta": 1e38})]
    ends = {e.index: e for e in told(kind(Conditions(digits, None, GOALS)), wild) if isinstance(e, MemberEnd)}
    assert "epoch 1" in ends[1].error
    assert not ends[0].error


@pytest.fixture
def runner(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Returns a runner with two processes."""
    monkeypatch.setattr(trials, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(trials, "cores", lambda: 2)
    with closing(Runner(Conditions(digits, None, GOALS))) as runner:
        runner.start([SMALL] * 4, 4)
        assert len(runner.processes) == 2
        yield runner


def test_processes_are_for_work_that_outlasts_their_start(
    digits: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other networks see the same number of images."""
    monkeypatch.setattr(trials, "cores", lambda: 2)
    costly = SMALL.override({"model": {"name": "vae", "trunk": {"name": "residual", "channels": [128, 128]}}})
    cost = {name: forward_seconds(e, digits) for name, e in {"small": SMALL, "costly": costly}.items()}
    assert cost["costly"] > 10 * cost["small"]
    seen = 4 * SMALL.training.epochs * SMALL.seen(digits)
    monkeypatch.setattr(trials, "WORTH_PROCESSES", seen * (cost["costly"] * cost["small"]) ** 0.5)
    for experiment, count in ((SMALL, 0), (costly, 2)):
        with closing(Runner(Conditions(digits, None, GOALS))) as runner:
            runner.start([experiment] * 4, 4)
            assert len(runner.processes) == count


def test_processes_give_the_same_trials(runner: Runner, digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are equal bit for bit.

    Real processes stay from one generation to the next, a stopped trial makes room, and closing ends them.
    """
    monkeypatch.setattr(trials, "WORTH_PROCESSES", math.inf)
    with closing(Runner(Conditions(digits, None, GOALS))) as here:
        here.start([SMALL] * 4, 4)
        assert not here.processes
        assert values(told(runner, [*VARIED, OTHER])) == values(told(here, [*VARIED, OTHER]))
    events = told(runner, VARIED, stopped=0)
    assert [e.epoch for e in events if isinstance(e, MemberEpoch) and e.index == 0] == [1]
    assert sorted(e.index for e in events if isinstance(e, MemberEnd)) == [1, 2]
    running = runner.run(VARIED)
    next(running)
    running.close()
    assert all(peer.popen.poll() is not None for peer in runner.processes)


def kill(peer: GeneratorProcess) -> None:
    peer.popen.kill()
    peer.popen.wait()


def killed(runner: Runner, trial: int, when: type) -> list[Any]:
    """Returns all messages after the starts if the trial's process is killed at its first event of that kind."""
    peer, events = runner.processes[trial], []  # the first trials are taken in the order of the processes
    for event in runner.run([*VARIED, OTHER]):
        events += [] if isinstance(event, MemberStart) else [event]
        if isinstance(event, when) and event.index == trial:
            kill(peer)
    return events


@pytest.mark.slow
def test_a_killed_process_fails_its_trial_alone(runner: Runner, alone: dict[Any, float]) -> None:
    """It may be killed at any moment, and another process takes its place."""
    for trial, when in ((1, MemberStart), (0, MemberEpoch)):
        before = list(runner.processes)
        events = killed(runner, trial, when)
        (end,) = (e for e in events if isinstance(e, MemberEnd) and e.index == trial)
        assert "a process was ended by signal 9 (Killed); if memory ran out" in end.error
        assert "run this again" not in end.error  # that would not run it again
        assert end.seconds > 0
        others = values([e for e in events if e.index != trial])
        assert others == pytest.approx({key: value for key, value in alone.items() if key[0] != trial}, rel=1e-5)
        assert [a is b for a, b in zip(before, runner.processes, strict=True)] == [i != trial for i in range(2)]


@pytest.mark.slow
def test_who_dies_between_two_trials_fails_none(runner: Runner, alone: dict[Any, float]) -> None:
    """No message comes twice either, about a trial whose end was told or that was stopped."""
    events = killed(runner, 1, MemberEnd)
    assert len(events) == len(alone)
    assert values(events) == pytest.approx(alone, rel=1e-5)
    kill(runner.processes[0])
    running = runner.run(VARIED)
    assert [next(running), next(running)] == [MemberStart(0), MemberStart(1)]
    first = next(running)
    assert isinstance(first, MemberEpoch)
    kill(runner.processes[first.index])
    rest = [running.send(True), *running]
    assert [e for e in rest if e.index == first.index] == []
    assert sorted(e.index for e in rest if isinstance(e, MemberEnd)) == [i for i in range(3) if i != first.index]


@pytest.mark.slow
def test_who_dies_before_it_has_a_trial_fails_that_alone(
    runner: Runner, alone: dict[Any, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out again while the new process starts."""
    new_process = trials._new_process
    for peer in runner.processes:
        kill(peer)

    def doomed(*args: int) -> GeneratorProcess:
        monkeypatch.setattr(trials, "_new_process", new_process)  # whoever comes after it lives
        kill(peer := new_process(*args))
        return peer

    monkeypatch.setattr(trials, "_new_process", doomed)
    runner.importing.clear()
    events = told(runner, [*VARIED, OTHER])
    (failed,) = (e for e in events if e.index == 0)
    assert "signal 9" in failed.error
    others = values([e for e in events if e.index != 0])
    assert others == pytest.approx({key: value for key, value in alone.items() if key[0] != 0}, rel=1e-5)


@pytest.mark.slow
def test_processes_divide_the_memory(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "free_memory", None)  # and back
    assert next(searches.kept([199, 201, 399, 401])) == [199, 201, 399]
    with monkeypatch.context() as torchrun:
        torchrun.setenv("LOCAL_WORLD_SIZE", "2")
        assert next(searches.kept([199, 201, 399, 401])) == [199]
    kill(runner.processes[0])
    told(runner, [SMALL, SMALL])
    for peer in runner.processes:  # one of which came later
        peer.start(searches.kept, [199, 201, 399, 401])
        assert peer.receive() == Yielded([199])


def test_a_model_that_the_main_memory_does_not_hold(digits: PreparedData) -> None:
    large = SMALL.override({"model.trunk.widths": [10**12]})  # a petabyte
    ends = [e for e in told(Runner(Conditions(digits, None, GOALS)), [large, SMALL]) if isinstance(e, MemberEnd)]
    assert re.fullmatch(
        r"the device's memory does not hold the model \(can't allocate memory: you tried to allocate \d+ bytes\); "
        r"use a smaller data\.image_size, training\.batch_size or model",
        ends[0].error,
    )
    assert not ends[1].error


def test_few_images_are_not_worth_processes(digits: PreparedData) -> None:
    runner = Runner(Conditions(digits, None, GOALS))
    runner.start(VARIED, 3)
    assert runner.processes == []
