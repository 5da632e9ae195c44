"""Decides about runs at their end: but for one restart, each must look as if nothing had happened.

A verdict is a list of what is wrong. It reads the databases and the disk, and trusts nothing that the product says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from chaos.sites import Run, Site, marked, until
from filelock import FileLock, Timeout

SECONDS_TO_LEAVE = 60.0  # that processes have when their run has ended
PENDING = 1  # MLflow's number of a logged model that is being made

RUNS = """
SELECT r.run_uuid, r.status, k.value, coalesce(t.value, '') FROM runs r JOIN experiments e USING (experiment_id)
JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'kind'
LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'trial'
WHERE e.name = ? AND r.lifecycle_stage = 'active'
"""
POINTS = "SELECT key, step FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'system/%'"
MODELS = """
SELECT m.model_id, m.status FROM logged_models m JOIN experiments e USING (experiment_id)
WHERE e.name = ? AND m.lifecycle_stage <> 'deleted'
"""
TAGS = """
SELECT t.value FROM tags t JOIN runs r USING (run_uuid) JOIN experiments e USING (experiment_id)
WHERE e.name = ? AND t.key = ?
"""
FLOW_RUNS = "SELECT CAST(id AS text), name, state_name FROM flow_run WHERE CAST(parameters AS text) LIKE ?"
TASK_RUNS = (
    "SELECT name, state_name FROM task_run WHERE CAST(flow_run_id AS text) = ? AND state_type IN ('RUNNING', 'PENDING')"
)
TRIALS = (
    "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = ? AND CAST(state AS text) = 'RUNNING'"
)

Points = Counter[tuple[str, str, str, int]]  # kind of the run, trial, metric, step


class Undisturbed(NamedTuple):
    """Holds what an undisturbed run leaves."""

    weights: str  # their digest
    points: Points
    runs: Counter[tuple[str, str]]  # kind, trial


def undisturbed(site: Site, run: Run) -> Undisturbed:
    """Returns what a run has left."""
    wrong = site.finish(run)
    assert not wrong, wrong
    return Undisturbed(
        weights(site, run), points(site, run), Counter((kind, trial) for _, _, kind, trial in runs(site, run))
    )


def verdict(site: Site, run: Run, alone: Undisturbed, restarts: range) -> list[str]:
    """Waits for the run's end.

    Args:
        alone: what a run of the same settings leaves undisturbed.
        restarts: how many may follow what happened.
    """
    wrong = site.finish(run)
    if wrong:
        return wrong
    count = site.restarts(run)
    if count not in restarts:
        wrong.append(
            f"{count} restarts instead of {restarts.start if len(restarts) == 1 else f'at most {restarts[-1]}'}"
        )
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: _versions(site, run),
        lambda: _metrics(site, run, alone),
        lambda: _left_open(site, run),
        lambda: _processes(run),
        lambda: _locks(site, run),
    ]
    return wrong + [fault for check in checks for fault in check()] + _weights(site, run, alone)


def runs(site: Site, run: Run) -> list[tuple[str, str, str, str]]:
    """Returns MLflow's runs under the name: id, status, kind, trial."""
    return [tuple(map(str, row)) for row in site.records.mlflow(RUNS, run.name)]  # type: ignore[misc]


def points(site: Site, run: Run) -> Points:
    """Counts all tracked points of metrics except the machine's. A point that is tracked twice counts as two."""
    found: Points = Counter()
    for run_id, _, kind, trial in runs(site, run):
        found.update((kind, trial, str(key), int(step)) for key, step in site.records.mlflow(POINTS, run_id))
    return found


def weights(site: Site, run: Run) -> str:
    """Returns the digest of the registered model's weights, as the registry keeps them."""
    ((source,),) = site.records.mlflow("SELECT source FROM model_versions WHERE name = ?", run.name)
    model_id = str(source).rpartition("/")[2]
    (file,) = [path for path in site.artifacts.rglob("weights.safetensors") if model_id in path.parts]
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---------------------------------------------------------------- the checks


def _versions(site: Site, run: Run) -> Iterator[str]:
    rows = site.records.mlflow("SELECT version FROM model_versions WHERE name = ? ORDER BY version", run.name)
    if (versions := [number for (number,) in rows]) != [1]:
        yield f"versions {versions} for one run"
    aliases = dict(site.records.mlflow("SELECT alias, version FROM registered_model_aliases WHERE name = ?", run.name))
    wanted = "champion" if run.flow == "pipeline" else "challenger"
    if list(aliases) != [wanted]:
        yield f"the aliases are {aliases}, not {wanted} alone"
    reigns = site.records.mlflow("SELECT key FROM model_version_tags WHERE name = ? AND key LIKE 'reign.%'", run.name)
    if len(reigns) != (run.flow == "pipeline"):
        yield f"{len(reigns)} champions in the history"


def _metrics(site: Site, run: Run, alone: Undisturbed) -> Iterator[str]:
    found = points(site, run)
    for what, points_ in (("lost", alone.points - found), ("doubled or new", found - alone.points)):
        if points_:
            examples = ", ".join(f"{kind} {trial} {key} {step}" for kind, trial, key, step in list(points_)[:3])
            yield f"{points_.total()} points of metrics {what}: {examples}"
    kinds = Counter((kind, trial) for _, _, kind, trial in runs(site, run))
    if kinds != alone.runs:
        yield f"runs in MLflow: {dict(kinds)}"


def _left_open(site: Site, run: Run) -> Iterator[str]:
    for run_id, status, kind, trial in runs(site, run):
        if status in ("RUNNING", "SCHEDULED"):
            yield f"MLflow's run {run_id} ({kind} {trial}) is {status}"
    models = site.records.mlflow(MODELS, run.name)
    if pending := [model for model, status in models if status == PENDING]:
        yield f"logged models are PENDING: {', '.join(pending)}"
    if len(models) - len(pending) != 1:
        yield f"{len(models) - len(pending)} finished logged models"
    for (study,) in site.records.mlflow(TAGS, run.name, "study"):
        ((running,),) = site.records.optuna(TRIALS, study) or [(0,)]
        if running:
            yield f"{running} trials are RUNNING in Optuna's study {study}"
    for flow_run, name, state in flow_runs(site, run):
        if state not in ("Completed", "Cancelled", "Failed", "Crashed"):
            yield f"Prefect's run {name} is {state}"
        open_tasks = site.records.prefect(TASK_RUNS, flow_run)
        if open_tasks:
            yield f"task runs in Prefect: {', '.join(f'{task} {state}' for task, state in open_tasks)}"
    slots = site.records.prefect("SELECT active_slots FROM concurrency_limit_v2 WHERE name = ?", f"gate-{run.name}")
    if slots and slots[0][0]:
        yield f"the limit gate-{run.name} is still held"


def flow_runs(site: Site, run: Run) -> list[tuple[str, str, str]]:
    """Returns Prefect's runs of the name: id, name, state."""
    return [tuple(map(str, row)) for row in site.records.prefect(FLOW_RUNS, f'%"{run.name}"%')]  # type: ignore[misc]


def _processes(run: Run) -> Iterator[str]:
    if not until(lambda: not marked(run.name), SECONDS_TO_LEAVE, pause=0.5):
        for process in marked(run.name):
            with suppress(psutil.Error):
                yield f"a process is left: {' '.join(process.cmdline())[-120:]}"
                process.kill()


def _locks(site: Site, run: Run) -> Iterator[str]:
    store = Path(run.environment.get("AEMODELS_STORE", site.store))
    for flow_run, _, _ in flow_runs(site, run):
        if (left := store / "attempts" / f"{flow_run}.lock").exists():
            yield f"a lock file is left: {left.name}"
    folders = [Path(folder) for (folder,) in site.records.mlflow(TAGS, run.name, "folder")]
    for lock in [store / f"gate-{run.name}.lock", *(folder / "lock" for folder in folders)]:
        if lock.exists() and held(lock):
            yield f"a lock is held: {lock.relative_to(store)}"
    for folder in folders:
        yield from (f"half a file is left: {path.name}" for path in folder.rglob("*.partial"))


def held(path: Path) -> bool:
    """Tells whether a process holds the lock."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _weights(site: Site, run: Run, alone: Undisturbed) -> list[str]:
    versions = site.records.mlflow("SELECT version FROM model_versions WHERE name = ?", run.name)
    same = len(versions) == 1 and weights(site, run) == alone.weights
    return [] if same or len(versions) != 1 else ["the weights differ from the undisturbed run's"]
