"""Runs the trials of a search on this machine: stacked as populations on a GPU, one process per core on a CPU.

On two CPU cores, two processes of one thread take two thirds of the time that one with two threads takes (measured). In
each, a stack of two or four of the article's VAE takes 1.1 to 1.2 times as long as its members one by one. On a GPU the
launches of kernels take longest, and a stack shares them.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from aemodels.config import OwnWarning, SettingsError
from aemodels.data.batches import fits, free_memory
from aemodels.evaluation.features import Features
from aemodels.experiment import Experiment
from aemodels.runtime.devices import best_device
from aemodels.runtime.environment import cores
from aemodels.runtime.memory import out_of_memory
from aemodels.runtime.processes import GeneratorProcess, ProcessDiedError, Yielded, ready
from aemodels.runtime.progress import Driven
from aemodels.training.config import TrainingDivergedError
from aemodels.training.population import stackable, train_population
from aemodels.training.state import Epoch
from aemodels.tuning.costs import forward_seconds, stack_bytes
from aemodels.tuning.messages import MemberEnd, MemberEpoch, MemberStart, TrialEvents
from aemodels.tuning.trial import Conditions, run_trial

WORTH_PROCESSES = 5.0  # seconds of all forward passes; with fewer the trials are done before the processes start
STACK_SHARE = 0.7  # share of the device's free memory that a stack may take


class Runner:
    """Runs trials; its processes stay from one generation to the next, until it is closed."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions, self.data = conditions, conditions.data
        self.processes: list[GeneratorProcess] = []
        self.importing: list[GeneratorProcess] = []  # those of the processes above that are not ready yet
        self.threads = torch.get_num_threads()  # threads of a trial on a CPU

    def start(self, experiments: Sequence[Experiment], total: int) -> None:
        """Starts processes for trials like these, `total` in all, where they are worth it; does not wait."""
        count = min(cores(), len(experiments))
        self.threads = max(1, min(self.threads, cores() // count))
        if best_device().type != "cpu" or count < 2 or self.processes:
            return
        seen = total * sum(map(self._shown, experiments)) / len(experiments)
        if seen * forward_seconds(experiments[0], self.data) >= WORTH_PROCESSES:
            self.processes = [_new_process(count, self.threads) for _ in range(count)]
            self.importing = list(self.processes)

    def _shown(self, experiment: Experiment) -> int:
        """Returns how many images a training shows, about; the same one several times."""
        training = experiment.training
        return training.batch_size * training.all_updates(experiment.seen(self.data))

    def run(self, experiments: Iterable[Experiment]) -> TrialEvents:
        """Runs trials and tells what happens to them, in any order; takes each when there is room for it."""
        if best_device().type != "cpu":
            yield from self._stacked(experiments)
        elif self.processes:
            yield from self._in_processes(experiments)
        else:
            yield from self._in_this_process(experiments)

    def close(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.close()

    # ---------------------------------------------------------------- processes

    def _in_this_process(self, experiments: Iterable[Experiment]) -> TrialEvents:
        """Runs trials one after the other, with as many threads as a process would have.

        With another number, sums are rounded differently, and a search that goes on may start processes after all.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for index, experiment in enumerate(experiments):
                yield MemberStart(index)
                yield from run_trial(index, experiment, self.conditions)
        finally:
            torch.set_num_threads(threads)

    def _in_processes(self, experiments: Iterable[Experiment]) -> TrialEvents:
        """Gives each free process the next trial; a process that dies, perhaps out of memory, fails its trial alone."""
        while self.importing:
            with suppress(ProcessDiedError):  # _take starts another process in its place
                self.importing.pop().receive()
        waiting = iter(enumerate(experiments))
        busy: dict[GeneratorProcess, _Taken] = {}
        try:
            for process in list(self.processes):
                yield from self._take(process, waiting, busy)
            while busy:
                for process in ready(list(busy)):
                    taken = busy[process]
                    try:
                        message = process.receive()
                        if isinstance(message, Yielded):
                            stop = yield message.value
                            taken.over = bool(stop) or isinstance(message.value, MemberEnd)
                            process.answer(stop)
                            continue
                    except ProcessDiedError as error:
                        if not taken.over:
                            yield MemberEnd(taken.index, {}, time.perf_counter() - taken.started, error.reason)
                    del busy[process]
                    yield from self._take(process, waiting, busy)
        finally:
            if busy:  # the caller ended, so what the processes do is of no use
                self.close()

    def _take(
        self, process: GeneratorProcess, waiting: Iterator[tuple[int, Experiment]], busy: dict[GeneratorProcess, _Taken]
    ) -> TrialEvents:
        """Starts the next trial, if there is one, and starts another process first if this one is dead.

        If that one dies too before it has the trial, the trial fails, and the next is taken.
        """
        for index, experiment in waiting:
            started = time.perf_counter()
            try:
                if process.popen.poll() is not None:
                    place, process = self.processes.index(process), _new_process(len(self.processes), self.threads)
                    self.processes[place] = process
                    process.receive()
                process.start(_trial_in_process, index, experiment, self.conditions)
            except ProcessDiedError as error:
                yield MemberStart(index)
                yield MemberEnd(index, {}, time.perf_counter() - started, error.reason)
            else:
                busy[process] = _Taken(index, started)
                yield MemberStart(index)
                return

    # ---------------------------------------------------------------- stacks

    def _stacked(self, experiments: Iterable[Experiment]) -> TrialEvents:
        """Takes as many trials as the device holds, runs them, and takes the next."""
        waiting, more = iter(enumerate(experiments)), True
        while more:
            release_memory()
            more = False
            taken: dict[int, Experiment] = {}
            sizes: dict[int, int] = {}
            for i, experiment in waiting:
                yield MemberStart(i)
                try:
                    sizes[i] = stack_bytes(experiment, self.data)
                except SettingsError as error:  # a combination of settings that does not fit
                    yield MemberEnd(i, {}, 0.0, str(error))
                    continue
                taken[i] = experiment
                if more := self._room(experiment) < sum(sizes.values()) + sizes[i]:
                    break
            yield from self._in_stacks(taken, sizes)

    def _in_stacks(self, experiments: dict[int, Experiment], sizes: dict[int, int]) -> TrialEvents:
        """Runs one population after the other, each as large as the device holds.

        A trial that cannot be stacked with another is trained alone.
        """
        left = list(experiments)
        while left:
            alike = [i for i in left if _alike(experiments[left[0]], experiments[i])]
            release_memory()
            count = int(self._room(experiments[left[0]]) / max(sizes[i] for i in alike))
            members = alike[: max(1, count)]
            if len(members) == 1:
                yield from run_trial(members[0], experiments[members[0]], self.conditions)
            else:
                yield from _Stack({i: experiments[i] for i in members}, self.conditions).run()
            left = [i for i in left if i not in members]

    def _room(self, experiment: Experiment) -> float:
        """Returns the memory for a population's members, in bytes: a share of what is free beside the images."""
        device, image = best_device(), math.prod(self.data.image_shape)
        splits = (image * experiment.seen(self.data), image * self.data.sizes["val"])
        return STACK_SHARE * (free_memory(device) - sum(size for size in splits if fits(size, device)))


@dataclass
class _Taken:
    """Holds the trial that a process runs."""

    index: int
    started: float
    over: bool = False  # whether nothing more is to be told of it


def release_memory() -> None:
    """Gives memory that nobody holds any more back to the device; graphs and their models hold each other."""
    gc.collect()
    torch.cuda.empty_cache()


def _alike(a: Experiment, b: Experiment) -> bool:
    """Tells whether two trials can be members of one population; a trial with pre-training is alone."""
    if a.training.pretraining_epochs:
        return a is b
    return stackable(a.model, b.model) and a.model_copy(update={"model": b.model, "seed": b.seed}) == b


class _Stack:
    """Runs trials as one population; if memory runs out, as two of half the size."""

    def __init__(self, members: dict[int, Experiment], conditions: Conditions) -> None:
        self.members, self.conditions = members, conditions
        self.told = dict.fromkeys(members, 0)  # the last epoch of each that was told
        self.seconds = dict.fromkeys(members, 0.0)

    def run(self) -> TrialEvents:
        started = len(self.members)
        try:
            yield from self._train(list(self.members))
            return
        except torch.OutOfMemoryError as error:
            reason = out_of_memory(error)
        # This is outside of the handler, as the error's traceback holds all memory of the stack.
        release_memory()
        left = list(self.members)  # those that ended are gone
        if started == 1:
            yield MemberEnd(left[0], {}, self.seconds[left[0]], reason)
            return
        for half in filter(None, (left[: len(left) // 2], left[len(left) // 2 :])):
            smaller = _Stack({i: self.members[i] for i in half}, self.conditions)
            smaller.told = {i: self.told[i] for i in half}  # what was told is not told again
            smaller.seconds = {i: self.seconds[i] for i in half}  # the time so far counts too
            yield from smaller.run()

    def _train(self, numbers: list[int]) -> TrialEvents:
        first = self.members[numbers[0]]
        configs, seeds = zip(*((self.members[i].model, self.members[i].seed) for i in numbers), strict=True)
        training = train_population(configs, self.conditions.data, first.training, seeds, self.conditions.start)
        with Driven(training) as driven:
            started = time.perf_counter()
            for happened in driven:
                share, leaving = (time.perf_counter() - started) / len(happened), set[int]()
                for m, one in happened.items():
                    if (yield from self._tell(numbers[m], one, share)):
                        leaving.add(m)
                driven.answer, started = leaving, time.perf_counter()

    def _tell(
        self, i: int, one: Epoch | TrainingDivergedError, share: float
    ) -> Generator[MemberEpoch | MemberEnd, bool | None, bool]:
        """Tells what happened to a member, and returns whether the member is to leave."""
        started = time.perf_counter()
        self.seconds[i] += share
        if isinstance(one, TrainingDivergedError):
            yield MemberEnd(i, {}, self.seconds[i], str(one))
        else:
            experiment = self.members[i]
            if one.index > self.told[i]:
                value = self.conditions.watch(one, experiment)
                self.told[i] = one.index
                self.seconds[i] += time.perf_counter() - started
                if (yield MemberEpoch(i, one.index, one.metrics, value, self.seconds[i])):
                    del self.members[i]
                    return True
            if not one.last:
                return False
            started = time.perf_counter()
            metrics, reason = {}, ""
            try:
                metrics = self.conditions.measure(one, experiment)
            except SettingsError as error:
                reason = str(error)
            yield MemberEnd(i, metrics, self.seconds[i] + time.perf_counter() - started, reason)
        del self.members[i]
        return False


# ---------------------------------------------------------------- in another process

_features: dict[str, Features] = {}  # by hash; they hold the features of the real images, which all trials share


def _new_process(count: int, threads: int) -> GeneratorProcess:
    """Starts one of `count` processes, which imports what a trial needs; does not wait for it."""
    process = GeneratorProcess(threads, alike=count)
    process.start(_begin)
    return process


def _begin() -> Generator[None, None, None]:
    """Does nothing but start: to find this function, a new process imports all that a trial needs."""
    warnings.simplefilter("default", OwnWarning)  # shown, although a command may silence its processes' libraries
    yield from ()


def _trial_in_process(index: int, experiment: Experiment, conditions: Conditions) -> TrialEvents:
    if (features := conditions.features) is not None:
        conditions = replace(conditions, features=_features.setdefault(features.hash, features))
    return (yield from run_trial(index, experiment, conditions))
