"""The store and what is recorded of a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from aemodels.config import UserError
from aemodels.data import PreparedData
from aemodels.registry import find, register
from aemodels.store import Store, UnreachableError, is_outage, open_store, printable, serve_ui
from aemodels.tracking import LONGEST_PARAM, Run, resume_run, standard_tags, start_run


@pytest.fixture
def run(store: Store) -> Run:
    return start_run(store, "tiny", "vae 3", {"kind": "training"})


def status(run: Run) -> str:
    return run.store.client.get_run(run.id).info.status


# ---- the store


def test_a_fresh_store_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another process was killed making it, and in a folder with an odd name."""
    folder = tmp_path / "my störe 100%"
    monkeypatch.setenv("AEMODELS_STORE", str(folder))
    folder.mkdir()
    (folder / "mlflow.db.partial").write_bytes(b"half a database")
    (folder / "mlflow.db.partial-journal").write_bytes(b"and its journal")
    store = open_store()
    with start_run(store, "tiny", "one") as run:
        run.text("note.txt", "hello")
    assert (folder / "artifacts" / "tiny" / run.id / "artifacts" / "note.txt").read_text() == "hello"
    assert not list(folder.glob("*.partial*"))
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.slow
def test_two_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = "from aemodels.store import open_store; print(open_store().experiment('tiny'))"
    environment = os.environ | {"AEMODELS_STORE": str(tmp_path / "store")}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0] == answers[1] == (b"1\n", b"")


def test_a_damaged_database_is_named(store: Store) -> None:
    path = Path(store.uri.removeprefix("sqlite:///"))
    other = path.with_name("other")
    other.mkdir()
    (other / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(other))
        with pytest.raises(UserError, match=r"other/mlflow.db: cannot be used .*move the damaged file away"):
            open_store()


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host"])
def test_other_kinds_of_stores_are_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=f"MLFLOW_TRACKING_URI={uri}: not a store"):
        open_store()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "file" / "store"))
    with pytest.raises(UserError, match="AEMODELS_STORE: cannot write"):
        open_store()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_server_that_does_not_answer_is_named_within_five_seconds(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not hangs:
            listener.close()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")  # they are taken from the address
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        started = time.perf_counter()
        with pytest.raises(UserError, match=rf"MLFLOW_TRACKING_URI=http://127.0.0.1:{port}: .* does not answer"):
            open_store()
    assert time.perf_counter() - started < 5


def test_an_outage_is_told_from_what_waiting_does_not_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(MlflowException) as away:
        MlflowClient(f"http://127.0.0.1:{port}").search_experiments()
    assert is_outage(away.value)
    assert is_outage(UnreachableError("no answer"))
    told = UserError("mend me")
    told.__context__ = away.value
    assert not any(map(is_outage, (told, OSError("no space left"), MlflowException("no such run"), None)))


def test_a_server_whose_database_is_away_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Of its health."""
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.send_response(503)
            self.end_headers()

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UnreachableError, match=r"cannot be used .*; start the database behind it"):
            open_store()
        server.shutdown()


def test_passwords_are_not_printed() -> None:
    assert printable("http://me:pass@word@host:5000/path") == "http://host:5000/path"
    assert printable("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


def test_links_open_the_model_training_view(store: Store) -> None:
    links = [store.run_url("1", "abc"), store.table_url("1"), store.pictures_url("1"), store.registry_url("digits", 3)]
    links.append(store.compare_url("1", ["abc", "def"]))
    for link in links:
        page = urlsplit(urlsplit(link).fragment)
        assert parse_qs(page.query)["workflowType"] == ["machine_learning"]
    assert json.loads(parse_qs(page.query)["runs"][0]) == ["abc", "def"]


def test_a_deleted_experiment_is_not_revived(store: Store) -> None:
    store.client.delete_experiment(store.experiment("tiny"))
    with pytest.raises(UserError, match=r"tiny: this experiment was deleted .* restore -x 1"):
        store.experiment("tiny")


# ---- a run


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
    assert {"device", "version.torch", "version.mlflow", "version.python"} <= set(tags)
    run.tags(tags | {"long": "x" * 100_000})
    assert tags.items() <= run.store.client.get_run(run.id).data.tags.items()


def test_system_metrics_are_recorded_without_an_active_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    with run.system_metrics():
        time.sleep(1.5)
    assert "system/cpu_utilization_percentage" in run.store.client.get_run(run.id).data.metrics


# ---- servers, for real


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be used"):
            serve_ui(port)


def test_a_server_has_a_ui_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    with pytest.raises(UserError, match="open http://host:5000"):
        serve_ui()


@pytest.mark.slow
def test_the_ui_shows_the_embedded_store(run: Run) -> None:
    port = free_port()
    code = f"from aemodels.store import serve_ui; serve_ui({port})"
    ui = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={run.id}"
        with urllib.request.urlopen(address, timeout=60) as reply:
            assert json.load(reply)["run"]["info"]["run_name"] == "vae 3"
    finally:
        ui.terminate()
        ui.wait(60)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.slow
def test_a_server_may_go_away_for_a_while(
    empty_database: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, artifacts and the registry over HTTP, and an outage in the middle of a run."""
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


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
