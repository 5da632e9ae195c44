"""The folder of a run: what makes a killed training go on, and what a finished one leaves.

    <store>/runs/<identity>      config.json, state.safetensors while training, weights.safetensors, figures/,
                                 report.html, run.json
    <store>/runs/<identity>-2    the same experiment, run again after the first was finished
    <store>/runs/joined-<name>   what this machine draws of a search that several machines work on

Unfinished and not locked, a folder is resumed by the same command; finished, the same command makes a new one. But
whoever asked for a finished run, and was killed before it had the result, finds it there when it asks again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aemodels.config import UserError
from aemodels.disk import write_whole
from aemodels.environment import store_folder

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

    def time(self, event: str) -> int:
        """Returns when something happened first, in milliseconds since 1970, also to a resumed run that repeats it."""
        times: dict[str, int] = self.notes().get("times") or {}
        if event not in times:
            times[event] = int(time.time() * 1000)
            self.note(times=times)
        return times[event]

    def finish(self, result: dict[str, Any], asker: str = "") -> None:
        """Keeps the result, for `asker` if it asks again; the state that a resumed run would need goes."""
        self.note(result=result, asker=asker)
        (self.path / "state.safetensors").unlink(missing_ok=True)

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run came to; None while it is not finished."""
        return self.notes().get("result")

    @property
    def finished(self) -> bool:
        return self.result is not None


@contextmanager
def claimed(identity: str, asker: str = "") -> Iterator[RunFolder]:
    """Claims the first folder of that identity that is not in use, and not finished unless `asker` asked for it.

    The lock goes with the process.

    Args:
        asker: who will get the result, such as the id of a flow run; "" is nobody who could come back for it.
    """
    candidates = (_claim(path, asker) for path in _candidates(identity))
    folder, lock = next(filter(None, candidates))
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


def _claim(path: Path, asker: str) -> tuple[RunFolder, FileLock] | None:
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    lock = FileLock(path / "lock", timeout=0, thread_local=False)  # a generator may go on in another thread
    try:
        lock.acquire()
    except Timeout:
        return None
    if folder.finished and not (asker and folder.notes().get("asker") == asker):
        lock.release()
        return None
    return folder, lock
