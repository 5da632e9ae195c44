"""Models that were exchanged are found out, names never become paths or queries, secrets are nowhere to be read."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aemodels import catalog
from aemodels.checkpoint import load_model
from aemodels.config import SettingsError, UserError
from aemodels.environment import without_secrets
from aemodels.registry import find, get, history, promote, register, rollback
from aemodels.settings import load_settings
from aemodels.store import Store, open_store
from aemodels.tracking import start_run

ROOT = Path(__file__).parents[1]
TINY = ["model.trunk=mlp", "model.trunk.widths=[16]", "model.latent_dim=2", "training.epochs=1", "training.images=200"]

# ---------------------------------------------------------------- files


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of a finished model."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def exchange_weights(folder: Path) -> None:
    """Other weights that fit as well."""
    file = folder / "weights.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)


def exchange_config(folder: Path) -> None:
    """Another experiment with the same network."""
    file = folder / "config.json"
    text = file.read_text()
    assert '"seed": 0' in text
    file.write_text(text.replace('"seed": 0', '"seed": 1'))


EXCHANGES = [exchange_weights, exchange_config]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_file_that_was_exchanged_is_found_out(folder: Path, exchange: Callable[[Path], None]) -> None:
    load_model(folder)
    exchange(folder)
    with pytest.raises(UserError, match=r"is not the one that was saved: .* in model\.sha256.*; train it again"):
        load_model(folder)


def test_checksums_that_are_damaged_are_said_to_be(folder: Path) -> None:
    (folder / "model.sha256").write_text("nothing\n")
    with pytest.raises(UserError, match="damaged model"):
        load_model(folder)


def test_checksums_are_those_of_sha256sum(folder: Path) -> None:
    lines = (folder / "model.sha256").read_text().splitlines()
    for line, name in zip(lines, ("config.json", "weights.safetensors"), strict=True):
        assert line == f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}"


def test_models_of_earlier_releases_are_loaded(folder: Path, store: Store, model_folder: Path) -> None:
    """Neither the folder nor the version has checksums."""
    (folder / "model.sha256").unlink()
    load_model(folder)
    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    store.client.delete_model_version_tag("tiny", "1", "model.sha256")
    (find("tiny/1", store) / "model.sha256").unlink()
    load_model(find("tiny/1", store))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_version_that_was_exchanged_is_found_out(
    store: Store, model_folder: Path, exchange: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library and by MLflow; with its checksums exchanged as well, by what the version itself knows."""
    from mlflow import pyfunc

    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    files = find("tiny/1", store)
    load_model(files)
    exchange(files)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    for load in (lambda: load_model(find("tiny/1", store)), lambda: pyfunc.load_model("models:/tiny/1")):
        with pytest.raises(UserError, match="is not the one that was saved"):
            load()
    for name in ("config.json", "weights.safetensors"):
        exchanged = hashlib.sha256((files / name).read_bytes()).hexdigest()
        lines = (files / "model.sha256").read_text().splitlines()
        lines = [f"{exchanged}  {name}" if line.endswith(name) else line for line in lines]
        (files / "model.sha256").write_text("\n".join(lines) + "\n")
    for action in (lambda: None, (files / "model.sha256").unlink):
        action()
        with pytest.raises(UserError, match=r"tiny/1: .*model\.sha256 is not the one that was registered"):
            find("tiny/1", store)


def test_a_pickle_is_not_loaded(folder: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / "weights.safetensors")
    (folder / "model.sha256").unlink()
    with pytest.raises(UserError, match="damaged model"):
        load_model(folder)


def test_nothing_of_a_model_is_a_pickle(store: Store, model_folder: Path) -> None:
    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    suffixes = {path.suffix for path in find("tiny/1", store).parent.rglob("*") if path.is_file()}
    assert suffixes <= {".py", ".json", ".safetensors", ".sha256", ".yaml", ".yml", ".txt", ".typed", ".html", ""}


# ---------------------------------------------------------------- names

TRICKS = [
    "../up",
    "..",
    "a'b",
    "a' or name != 'a",
    "%2e%2e",
    "%2e%2e%2fup",
    "a b",
    "a;b",
    "a\nb",
    "a\x00b",
    "-x",
    "",
    "é",
]
TRICKS += ["é", "a" * 101, "a" * 5000, "a/../b", "a\\b", "$HOME", "~", "`id`", "{a}"]


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_with_tricks_is_no_setting(name: str) -> None:
    with pytest.raises(SettingsError, match=r"registry\.name"):
        load_settings({"registry.name": name})
    with pytest.raises(SettingsError, match=r"data\.name"):
        load_settings({"data.name": name})
    with pytest.raises(SettingsError, match=r"--preset [^:]*: unknown"):
        load_settings({}, preset=name)


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_with_tricks_is_never_looked_up(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """None reaches MLflow's client, which would make a part of a query or an address of it."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("looked up")

    for method in ("get_registered_model", "search_model_versions", "get_model_version", "get_logged_model"):
        monkeypatch.setattr(store.client, method, asked)
    for ask in (
        lambda: get(store, name, 1),
        lambda: get(store, name, "champion"),
        lambda: history(store, name),
        lambda: promote(store, name, 1),
        lambda: rollback(store, name),
        *(lambda end=end: find(f"{name}{end}", store) for end in ("@champion", "/1")),
    ):
        with pytest.raises(UserError):
            ask()
    assert catalog.champion(store, name) is None


@pytest.mark.parametrize("alias", ["a'b", "..", "%2e%2e", "a b", "a\nb"])
def test_an_alias_with_tricks_is_not_registered(alias: str, store: Store, model_folder: Path) -> None:
    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    with pytest.raises(UserError, match="not registered"):
        find(f"tiny@{alias}", store)


@pytest.mark.parametrize("source", ["models:/..", "models:/../../outside", "/etc", "s3://me:word@host/x"])
def test_a_source_of_another_program_is_no_path_in_the_cache(source: str, tmp_path: Path, store: Store) -> None:
    """Registries are shared: what others register may say anything about where its files are."""
    store.client.create_registered_model("tiny")
    (tmp_path / "outside").mkdir()
    version = catalog.ModelVersion("tiny", 1, "")
    model = catalog.Registered(version, (), {}, "", datetime.now(UTC), {}, source)
    with pytest.raises(UserError, match="tiny/1: another program registered it") as refused:
        catalog._files(store, model)
    assert "word" not in str(refused.value)


# ---------------------------------------------------------------- secrets

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "tracking-Xq7secret",
    "OPTUNA_STORAGE": "postgresql://optuna:storage-Xq7secret@127.0.0.1:1/optuna",
    "PREFECT_API_AUTH_STRING": "admin:prefect-Xq7secret",
    "AWS_SECRET_ACCESS_KEY": "key-Xq7secret",
}
RECOGNISED = b"Xq7secret"


def aemodels(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command as a person starts it, with secrets in its environment and all of its files in one folder."""
    places = {f"AEMODELS_{name}": str(folder / name.lower()) for name in ("STORE", "CACHE")}
    found = os.environ | places | SECRETS | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env=found, cwd=folder, capture_output=True, timeout=240, check=False)


def tells_nothing(folder: Path, *outputs: subprocess.CompletedProcess[bytes]) -> None:
    """No file, no file's name and no output holds a secret."""
    for output in outputs:
        assert RECOGNISED not in output.stdout + output.stderr, output.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if RECOGNISED in path.read_bytes() or RECOGNISED in str(path).encode()] == []


@pytest.mark.slow
def test_secrets_are_in_no_file_and_no_output(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "store").mkdir()
    shutil.copy(empty_database, tmp_path / "store" / "mlflow.db")
    trained = aemodels("train", "--json", "-v", *TINY, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    tells_nothing(tmp_path, trained)


@pytest.mark.slow
def test_secrets_are_nothing_that_prefect_keeps(tmp_path: Path) -> None:
    """The pipeline runs as a flow on a server of its own, whose database is searched too."""
    small = ["tuning.trials=2", "tuning.generation=2", "tuning.epochs=1", "tuning.images=200"]
    refused = aemodels("tune", "-v", *TINY, *small, folder=tmp_path)  # nobody answers at OPTUNA_STORAGE
    assert refused.returncode == 2, refused.stderr
    alone = {"PREFECT_HOME": str(tmp_path / "prefect"), "OPTUNA_STORAGE": ""}
    done = aemodels("pipeline", "-v", *TINY, *small, folder=tmp_path, **alone)
    assert done.returncode == 0, done.stderr
    tells_nothing(tmp_path, refused)
    assert list((tmp_path / "prefect").glob("*.db"))
    tells_nothing(tmp_path, done)


@pytest.fixture
def broken_server() -> Iterator[int]:
    """Says that it is healthy, and fails on everything else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 403)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_server_that_refuses_is_told_without_the_password(
    broken_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:Xq7secret%21@127.0.0.1:{broken_server}")
    with pytest.raises(UserError, match=f"http://127.0.0.1:{broken_server}: cannot be used") as refused:
        open_store()
    assert "Xq7secret" not in str(refused.value)
    found = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    assert found == ("me", "Xq7secret!")
    assert "Xq7secret" not in os.environ["MLFLOW_TRACKING_URI"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-v"]])
def test_a_command_that_fails_does_not_tell_the_password(
    broken_server: int, tmp_path: Path, options: list[str]
) -> None:
    address = f"http://me:address-Xq7secret@127.0.0.1:{broken_server}"
    failed = aemodels("train", *options, *TINY, folder=tmp_path, MLFLOW_TRACKING_URI=address)
    assert failed.returncode == 2
    assert b"cannot be used" in failed.stderr
    assert RECOGNISED not in failed.stdout + failed.stderr


@pytest.mark.slow
def test_the_password_of_a_server_is_in_no_file_and_no_output(tmp_path: Path, empty_database: Path) -> None:
    """MLflow's own server takes what it is sent as user and password; all of its files are searched too."""
    shutil.copy(empty_database, tmp_path / "server.db")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            address = f"http://me:address-Xq7secret@127.0.0.1:{port}"
            trained = aemodels("train", "--json", "-v", *TINY, folder=tmp_path, MLFLOW_TRACKING_URI=address)
            assert trained.returncode == 0, trained.stderr
            listed = aemodels("models", folder=tmp_path, MLFLOW_TRACKING_URI=address)
            assert b"digits" in listed.stdout
            unknown = aemodels("generate", "digit@champion", folder=tmp_path, MLFLOW_TRACKING_URI=address)
            assert unknown.returncode == 2
        finally:
            server.terminate()
            server.wait(30)
    tells_nothing(tmp_path, trained, listed, unknown)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.5)


def test_messages_lose_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    told = without_secrets(
        "API request to http://me:p@ss@host:5000/api failed: storage-Xq7secret, tracking-Xq7secret; see http://host/a@b"
    )
    assert told == "API request to http://host:5000/api failed: ***, ***; see http://host/a@b"
    for name in ("PREFECT_API_KEY", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        monkeypatch.setenv(name, f"{name}-Xq7secret")
        assert "Xq7secret" not in without_secrets(f"refused {name}-Xq7secret")
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql+psycopg://aemodels:a/b+c==@postgres/optuna")
    assert "a/b+c" not in without_secrets(f"cannot reach {os.environ['OPTUNA_STORAGE']}")
    assert without_secrets("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


def test_a_failed_run_does_not_tell_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["MLFLOW_TRACKING_PASSWORD"])
    with pytest.raises(RuntimeError), start_run(store, "tiny", "one") as run:
        raise RuntimeError("http://me:tracking-Xq7secret@host refused tracking-Xq7secret")
    tag = store.client.get_run(run.id).data.tags["error"]
    assert tag == "RuntimeError: http://host refused ***"


def test_weights_are_read_once_and_checked_as_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is what is used: the file is not opened again after its checksum was taken."""
    opened: list[str] = []
    read = Path.read_bytes

    def counting(path: Path) -> bytes:
        opened.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    model = load_model(folder).model
    assert opened.count("weights.safetensors") == 1
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.parameters())
