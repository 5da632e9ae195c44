"""Tests folders with odd names, and users without a home, a name or a place to write to."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from commands import TINY, Answer, call, picture_folder, refused
from disks import as_stranger, open_folder, read_only

from aemodels.config import UserError
from aemodels.runtime.environment import cache_folder, data_root, give_libraries_a_home, store_folder

NAMES = ["My%20Project #1?; é 'x'", '50%&{a}"b"~$HOME', "Ünïcödé 数字/ ends in a space "]


@pytest.fixture(params=NAMES)
def oddly_named(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an oddly named current folder. The other folders are given by relative paths, links and final slashes."""
    folder = tmp_path / request.param
    (folder / "real").mkdir(parents=True)
    (folder / "link").symlink_to("real", target_is_directory=True)
    monkeypatch.chdir(folder)
    for name, path in {"STORE": "link/store/", "CACHE": "./cache", "DATA": str(folder / "data")}.items():
        monkeypatch.setenv(f"AEMODELS_{name}", path)
    return folder


def page(port: int, path: str) -> bytes:
    """Returns what MLflow's server answers, once it has started."""
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not start")


@pytest.fixture
def ui(oddly_named: Path) -> Iterator[int]:  # noqa: ARG001  where it serves
    """Runs `aemodels ui` on that port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "ui", "--port", str(port)], stdout=subprocess.DEVNULL
    )
    yield port
    server.terminate()
    server.wait(30)


@pytest.mark.slow
def test_everything_works_in_an_oddly_named_folder(oddly_named: Path, ui: int) -> None:
    """Own images, all commands and MLflow's pages work, and nothing is written beside the folder."""
    images = picture_folder(oddly_named / "images #1?", 40)
    settings = [f"data.path=./{images.relative_to(oddly_named)}/", "data=folder", "registry.name=odd", *TINY]
    trained = call("train", *settings, "training.images=null", "--json").json
    store = oddly_named / "real" / "store"
    assert Path(trained["folder"]).is_relative_to(store)
    assert call("tune", *settings, "training.images=null", "tuning.trials=1", "--json").code == 0
    assert call("promote", "odd", 1).code == 0
    for command, file in (("generate", "drawn?.png"), ("reconstruct", "a#b.png"), ("embed", "c%20d.npz")):
        given = [] if command == "generate" else [images]
        assert call(command, "odd@champion", *given, "-o", file).code == 0
        assert (oddly_named / file).is_file()
    assert call("evaluate", "odd@champion", "--json").code == 0
    assert call("generate", trained["folder"], "-o", "of a folder.png").code == 0
    report = Path(call("report", "odd/1", "--json").json["report"])
    assert report.is_relative_to(store)
    address = f"get-artifact?path={quote('report.html')}&run_uuid={trained['run_id']}"
    assert page(ui, address) == report.read_bytes()
    made = {path.relative_to(oddly_named).parts[0] for path in oddly_named.rglob("*")}
    assert made == {"real", "link", "cache", images.name, "drawn?.png", "a#b.png", "c%20d.npz", "of a folder.png"}
    beside = oddly_named if oddly_named.parent.name.startswith("test_") else oddly_named.parent
    assert list(beside.parent.iterdir()) == [beside]


def test_a_home_is_where_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AEMODELS_STORE", "~/a store/")
    assert store_folder() == tmp_path / "a store"
    before = dict(os.environ)
    give_libraries_a_home()
    assert dict(os.environ) == before


def test_a_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_STORE", "~nobody-of-that-name/models")
    refused(call("models"), "AEMODELS_STORE=~nobody-of-that-name/models: ", "the whole path of a folder")
    monkeypatch.setenv("AEMODELS_DATA", "~nobody-of-that-name/data")
    with pytest.raises(UserError, match="AEMODELS_DATA=~nobody-of-that-name/data: "):
        data_root()


def test_a_read_only_home_gives_way_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    for variable in ("MPLCONFIGDIR", "PREFECT_HOME", "TORCH_HOME"):
        monkeypatch.delenv(variable, raising=False)
    with read_only(tmp_path / "home"):
        give_libraries_a_home()
        assert os.environ["PREFECT_HOME"] == str(tmp_path / "cache" / "home" / "prefect")
        assert os.environ["HOME"] == str(tmp_path / "home")  # `~` means what it meant
        monkeypatch.delenv("AEMODELS_CACHE")
        refused(call("models"), str(tmp_path / "home" / ".cache"), "Read-only file system", "set AEMODELS_CACHE to")


def test_a_deleted_current_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("AEMODELS_CACHE", "cache")
    with pytest.raises(UserError, match=r"AEMODELS_CACHE=cache: .*No such file.*whole path of a folder"):
        cache_folder()


# ---------------------------------------------------------------- a user without name and home


def command(*arguments: object, folder: Path, **environment: str) -> Answer:
    ran = as_stranger(["-m", "flows.cli.main", *map(str, arguments)], folder, OMP_NUM_THREADS="1", **environment)
    return Answer(ran.returncode, ran.stdout, ran.stderr)


def test_a_user_without_a_home_is_told_the_variable() -> None:
    refused(command("models", folder=Path("/")), "AEMODELS_CACHE is not set: ", "whole path of a folder")


@pytest.mark.slow
def test_a_store_that_a_user_may_only_read_is_read() -> None:
    """The database library makes files beside a database even if it only reads it."""
    with open_folder() as folder:
        places = {"AEMODELS_CACHE": str(folder / "cache"), "AEMODELS_STORE": str(folder / "store")}
        assert command("models", folder=Path("/"), **places).code == 0  # now there is a store
        store = folder / "store"
        with sqlite3.connect(store / "mlflow.db") as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            database.execute("INSERT INTO registered_models (name, creation_time) VALUES ('seen', 0)")
        database.close()
        for path in (store, *store.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
            os.chown(path, 0, 0)
        answer = command("history", "seen", folder=Path("/"), **places)
        assert (answer.code, answer.err) == (0, "")
        assert "seen has had no champion yet" in answer.out
        work = ["data=digits", *TINY, "registry.name=seen"]
        refused(command("train", *work, folder=Path("/"), **places), str(store), "Permission denied")


@pytest.mark.slow
def test_a_user_without_name_and_home_runs_everything() -> None:
    """TERM, a language and a writable current folder are missing too. The pipeline starts Prefect's own server."""
    with open_folder() as folder:
        places = {"AEMODELS_CACHE": str(folder / "cache"), "AEMODELS_STORE": str(folder / "store")}
        work, judged = ["data=digits", *TINY], ["evaluation.nll_samples=10", "evaluation.nll_images=50"]
        commands: list[list[object]] = [
            ["pipeline", *work, "tuning.trials=1", "--json"],
            ["compare", "conv-vae", "iwae", *work, *judged, "--json"],
            ["models", "--json"],
            ["evaluate", "digits@champion", "--json"],
            ["generate", "digits@champion", "-o", folder / "drawn.png"],
            ["report", "digits@champion", "--json"],
        ]
        for arguments in commands:
            answer = command(*arguments, folder=Path("/"), **places)
            assert answer.code == 0, (arguments, answer)
            assert "Traceback" not in answer.err
            assert "matplotlib" not in answer.err.lower()
            if "--json" in arguments:
                json.loads(answer.out)
        assert {path.name for path in folder.iterdir()} == {"cache", "store", "drawn.png"}
