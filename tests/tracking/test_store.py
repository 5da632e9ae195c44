"""Tests the store: how it is made, opened, refused or away, and its links and pages."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from optuna.storages import RDBStorage

from aemodels.config import UnreachableError, UserError
from aemodels.tracking.outages import is_outage
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store, open_store, printable
from aemodels.tracking.ui import serve_ui


def test_a_fresh_store_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That holds where another process was killed while making it, and in a folder with an odd name."""
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


def test_a_library_that_does_not_load_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library does not load where memory is short."""
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path))
    open_store()
    code = """
import sys
sys.modules["mlflow.store.tracking.sqlalchemy_store"] = None
from aemodels.tracking.store import open_store
open_store()
"""
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "mlflow.db: cannot be used as MLflow's store" in refused.stderr
    assert "a library cannot be loaded: free memory" in refused.stderr
    assert "damaged" not in refused.stderr


@pytest.mark.slow
def test_two_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = "from aemodels.tracking.store import open_store; print(open_store().experiment('tiny'))"
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
    with pytest.raises(UserError, match=r"file/store/.*: Not a directory; .*set AEMODELS_STORE"):
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
    with pytest.raises(Exception, match="refused") as away:  # Optuna's study, whose PostgreSQL is not there now
        RDBStorage("postgresql+psycopg://nobody@127.0.0.1:9/optuna")
    assert is_outage(away.value)
    told = UserError("mend me")
    told.__context__ = away.value
    assert not any(map(is_outage, (told, OSError("no space left"), MlflowException("no such run"), None)))


def test_a_server_whose_database_is_away_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers questions about the server's health."""
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


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be used"):
            serve_ui(port)


def test_a_server_has_a_ui_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    with pytest.raises(UserError, match="open http://host:5000"):
        serve_ui()
