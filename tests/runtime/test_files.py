"""Tests that one sentence tells what a disk refuses, why and what helps, and that the work then goes on."""

from __future__ import annotations

import io
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Answer, call
from disks import fill, read_only, small_disk
from PIL import Image
from safetensors.torch import save_file

from aemodels.config import OutageError, UserError
from aemodels.runtime.environment import sqlite_file, sqlite_uri
from aemodels.runtime.files import at_path, in_words, write_whole
from aemodels.tracking.outages import is_outage
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store, open_store
from aemodels.tuning.storage import open_storage


def told(error: BaseException, *pieces: str) -> None:
    """Checks that a message is one sentence with all the pieces, and shows neither Python nor SQL."""
    text = str(error)
    for piece in pieces:
        assert piece in text
    assert "\n" not in text
    assert not re.search(r"Error|Errno|SQL|Traceback|damaged", text)


# ---------------------------------------------------------------- every refusal of a file system


def name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "result.txt"


def a_folder(folder: Path) -> Path:
    (folder / "result.txt").mkdir()
    return folder / "result.txt"


def gone(folder: Path) -> Path:
    return folder / "gone" / "result.txt"


def a_circle(folder: Path) -> Path:
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle" / "result.txt"


@pytest.mark.parametrize(
    ("place", "reason", "remedy"),
    [
        (name_too_long, "File name too long", "choose a shorter name"),
        (below_a_file, "Not a directory", "a file is where a folder should be"),
        (a_folder, "Is a directory", "a folder is where a file should be"),
        (a_circle, "Too many levels of symbolic links", "mend its links"),
    ],
)
def test_a_path_that_cannot_be_written_is_named(
    place: Callable[[Path], Path], reason: str, remedy: str, tmp_path: Path
) -> None:
    path = place(tmp_path)
    with pytest.raises(UserError) as refused:
        write_whole(path, lambda partial: partial.write_text("result"))
    told(refused.value, str(path), reason, remedy, "the same command again")
    assert not is_outage(refused.value)


def test_a_folder_that_is_missing_is_told_from_a_disk_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gone(tmp_path)
    with pytest.raises(UserError, match=f"{path}: there is no folder {path.parent}; make it, or give another path"):
        write_whole(path, lambda partial: partial.write_text("result"))
    monkeypatch.setenv("AEMODELS_STORE", str(path.parent))  # which was there when the work began
    with pytest.raises(UserError, match=r"look whether its disk is still there .* or set AEMODELS_STORE"):
        write_whole(path, lambda partial: partial.write_text("result"))


@pytest.mark.parametrize(
    ("limit", "reason", "remedy", "passes"),
    [
        (resource.RLIMIT_NOFILE, "Too many open files", "ulimit -n", True),
        (resource.RLIMIT_FSIZE, "File too large", "ulimit -f", False),
    ],
)
def test_limits_of_a_process_are_named(limit: int, reason: str, remedy: str, passes: bool, tmp_path: Path) -> None:
    code = f"""
import os, resource
from pathlib import Path
from aemodels.runtime.files import write_whole
from aemodels.config import OutageError, UserError
resource.setrlimit({limit}, (4, 4) if {limit} == resource.RLIMIT_NOFILE else (4096, 4096))
kept = os.open("/dev/null", 0) if {limit} == resource.RLIMIT_NOFILE else None
try:
    write_whole(Path("result.bin"), lambda partial: partial.write_bytes(bytes(8192)))
except UserError as error:
    print(error, isinstance(error, OutageError))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.stderr == ""
    assert f": {reason}; " in ran.stdout
    assert remedy in ran.stdout
    assert ran.stdout.endswith(f"{passes}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_bytes(bytes(400_000)), lambda path: save_file({"weights": torch.zeros(100_000)}, path)],
    ids=["bytes", "tensors"],
)
def test_a_full_disk_keeps_the_old_file_and_no_half_one(write: Callable[[Path], object], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100) as disk:
        path = disk / "state.safetensors"
        write_whole(path, lambda partial: partial.write_bytes(b"old"))
        before = os.statvfs(disk).f_bavail
        with pytest.raises(OutageError) as refused:
            write_whole(path, write)
        told(refused.value, str(path), "No space left on device", "make room there")
        assert path.read_bytes() == b"old"
        assert os.statvfs(disk).f_bavail == before


def test_a_link_is_written_through_and_a_file_of_a_like_name_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link, other = tmp_path / "there" / "grid.png", tmp_path / "grid.png", tmp_path / "there" / "grid.partial"
    other.write_text("a person's")
    link.symlink_to(target)
    target.write_text("before")
    target.chmod(0o600)
    write_whole(link, lambda partial: partial.write_text("drawn"))
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert (target.read_text(), other.read_text()) == ("drawn", "a person's")
    assert sorted(tmp_path.rglob("*")) == sorted([tmp_path / "there", target, link, other])


def test_a_pipe_takes_what_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    write_whole(pipe, Image.new("L", (2, 2)).save)
    assert Image.open(io.BytesIO(reader.communicate(timeout=30)[0])).size == (2, 2)
    assert pipe.is_fifo()


def test_what_a_network_says_is_no_trouble_of_a_disk() -> None:
    assert in_words(RuntimeError("[gloo] Transport endpoint is not connected")) is None
    assert in_words(RuntimeError("write failed: No space left on device")) is not None


def test_a_variable_is_offered_only_for_what_lies_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    for path, variable in ((tmp_path / "store" / "gone" / "a.txt", "set AEMODELS_STORE to"), (Path("/gone/a.png"), "")):
        with pytest.raises(UserError) as refused:
            write_whole(path, lambda partial: partial.write_text("result"))
        assert (", or set" in str(refused.value)) == bool(variable)
        assert variable in str(refused.value)


def test_other_errors_stay_what_they_are() -> None:
    for error in (ValueError("no"), RuntimeError("shapes"), ConnectionRefusedError(111, "refused"), KeyError("x")):
        assert in_words(error) is None
    handled = KeyError("x")
    handled.__context__ = FileNotFoundError(2, "looked for and not found", "/somewhere")
    assert in_words(handled) is None


# ---------------------------------------------------------------- databases


def logged(store: Store) -> None:
    with start_run(store, "tiny", "one") as run:
        run.text("note.txt", "hello")
        for step in range(200):
            run.tags({f"tag {step} {i}": "x" * 3000 for i in range(20)})


@pytest.fixture
def databases(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the folder of a store with both databases, and closes them."""
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.setenv("AEMODELS_STORE", str(folder))
    open_storage(None).engine.dispose()
    return folder


def test_a_read_only_store_is_not_damaged(databases: Path) -> None:
    with read_only(databases):
        store = open_store()
        assert store.client.search_registered_models() == []  # what may only be read is read
        for write in (lambda: logged(store), lambda: open_storage(None)):
            with pytest.raises(UserError) as refused, at_path():
                write()
            told(refused.value, str(databases), "Read-only file system", "mount it for writing", "set AEMODELS_STORE")
            assert not is_outage(refused.value)
    logged(open_store())
    open_storage(None)


def test_a_store_that_becomes_read_only_is_named(databases: Path) -> None:
    store = open_store()
    with read_only(databases), pytest.raises(Exception) as refused:  # noqa: PT011  MLflow's
        logged(store)
    error = in_words(refused.value)
    assert error is not None
    told(error, str(databases), "Read-only file system")


def test_a_full_disk_under_both_databases(databases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 3000) as disk:
        shutil.copytree(databases, disk / "store")
        monkeypatch.setenv("AEMODELS_STORE", str(disk / "store"))
        store, storage = open_store(), open_storage(None)
        filling = fill(disk, 0)
        with pytest.raises(Exception) as refused:  # noqa: PT011  MLflow's
            logged(store)
        with pytest.raises(Exception) as unsearched:  # noqa: PT011  Optuna's
            storage.create_new_study([], "search")
        for error in (refused.value, unsearched.value):
            words = in_words(error)
            assert words is not None
            told(words, str(disk / "store"), "No space left on device", "make room there")
            assert is_outage(error)
        filling.unlink()
        assert open_store().experiment("tiny") == "1"


def test_a_fresh_store_on_a_full_disk_is_made_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 4000) as disk:
        monkeypatch.setenv("AEMODELS_STORE", str(disk / "store"))
        filling = fill(disk, 300_000)
        with pytest.raises(OutageError) as refused:
            open_store()
        told(refused.value, str(disk / "store" / "mlflow.db"), "No space left on device")
        filling.unlink()
        assert open_store().experiment("tiny") == "1"


@pytest.mark.parametrize("name", ["plain", "My%20Project", "a?b", "a b#c;d&e'f\"g", "{x}", "%%s", "é/ü?%3F"])
def test_a_database_is_where_its_address_says(name: str, tmp_path: Path) -> None:
    from sqlalchemy import create_engine

    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir(parents=True)
    assert sqlite_file(sqlite_uri(file)) == file
    create_engine(sqlite_uri(file)).connect().close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_an_ordinary_database_keeps_its_address(tmp_path: Path) -> None:
    assert sqlite_uri(tmp_path / "my store" / "mlflow.db") == f"sqlite:///{tmp_path}/my store/mlflow.db"
    assert sqlite_file(f"sqlite:///{tmp_path}/mlflow.db?timeout=30") == tmp_path / "mlflow.db"
    assert sqlite_file("postgresql+psycopg://host/aemodels") is None


# ---------------------------------------------------------------- whole commands

SMALL = ["data=digits", *TINY]


def weights(answer: Answer) -> bytes:
    return (Path(answer.json["folder"]) / "weights.safetensors").read_bytes()


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, int]:  # noqa: ARG001
    """Returns a training whose disk had room, and the bytes that it wrote."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(folder))
        return call("train", *SMALL, "--json"), size(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_training_goes_on_after_the_disk_was_full(
    seed: int, undisturbed: tuple[Answer, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each seed fills the disk at another moment.

    It is while databases are made, in an epoch, in the evaluation, or at registering.
    """
    whole, written = undisturbed
    with small_disk(tmp_path / "disk", 20_000) as disk:
        monkeypatch.setenv("AEMODELS_STORE", str(disk / "store"))
        filling = fill(disk, int(np.random.default_rng(seed).integers(0, written)))
        stopped = call("train", *SMALL, "--json")
        assert stopped.code == 2, stopped
        told(Exception(stopped.err.splitlines()[-1]), str(disk), "No space left on device", "make room there")
        filling.unlink()
        resumed = call("train", *SMALL, "--json")
        assert weights(resumed) == weights(whole)
        told_of = {key: value for key, value in whole.json.items() if key.startswith("test/")} | {"version": 1}
        assert len(told_of) > 20
        assert {key: resumed.json[key] for key in told_of} == told_of


@pytest.mark.parametrize(
    "command",
    [("train", *SMALL), ("tune", *SMALL, "tuning.trials=1")],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("digits")
def test_a_command_names_the_read_only_store(command: tuple[object, ...], databases: Path) -> None:
    with read_only(databases):
        answer = call(*command)
    assert answer.code == 2, answer
    told(Exception(answer.err.splitlines()[-1]), str(databases), "Read-only file system", "set AEMODELS_STORE to")


def test_a_full_or_read_only_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 50) as disk:
        monkeypatch.setenv("AEMODELS_CACHE", str(disk))
        full = call("prepare", "data=digits")
        with read_only(disk):
            refused = call("prepare", "data=digits")
    for answer, reason in ((full, "No space left on device"), (refused, "Read-only file system")):
        assert answer.code == 2
        told(Exception(answer.err.splitlines()[-1]), str(disk / "prepared"), reason, "set AEMODELS_CACHE to")


@pytest.mark.slow
def test_prefects_home_is_tried_before_it_starts_a_server(tmp_path: Path) -> None:
    work = ["pipeline", *SMALL, "tuning.trials=1"]
    with small_disk(tmp_path / "disk", 100) as disk:
        environment = {**os.environ, "PREFECT_HOME": str(disk), "AEMODELS_STORE": str(tmp_path / "store")}
        command = [sys.executable, "-m", "flows.cli.main", *work]
        for reason in ("No space left on device", "Read-only file system"):
            with read_only(disk) if reason.startswith("Read") else nullcontext():
                ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
            assert ran.returncode == 2, ran
            told(Exception(ran.stderr.splitlines()[-1]), f"{disk}: {reason}")
