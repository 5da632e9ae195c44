"""Tests what is recorded of a run, in the embedded store and on real servers."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
from postgres import free_port

from aemodels.data import PreparedData
from aemodels.tracking.catalog import find
from aemodels.tracking.origin import standard_tags
from aemodels.tracking.registry import register
from aemodels.tracking.run import LONGEST_PARAM, Run, resume_run, start_run
from aemodels.tracking.store import Store, open_store


@pytest.fixture
def run(store: Store) -> Run:
    return start_run(store, "tiny", "vae 3", {"kind": "training"})


def status(run: Run) -> str:
    return run.store.client.get_run(run.id).info.status


def _use(run: Run, error: type[BaseException] | None) -> None:
    with run:
        run.params({"model.latent_dim": 3, "data.path": "x" * 9000})
        run.metrics({"train/loss": 2.0}, 1)
        if error is not None:
            raise error("it broke")


def test_a_run_ends_as_the_block_ends(store: Store) -> None:
    ends: dict[type[BaseException] | None, str] = {
        None: "FINISHED",
        ValueError: "FAILED",
        KeyboardInterrupt: "KILLED",
        SystemExit: "KILLED",
        GeneratorExit: "KILLED",
    }
    for error, expected in ends.items():
        run = start_run(store, "tiny", "one")
        with nullcontext() if error is None else pytest.raises(error):  # never swallowed
            _use(run, error)
        assert status(run) == expected
        told = store.client.get_run(run.id).data.tags.get("error")
        assert told == ("ValueError: it broke" if error is ValueError else None)


def test_a_resumed_run_goes_on(run: Run) -> None:
    with pytest.raises(ValueError, match="broke"):
        _use(run, ValueError)
    again = resume_run(run.store, run.id)
    assert again == run
    assert status(run) == "RUNNING"
    again.params({"model.latent_dim": 3, "data.path": "x" * 9000, "model.beta": 1.0})  # params are written once
    again.metrics({"train/loss": 1.0}, 2)
    again.end("FINISHED")
    data = run.store.client.get_run(run.id).data
    assert "error" not in data.tags
    assert set(data.params) == {"model.latent_dim", "data.path", "model.beta"}
    assert [one.value for one in run.store.client.get_metric_history(run.id, "train/loss")] == [2.0, 1.0]


def test_a_run_that_is_gone_is_not_resumed(run: Run) -> None:
    run.store.client.delete_run(run.id)
    assert resume_run(run.store, run.id) is None
    assert resume_run(run.store, "0" * 32) is None


def test_params_are_as_the_command_line_takes_them(run: Run) -> None:
    run.params({"a": None, "b": True, "c": [400, 200], "d": "vae", "e": 1e-3, "f": "x" * 9000})
    params = run.store.client.get_run(run.id).data.params
    long = params.pop("f")
    assert params == {"a": "null", "b": "true", "c": "[400, 200]", "d": "vae", "e": "0.001"}
    assert len(long) <= LONGEST_PARAM
    assert long.endswith("(9000 characters)")


def test_pictures_are_cards_and_figures(run: Run) -> None:
    picture = np.zeros((130, 900, 3), np.uint8)
    run.image("val/samples", picture, step=3)
    run.figure("codes", picture)
    client = run.store.client
    cards = [file.path for file in client.list_artifacts(run.id, "images")]
    assert len(cards) == 2  # the picture and its thumbnail: it was written before the call returned
    assert all(card.startswith("images/val~samples+step+3+") for card in cards)
    assert client.get_run(run.id).data.tags["mlflow.loggedImages"] == "True"
    assert [file.path for file in client.list_artifacts(run.id, "figures")] == ["figures/codes.png"]


def test_the_data_set_is_an_input(run: Run) -> None:
    data = PreparedData(
        name="tiny", path=Path("/x"), digest="d" * 32, image_shape=(1, 8, 8), classes=(), sizes={}, binarize="none"
    )
    run.dataset(data)
    (entry,) = run.store.client.get_run(run.id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("tiny", "d" * 32)


def test_a_trial_is_under_its_search(run: Run) -> None:
    trial = start_run(run.store, "tiny", "trial 0", parent=run.id)
    (found,) = run.store.client.search_runs([run.experiment_id], f"tags.mlflow.parentRunId = '{run.id}'")
    assert found.info.run_id == trial.id


def test_standard_tags_name_what_made_the_result(run: Run) -> None:
    tags = standard_tags(seed=7, device="cpu")
    assert tags["seed"] == "7"
    assert {"device", "versions"} <= set(tags)
    assert all(f"{name} " in tags["versions"] for name in ("python", "torch", "mlflow"))
    run.tags(tags | {"long": "x" * 100_000})
    assert tags.items() <= run.store.client.get_run(run.id).data.tags.items()


def test_system_metrics_are_recorded_without_an_active_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    with run.system_metrics():
        time.sleep(1.5)
    assert "system/cpu_utilization_percentage" in run.store.client.get_run(run.id).data.metrics


# ---- servers, for real


def status_of(port: int, headers: dict[str, str]) -> int:
    """Returns the status of the answer to a request that a page may send without asking first."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        body = json.dumps({"max_results": 1})
        connection.request("POST", "/ajax-api/2.0/mlflow/experiments/search", body, headers)
        return connection.getresponse().status


@pytest.mark.slow
def test_the_ui_shows_the_embedded_store(run: Run) -> None:
    port = free_port()
    code = f"from aemodels.tracking.ui import serve_ui; serve_ui({port})"
    ui = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={run.id}"
        with urllib.request.urlopen(address, timeout=60) as reply:
            assert json.load(reply)["run"]["info"]["run_name"] == "vae 3"
        foreign = [
            {"Host": f"10.elsewhere.example:{port}"},
            {"Origin": "http://elsewhere.example", "Host": "localhost:1"},
        ]
        for headers in foreign:  # a page elsewhere, whose name leads to this machine, and one that sends across
            assert status_of(port, headers) == 403
        own = {"Host": "localhost:1", "Content-Type": "application/json"}
        assert status_of(port, own) == 200  # such as through a tunnel
    finally:
        ui.terminate()
        ui.wait(60)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.slow
def test_a_server_may_go_away_for_a_while(
    empty_database: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, artifacts and the registry work over HTTP. The server is away in the middle of a run."""
    shutil.copy(empty_database, tmp_path / "server.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path)]
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    servers = [subprocess.Popen(command, start_new_session=True)]
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        store = open_store()
        with start_run(store, "tiny", "one") as run:
            run.metrics({"test/mse": 1.0})
            os.killpg(servers[0].pid, signal.SIGKILL)
            servers[0].wait()
            restart = threading.Timer(10, lambda: servers.append(subprocess.Popen(command, start_new_session=True)))
            restart.start()
            run.metrics({"test/mse": 0.5}, 1)  # waits for it
            restart.join()
            run.figure("grid", np.zeros((8, 8, 3), np.uint8))
            register(run, model_folder, "tiny", {"mse": 0.5}, "d" * 32)
        assert status(run) == "FINISHED"
        assert len(store.client.get_metric_history(run.id, "test/mse")) == 2
        found = find("tiny@challenger")
        assert (found / "weights.safetensors").read_bytes() == (model_folder / "weights.safetensors").read_bytes()
        assert find("tiny/1") == found  # copied once
        assert run.url.startswith(f"http://127.0.0.1:{port}/#/experiments/")
    finally:
        for server in servers:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def wait_for(address: str, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.5)
