"""Inflicts faults: each starts its runs, waits for the stage, does the harm, undoes it, and judges the runs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from chaos.plan import TAKEN_FOR_DEAD, Fault, MissedError
from chaos.records import EPOCHS, STAGES, Signs
from chaos.rows import Row
from chaos.sites import Run, Site, until
from chaos.verdict import Undisturbed, verdict

SPANS = {"prepare": 2.0, "search": 1.5, "judging": 0.3, "registration": 0.25, "gate": 0.8, "start": 0.5}  # seconds
SECONDS_TO_ARRIVE = 0.5  # of what was on its way to a server when its sender was killed
DEATHS = {"SIGKILL": 1, "SIGSTOP, SIGCONT": 0, TAKEN_FOR_DEAD: 1}  # of the flow's process, and so restarts

Harm = Callable[[], None]
Alone = Mapping[str, Undisturbed]  # by flow


def process_fault(site: Site, fault: Fault, alone: Alone) -> Row:
    """Sends a signal to the process that does a run's work."""
    run = a_run(site, fault)
    site.start(run)
    reached, process = reach(site, run, fault), site.main(run)
    before = site.records.signs(run.name)
    if not reached or site.over(run) or process is None or not _signal(process, fault):
        raise MissedError(verdict(site, run, alone[run.flow], range(1)))
    since = time.monotonic()
    time.sleep(SECONDS_TO_ARRIVE)
    hit = site.records.signs(run.name)
    if fault.seconds:
        time.sleep(max(0.0, fault.seconds - SECONDS_TO_ARRIVE))
        process.send_signal(signal.SIGCONT)
    site.resume(run)
    seconds = recovered(site, {run.name: (run, hit)}, since)
    count, in_stage = DEATHS[fault.kind], fault.stage in (run.stage(before), run.stage(hit))
    wrong = verdict(site, run, alone[run.flow], range(count if in_stage else 0, count + 1))
    stage = stage_hit(run, fault, (before, hit), wrong)
    return Row.of(fault, [stage], seconds, wrong, site, [run])


def _signal(process: psutil.Process, fault: Fault) -> bool:
    """Sends the signal, and tells whether the process was there to take it."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGSTOP if fault.seconds else signal.SIGKILL)
        return True
    return False


def stage_hit(run: Run, fault: Fault, seen: Sequence[Signs], wrong: list[str]) -> str:
    """Returns the stage of the fault, if the run was in it when it was looked at before or after.

    Raises:
        MissedError: it was in another one.
    """
    stages = [run.stage(signs) for signs in seen]
    if fault.stage == "start":
        return stages[0]
    if fault.stage not in stages:
        raise MissedError(wrong)
    return fault.stage


def shared_fault(site: Site, fault: Fault, alone: Alone, harm: Harm, restarts: range) -> Row:
    """Harms something that several runs share. It works again when `harm` returns."""
    other = "train" if fault.flow == "pipeline" else "pipeline"
    runs = [a_run(site, fault, "-a"), a_run(site, fault, "-b", other)]
    for run in runs:
        site.start(run)
    if not reach(site, runs[0], fault):
        raise MissedError([wrong for run in runs for wrong in verdict(site, run, alone[run.flow], range(1))])
    hit = {run.name: (run, site.records.signs(run.name)) for run in runs}
    since = time.monotonic()
    harm()
    seconds = recovered(site, hit, since)
    wrong = [f"{run.name}: {found}" for run in runs for found in verdict(site, run, alone[run.flow], restarts)]
    planned, other = (signs for _, signs in hit.values())
    stages = [stage_hit(runs[0], fault, [planned], wrong), runs[1].stage(other)]
    return Row.of(fault, stages, seconds, wrong, site, runs)


def disk_fault(site: Site, fault: Fault, alone: Alone, store: Path) -> Row:
    """Fills the disk of a run's store for some seconds; `store` is a folder on it."""
    run = a_run(site, fault)
    run.environment["AEMODELS_STORE"] = str(store)
    site.start(run)
    if not reach(site, run, fault):
        raise MissedError(verdict(site, run, alone[run.flow], range(1)))
    hit, since = site.records.signs(run.name), time.monotonic()
    ballast = store / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    site.stumbles(run, fault.seconds)
    ballast.unlink()
    site.resume(run)
    seconds = recovered(site, {run.name: (run, hit)}, since)
    wrong = verdict(site, run, alone[run.flow], range(2))
    return Row.of(fault, [stage_hit(run, fault, [hit], wrong)], seconds, wrong, site, [run])


def a_run(site: Site, fault: Fault, suffix: str = "", flow: str = "") -> Run:
    """Returns the run of a fault; a run that is to be hit while it prepares has nothing prepared."""
    run = Run(fault.name + suffix, flow or fault.flow)
    if fault.stage == "prepare":
        run.environment["AEMODELS_CACHE"] = str(site.folder / f"cache-{run.name}")
    return run


def reach(site: Site, run: Run, fault: Fault) -> bool:
    """Waits for the moment of the fault; returns False if the run was over before."""
    cache = Path(run.environment.get("AEMODELS_CACHE", ""))

    def reached() -> bool:
        if fault.stage == "start":
            return site.main(run) is not None
        if fault.stage == "prepare":
            return (cache / "prepared").exists()
        signs = site.records.signs(run.name)
        if fault.stage == "training" and signs.stage == "training":
            return signs.epochs > fault.delay * (EPOCHS - 3)
        return signs.stage == "end" or STAGES.index(signs.stage) >= STAGES.index(fault.stage)

    looked = 0.0

    def over() -> bool:
        nonlocal looked
        if time.monotonic() - looked < 1:
            return False
        looked = time.monotonic()
        return site.over(run)

    if not until(lambda: reached() or over(), pause=0.02) or site.over(run):
        return False
    time.sleep(fault.delay * SPANS.get(fault.stage, 0.0))
    return True


def recovered(site: Site, hit: Mapping[str, tuple[Run, Signs]], since: float) -> list[float]:
    """Measures the seconds from the fault to the first new sign of work in MLflow, of each run that was not over."""
    seconds: dict[str, float] = {}

    def all_go_on() -> bool:
        for name, (_, before) in hit.items():
            if name not in seconds and site.records.signs(name) != before:
                seconds[name] = time.monotonic() - since
        return all(name in seconds or site.over(run) for name, (run, _) in hit.items())

    until(all_go_on, pause=0.1)
    return list(seconds.values())
