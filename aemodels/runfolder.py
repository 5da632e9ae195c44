"""The folder of a run: what makes a killed training go on, and what a finished one leaves.

    <store>/runs/<identity>      config.json, state.safetensors while training, weights.safetensors, figures/,
                                 report.html, run.json
    <store>/runs/<identity>-2    the same experiment, run again after the first was finished
    <store>/runs/joined-<name>   what this machine draws of a search that several machines work on

Unfinished and not locked, a folder is resumed by the same command; finished, the same command makes a new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aemodels.config import UserError
from aemodels.environment import store_folder, write_whole

NOTES = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process alone works in."""

    path: Path

    def notes(self) -> dict[str, Any]:
        """What is known of the run: its MLflow id, its result once it is finished."""
        path = self.path / NOTES
        try:
            notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); delete the folder {self.path} to start anew") from None
        return notes

    def note(self, **facts: Any) -> None:
        """Adds to the notes, whole or not at all."""
        text = json.dumps(self.notes() | facts, indent=2)
        write_whole(self.path / NOTES, lambda path: path.write_text(text))

    def finish(self, result: dict[str, Any]) -> None:
        """Nothing is resumed here any more; the state that it would need goes."""
        self.note(result=result)
        (self.path / "state.safetensors").unlink(missing_ok=True)

    @property
    def finished(self) -> bool:
        return "result" in self.notes()


@contextmanager
def claimed(identity: str) -> Iterator[RunFolder]:
    """The first folder of that identity that is neither finished nor in use; its lock goes with the process."""
    folder, lock = next(filter(None, map(_claim, _candidates(identity))))
    try:
        yield folder
    finally:
        lock.release()


def numbered(identity: str) -> Iterator[str]:
    """Names of the first run of that identity, the second, and so on."""
    return (identity if number == 1 else f"{identity}-{number}" for number in count(1))


def joined(study: str) -> RunFolder:
    """The folder of a search in a shared database; never locked, and there may be several workers on this machine."""
    folder = RunFolder(_runs() / f"joined-{study}")
    folder.path.mkdir(parents=True, exist_ok=True)
    return folder


def _runs() -> Path:
    return store_folder() / "runs"


def _candidates(identity: str) -> Iterator[Path]:
    return (_runs() / name for name in numbered(identity))


def _claim(path: Path) -> tuple[RunFolder, FileLock] | None:
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    lock = FileLock(path / "lock", timeout=0, thread_local=False)  # a generator may go on in another thread
    try:
        lock.acquire()
    except Timeout:
        return None
    if folder.finished:
        lock.release()
        return None
    return folder, lock
