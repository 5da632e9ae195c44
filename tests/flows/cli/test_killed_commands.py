"""Tests commands in processes of their own that are killed, interrupted, or started twice at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tracked import TINY, history, runs, versions

LONG = ["train", "--json", *TINY, "training.epochs=12", "training.batch_size=16"]
TUNE = ["tune", "--json", *TINY, "tuning.trials=4", "tuning.generation=2", "tuning.epochs=3", "tuning.images=1000"]
TUNE += ["training.images=1000", "training.batch_size=16", "tuning.prune=false"]
CLOCK = {"train/seconds", "train/images_per_second"}  # metrics that no two runs share
PATIENCE = 120  # seconds that a command may take to come to its work


def start(store: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts a command in a process of its own, on one thread."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("aemodels")), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "AEMODELS_STORE": str(store), **environment},
    )


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Returns what a command printed, which is JSON and nothing else."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return json.loads(out)


def stop(process: subprocess.Popen[str], how: signal.Signals, when: Callable[[], bool]) -> str:
    """Sends the signal as soon as the condition holds, while the process works, and returns what it said."""
    deadline = time.monotonic() + PATIENCE
    while not when():
        assert process.poll() is None, f"ended too early: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "came to nothing"
        time.sleep(0.005)
    process.send_signal(how)
    return process.communicate(timeout=60)[1]


def new_store(folder: Path, empty_database: Path) -> Path:
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def registered_weights(store: Path, version: int = 1) -> bytes:
    """Returns the weights as the registry hands them out."""
    from aemodels.tracking.catalog import find
    from aemodels.tracking.store import open_store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(store))
        return (find(f"digits/{version}", open_store()) / "weights.safetensors").read_bytes()


# ---------------------------------------------------------------- two at once; killed, then interrupted


class Story(NamedTuple):
    """A story is a command that ran twice at once, and was killed once, interrupted once and finished elsewhere."""

    undisturbed: Path  # the store
    answers: list[dict[str, Any]]
    store: Path
    interrupted: tuple[int, str, str, bool]  # exit code, standard error, status in MLflow, is there a checkpoint
    answer: dict[str, Any]


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Runs the story on a machine where nothing is prepared yet, not even the databases."""
    root = tmp_path_factory.mktemp("story")
    undisturbed, store, cache = root / "undisturbed", root / "killed", str(root / "cache")
    both = [start(undisturbed, *LONG, AEMODELS_CACHE=cache) for _ in range(2)]

    def tracked(epochs: int) -> Callable[[], bool]:
        def reached() -> bool:
            notes = list((store / "runs").glob("*/run.json"))
            return bool(notes) and _tracked(notes[0]) >= epochs

        return reached

    stop(start(store, *LONG, AEMODELS_CACHE=cache), signal.SIGKILL, tracked(2))
    assert not tracked(12)()
    process = start(store, *LONG, AEMODELS_CACHE=cache)
    said = stop(process, signal.SIGINT, tracked(_tracked(_notes(store)) + 2))
    (run,) = runs(store, "training")
    checkpoint = list((store / "runs").glob("*/state.safetensors"))
    interrupted = (process.returncode, said, run.info.status, bool(checkpoint))
    last = answer(start(store, *LONG, AEMODELS_CACHE=cache))
    return Story(undisturbed, [answer(one) for one in both], store, interrupted, last)


def _tracked(notes: Path) -> int:
    """Returns the last epoch that was tracked."""
    epoch, _ = json.loads(notes.read_text()).get("tracked") or (0, 0)
    return int(epoch)


def _notes(store: Path) -> Path:
    (notes,) = (store / "runs").glob("*/run.json")
    return notes


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_interrupted_and_keeps_the_checkpoint(story: Story) -> None:
    code, said, status, checkpoint = story.interrupted
    assert code == 130
    assert "interrupted; give the same command again, and it goes on where it was" in said
    assert "Traceback" not in said
    assert status == "KILLED"
    assert checkpoint


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_not(story: Story) -> None:
    assert registered_weights(story.store) == registered_weights(story.undisturbed)
    told, expected = story.answer, story.answers[0]
    same = [name for name in expected if name.startswith("test/")]
    assert [told[name] for name in same] == [expected[name] for name in same]
    assert told["seconds"] > 0
    config = Path("config.json")
    assert (Path(told["folder"]) / config).read_text() == (Path(expected["folder"]) / config).read_text()


@pytest.mark.slow
def test_a_killed_training_is_one_run_and_one_version(story: Story) -> None:
    (run,) = runs(story.store, "training")
    assert run.info.run_id == story.answer["run_id"]
    assert run.info.status == "FINISHED"
    assert versions(story.store) == [1]
    assert [path.name for path in (story.store / "runs").iterdir()] == [Path(story.answer["folder"]).name]
    assert not list((story.store / "runs").glob("*/*.partial"))
    found, expected = (
        history(story.store, run.info.run_id),
        history(story.undisturbed, story.answers[0]["run_id"]),
    )
    epochs = [name for name in expected if name.startswith(("train/", "val/"))]
    assert epochs
    for name in epochs:
        assert [step for step, _ in found[name]] == list(range(1, 13)), name
        if name not in CLOCK:
            assert found[name] == expected[name]


@pytest.mark.slow
def test_two_commands_at_once_do_not_harm_each_other(story: Story) -> None:
    first, second = story.answers
    assert {first["version"], second["version"]} == {1, 2}
    assert first["run_id"] != second["run_id"]
    assert first["folder"] != second["folder"]
    assert registered_weights(story.undisturbed, 1) == registered_weights(story.undisturbed, 2)
    same = [name for name in first if name.startswith("test/")]
    assert [first[name] for name in same] == [second[name] for name in same]
    assert [run.info.status for run in runs(story.undisturbed, "training")] == ["FINISHED"] * 2
    prepared = story.undisturbed.with_name("cache") / "prepared"
    assert len([path for path in prepared.iterdir() if path.is_dir()]) == 1


# ---------------------------------------------------------------- a search that is killed


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path, empty_database: Path) -> None:
    store, left = new_store(tmp_path / "killed", empty_database), new_store(tmp_path / "left", empty_database)

    query = "SELECT count(*) FROM trials WHERE state = 'RUNNING' AND number >= 2"

    def in_the_second_generation() -> bool:
        if not (store / "optuna.db").exists():
            return False
        with closing(sqlite3.connect(f"file:{store / 'optuna.db'}?mode=ro", uri=True, timeout=10)) as database:
            try:
                return database.execute(query).fetchall() == [(1,)]
            except sqlite3.OperationalError:  # no tables yet
                return False

    undisturbed = start(left, *TUNE)
    stop(start(store, *TUNE), signal.SIGKILL, in_the_second_generation)
    assert len(runs(store, "trial")) >= 2
    told, expected = answer(start(store, *TUNE)), answer(undisturbed)

    def found(answered: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(t["index"], t["state"], t["params"], t["values"]) for t in answered["trials"]]

    assert found(told) == found(expected)
    assert (told["best"], told["front"]) == (expected["best"], expected["front"])
    (parent,) = runs(store, "search")
    assert (parent.info.run_id, parent.info.status) == (told["run_id"], "FINISHED")
    children, others = runs(store, "trial"), runs(left, "trial")
    assert sorted(int(child.data.tags["trial"]) for child in children) == list(range(4))
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.info.status for child in children} == {"FINISHED"}
    for child, other in zip(_by_trial(children), _by_trial(others), strict=True):
        mine, theirs = history(store, child.info.run_id), history(left, other.info.run_id)
        assert mine["val/objective"] == theirs["val/objective"]
        assert mine["objective"] == theirs["objective"]


def _by_trial(children: list[Any]) -> list[Any]:
    return sorted(children, key=lambda child: int(child.data.tags["trial"]))
