"""Lets two people choose the champion of one model at once, and kills one of their commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
from chaos.plan import Fault, MissedError
from chaos.rows import Row
from chaos.sites import Run, Site, dotted, marked, settings_of, until
from chaos.verdict import SECONDS_TO_LEAVE, flow_runs, held

ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"
REIGNS = "SELECT key, version FROM model_version_tags WHERE name = ? AND key LIKE 'reign.%'"
LONGEST = 0.4  # seconds from the moment in which a command is at the gate to its death


def race(site: Site, fault: Fault) -> Row:
    """Runs `promote` and `rollback` at once. One of them is killed at the gate, and is then started again."""
    run = Run(fault.name, "promote")
    wrong = two_versions(site, run)
    if wrong:
        return Row.of(fault, [], [], wrong)
    arguments = [["promote", run.name, "1", "--reason", "a race"], ["rollback", run.name]]
    first = int(fault.delay * 10) % 2  # who is killed
    commands = [site.command(run, *words) for words in arguments]
    killed = psutil.Process(commands[first].pid)
    until(lambda: at_gate(killed, run.name) or commands[first].poll() is not None, pause=0.005)
    time.sleep(fault.delay * LONGEST)
    commands[first].kill()
    since = time.monotonic()
    died = commands[first].wait() != 0
    codes = [commands[1 - first].wait()]
    again = site.command(run, *arguments[first])
    codes.append(again.wait())
    seconds = time.monotonic() - since
    wrong = [f"a command ended with exit code {code}" for code in codes if code]
    wrong += [*verdict(site, run)]
    if not died:
        raise MissedError(wrong)
    return Row.of(fault, ["gate"], [seconds], wrong)


def two_versions(site: Site, run: Run) -> list[str]:
    """Trains two models of the name; the second is the champion, the first the previous one."""
    quick = {**settings_of(run), "training": {"epochs": 1, "images": 100}}
    commands = [site.command(run, "train", *dotted(quick), f"seed={seed}") for seed in range(2)]
    codes = [command.wait() for command in commands]
    codes += [site.command(run, "promote", run.name, version).wait() for version in "12"]
    return [f"exit codes before the race: {codes}"] if any(codes) else []


def at_gate(process: psutil.Process, name: str) -> bool:
    """Tells whether the process holds, or waits for, the lock of the decisions about a model."""
    with suppress(psutil.Error):
        return any(file.path.endswith(f"gate-{name}.lock") for file in process.open_files())
    return False


def verdict(site: Site, run: Run) -> Iterator[str]:
    """Yields what is wrong.

    The history must end with the champion, the previous one must differ, and no lock may be held.
    """
    aliases = dict(site.records.mlflow(ALIASES, run.name))
    reigns = sorted(site.records.mlflow(REIGNS, run.name))
    if set(aliases) != {"champion", "previous"} or len(set(aliases.values())) != 2:
        yield f"the aliases are {aliases}"
    if not reigns or reigns[-1][1] != aliases.get("champion"):
        yield f"the history ends with {reigns[-1:]}, and the champion is {aliases.get('champion')}"
    if held(site.store / f"gate-{run.name}.lock"):
        yield "the gate's lock is held"
    slots = site.records.prefect("SELECT active_slots FROM concurrency_limit_v2 WHERE name = ?", f"gate-{run.name}")
    if slots and slots[0][0]:
        yield f"the limit gate-{run.name} is still held"
    for _, name, state in flow_runs(site, run):
        if state not in ("Completed", "Failed", "Crashed", "Cancelled"):
            yield f"Prefect's run {name} is {state}"
    if not until(lambda: not marked(run.name), SECONDS_TO_LEAVE, pause=0.5):
        yield f"processes are left: {[process.pid for process in marked(run.name)]}"
