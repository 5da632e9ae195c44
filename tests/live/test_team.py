"""Tests a team's life: schedules, dead workers, servers that are away, and cancelled runs."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

pytestmark = [pytest.mark.live, pytest.mark.flow]


def settings(team: Any, name: str, epochs: int, **changes: Any) -> dict[str, Any]:
    """Returns the settings of a short training on real digits."""
    mnist = "AEMODELS_DATA" in team.environment
    return {
        "data": {"name": "mnist" if mnist else "digits"},
        "model": {"name": "vae", "latent_dim": 8, "trunk": {"name": "mlp", "widths": [64]}},
        "training": {"epochs": epochs, "images": 5000 if mnist else None},
        "tuning": {"trials": 2, "generation": 2, "epochs": 1, "images": 500},
        "registry": {"name": name, "tolerance": 100},  # a linear code may be better than so short a training
    } | changes


def test_what_is_deployed_twice_is_there_once(team: Any, client: Any) -> None:
    def deployed() -> tuple[list[Any], ...]:
        automations, deployments = client.read_automations(), client.read_deployments()
        kept = sorted(str(one.id) for one in automations if one.name.startswith("aemodels"))  # they watch what runs
        return sorted(one.name for one in automations), sorted(one.name for one in deployments), kept

    def slugs() -> list[str]:
        return sorted(one.slug for one in client.read_deployment_by_name("pipeline/pipeline").schedules)

    team.deploy(pipeline={"schedules": [{"cron": "0 0 1 1 *", "slug": "yearly", "active": True}]})
    assert slugs() == ["yearly"]
    team.deploy()
    assert slugs() == ["nightly"]  # the other one is no longer in the file
    once, pipeline = deployed(), client.read_deployment_by_name("pipeline/pipeline")
    client.update_deployment_schedule(pipeline.id, pipeline.schedules[0].id, active=False)
    team.deploy()
    assert deployed() == once
    (schedule,) = client.read_deployment_by_name("pipeline/pipeline").schedules
    assert not schedule.active  # a person has switched it off
    assert len(set(once[0])) == len(once[0]) == 6  # four of ours, and a trigger each of the pipeline and of monitor


def start(client: Any, name: str, parameters: dict[str, Any]) -> UUID:
    deployment = client.read_deployment_by_name(name)
    run: UUID = client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id
    return run


def state(client: Any, run: UUID) -> str:
    return str(client.read_flow_run(run).state.name)


def states(client: Any, run: UUID) -> list[Any]:
    return sorted(client.read_flow_run_states(run), key=lambda state: state.timestamp)


def epochs_tracked(name: str) -> list[int]:
    """Returns the tracked epochs of the only training of that name, in the order of their steps."""
    from aemodels.tracking.store import open_store

    store = open_store()
    found = store.client.get_experiment_by_name(name)
    runs = store.client.search_runs([found.experiment_id], "tags.kind = 'training'") if found else []
    if not runs:
        return []
    assert len(runs) == 1
    return sorted(metric.step for metric in store.client.get_metric_history(runs[0].info.run_id, "train/loss"))


def training_status(name: str) -> str:
    from aemodels.tracking.store import open_store

    store = open_store()
    (run,) = store.client.search_runs([store.experiment(name)], "tags.kind = 'training'")
    return str(run.info.status)


def test_runs_come_by_schedule_one_at_a_time(team: Any, client: Any, within: Any) -> None:
    from aemodels.tracking.catalog import champion
    from aemodels.tracking.store import open_store

    every = {"interval": 5, "slug": "often", "active": True}
    parameters = {"settings": settings(team, "scheduled", 3)}
    team.deploy(pipeline={"parameters": parameters, "schedules": [every]})
    deployment = client.read_deployment_by_name("pipeline/pipeline")

    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

    def runs() -> list[Any]:
        return [run for run in client.read_flow_runs(deployment_filter=only) if run.start_time is not None]

    with team.worker():
        ended = within(240, lambda: len(done := [r for r in runs() if r.end_time]) >= 2 and done, "two scheduled runs")
        client.pause_deployment(deployment.id)
        waiting = [run for run in client.read_flow_runs(deployment_filter=only) if run.start_time is None]
        # One waited while another ran. Those that still do would take the turn of other tests.
        assert "AwaitingConcurrencySlot" in {state.name for run in waiting for state in states(client, run.id)}
        for run in waiting:
            client.delete_flow_run(run.id)
        within(120, lambda: all(run.end_time for run in runs()), "the last run")
    assert all(run.auto_scheduled for run in ended)
    assert {run.state.name for run in runs()} == {"Completed"}
    spans = sorted((run.start_time, run.end_time) for run in runs())
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    now = champion(open_store(), "scheduled")
    assert now is not None
    assert now.tags["gate.decision"] == "promoted"


@pytest.mark.slow
def test_a_run_whose_worker_dies_comes_to_its_end(team: Any, client: Any, within: Any) -> None:
    team.deploy()
    with team.worker("doomed") as worker:
        run = start(client, "pipeline/pipeline", {"settings": settings(team, "killed", 150)})
        within(60, lambda: len(epochs_tracked("killed")) >= 3, "three epochs")
        worker.kill()
    killed = time.monotonic()
    assert state(client, run) == "Running"
    with team.worker("next"):
        within(200, lambda: state(client, run) == "Completed", "the end")
    print(f"the run ended {time.monotonic() - killed:.0f} s after its worker was killed", file=sys.stderr)
    names = [state.name for state in states(client, run)]
    assert names.count("Running") == 2
    assert "Crashed" in names
    tracked = epochs_tracked("killed")
    assert sorted(tracked) == list(range(1, 151))  # the second went on where the first was
    assert training_status("killed") == "FINISHED"


@pytest.mark.slow
def test_a_killed_process_is_started_again_once(team: Any, client: Any, within: Any) -> None:
    """Prefect's own worker would report its end twice. The second report would end the new attempt."""
    from aemodels.tracking.catalog import list_models
    from aemodels.tracking.store import open_store

    def process_of(run: UUID) -> psutil.Process | None:
        for process in worker.processes():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run) and "prefect.engine" in process.cmdline():
                    return process
        return None

    team.deploy()
    with team.worker() as worker:
        names = ["shot-1", "shot-2", "shot-3"]
        started = {name: start(client, "train/train", {"settings": settings(team, name, 150)}) for name in names}
        for name, run in started.items():
            within(60, lambda name=name: len(epochs_tracked(name)) >= 3, "three epochs")
            process = process_of(run)
            assert process is not None
            process.kill()
        for run in started.values():
            within(200, lambda run=run: state(client, run) == "Completed", "the end")
    store = open_store()
    for name, run in started.items():
        assert client.read_flow_run(run).run_count == 2
        assert [one.name for one in states(client, run)].count("Crashed") == 1
        assert epochs_tracked(name) == list(range(1, 151))
        assert [row.version.version for row in list_models(store) if row.version.name == name] == [1]


@pytest.mark.slow
def test_a_run_that_is_taken_for_dead_goes_on_and_ends_once(team: Any, client: Any, within: Any) -> None:
    """After an outage of Prefect's server the process lives, and the server starts another one."""
    from prefect.states import Crashed

    from aemodels.tracking.catalog import list_models
    from aemodels.tracking.store import open_store

    team.deploy()
    with team.worker():
        run = start(client, "train/train", {"settings": settings(team, "doubled", 250)})
        within(60, lambda: len(epochs_tracked("doubled")) >= 3, "three epochs")
        client.set_flow_run_state(run, Crashed())
        within(120, lambda: state(client, run) == "Completed", "the end")
    assert client.read_flow_run(run).run_count == 2
    tracked = epochs_tracked("doubled")  # of the only training
    assert sorted(tracked) == list(range(1, 251))
    assert training_status("doubled") == "FINISHED"
    assert [row.version.version for row in list_models(open_store()) if row.version.name == "doubled"] == [1]


@pytest.mark.slow
def test_a_run_that_crashed_before_it_ran_starts_again_once(team: Any, client: Any, within: Any) -> None:
    from prefect.states import Crashed, Pending

    team.deploy()
    run = start(client, "train/train", {"settings": settings(team, "lost", 1)})  # there is no worker
    client.set_flow_run_state(run, Pending(), force=True)
    client.set_flow_run_state(run, Crashed(), force=True)
    within(30, lambda: state(client, run) == "Scheduled", "another start")
    client.set_flow_run_state(run, Crashed(), force=True)
    time.sleep(5)
    assert state(client, run) == "Crashed"


def test_a_limit_is_free_again_when_the_server_was_restarted_meanwhile(team: Any, client: Any) -> None:
    from flows.tasks import alone

    with alone("restarted"):
        team.prefect.stop()
        team.prefect.start()
    assert client.read_global_concurrency_limit_by_name("restarted").active_slots == 0
    with alone("restarted"):
        assert client.read_global_concurrency_limit_by_name("restarted").active_slots == 1


def test_a_cancelled_run_stops_and_says_so(team: Any, client: Any, within: Any) -> None:
    from prefect.states import Cancelling

    team.deploy()
    with team.worker():
        run = start(client, "train/train", {"settings": settings(team, "cancelled", 5000)})
        within(60, lambda: len(epochs_tracked("cancelled")) >= 2, "two epochs")
        client.set_flow_run_state(run, Cancelling())
        asked = time.monotonic()
        within(30, lambda: state(client, run) == "Cancelled", "the end")
        assert training_status("cancelled") == "KILLED"
        print(f"cancelled within {time.monotonic() - asked:.0f} s", file=sys.stderr)
        assert not [p for p in psutil.process_iter(["cmdline"]) if str(run) in " ".join(p.info["cmdline"] or ())]


@pytest.mark.slow
def test_nothing_is_lost_while_the_mlflow_server_is_away(team: Any, client: Any, within: Any) -> None:
    from aemodels.tracking.catalog import list_models
    from aemodels.tracking.store import open_store

    team.deploy()
    with team.worker():
        run = start(client, "train/train", {"settings": settings(team, "away", 100)})
        within(60, lambda: len(epochs_tracked("away")) >= 2, "two epochs")
        team.mlflow.stop()
        time.sleep(20)
        assert state(client, run) == "Running"
        team.mlflow.start()
        within(180, lambda: state(client, run) == "Completed", "the end")
    assert epochs_tracked("away") == list(range(1, 101))
    assert training_status("away") == "FINISHED"
    assert [row.version.version for row in list_models(open_store()) if row.version.name == "away"] == [1]


def drawn(folder: Path, images: Any) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04}.png")


def runs_of(client: Any, name: str, after: Any) -> list[Any]:
    asked = DeploymentFilter(id=DeploymentFilterId(any_=[client.read_deployment_by_name(name).id]))
    found = client.read_flow_runs(deployment_filter=asked)
    return [run for run in found if run.created > after and not run.auto_scheduled]


def test_drift_starts_the_pipeline_and_a_new_champion_a_check(
    team: Any, client: Any, within: Any, tmp_path: Path
) -> None:
    """The folders hold real digits, and the new ones are inverted."""
    from datetime import UTC, datetime

    from sklearn.datasets import load_digits

    from aemodels.tracking.catalog import champion
    from aemodels.tracking.history import history
    from aemodels.tracking.store import open_store

    images = (load_digits().images * 15.9).astype("uint8").repeat(2, 1).repeat(2, 2)  # (N, 16, 16)
    drawn(tmp_path / "old", images[:900])
    drawn(tmp_path / "new", 255 - images[900:1200])
    folder = {"name": "folder", "path": [str(tmp_path / "old")]}
    plan = settings(team, "drifting", 0, data=folder, training={"epochs": 40}, evaluation={"primary": "mse"})
    watch = {"name": "drifting", "folders": [str(tmp_path / "new")]}
    team.deploy(model="drifting", pipeline={"parameters": {"settings": plan}}, monitor={"parameters": watch})
    begun = datetime.now(UTC)
    with team.worker():
        first = start(client, "pipeline/pipeline", {})
        within(120, lambda: state(client, first) == "Completed", "the first champion")
        checks = within(60, lambda: runs_of(client, "monitor/monitor", begun), "a check by the first champion")
        within(60, lambda: state(client, checks[0].id) == "Completed", "the check")
        within(60, lambda: len(runs_of(client, "pipeline/pipeline", begun)) == 2, "retraining")
        (again,) = [run.id for run in runs_of(client, "pipeline/pipeline", begun) if run.id != first]
        within(120, lambda: state(client, again) == "Completed", "the second champion")
        within(90, lambda: len(runs_of(client, "monitor/monitor", begun)) == 2, "a check by the second champion")
        (last,) = [run for run in runs_of(client, "monitor/monitor", begun) if run.id != checks[0].id]
        within(60, lambda: state(client, last.id) == "Completed", "the check")
    parameters = client.read_flow_run(again).parameters
    assert parameters["settings"] == plan  # the team's search and gate
    assert parameters["data"]["path"] == [str(tmp_path / "old"), str(tmp_path / "new")]
    assert [reign.version for reign in history(open_store(), "drifting")] == [1, 2]
    now = champion(open_store(), "drifting")
    assert now is not None
    store = open_store()
    kept = store.client.search_runs([store.experiment("drifting")], "tags.kind = 'monitoring'")
    assert sorted((run.data.tags["model"], run.data.tags["drift"]) for run in kept) == [
        ("drifting/1", "true"),
        ("drifting/2", "false"),
    ]
