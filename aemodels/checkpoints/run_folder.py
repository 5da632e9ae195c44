"""Keeps the folder of a run, from which a killed training goes on, and in which a finished one leaves its results.

    <store>/runs/<identity>      config.json, state.safetensors while training, weights.safetensors, figures/,
                                 report.html, run.json
    <store>/runs/<identity>-2    the same experiment, run again after the first was finished
    <store>/runs/joined-<name>   what this machine draws of a search that several machines work on; seat-1.lock, ...

An unfinished folder that is not locked is resumed by the same command; if it is finished, the same command makes a new
one. There is one exception: an asker (a flow run or a command) may have asked for a finished run and been killed before
it had the result. When it asks again, it finds that result there.

A search that several machines work on is finished by one of them, when others may have been killed or interrupted. So
each process that works on it has a seat, a locked file, which it removes when it has the result. If nobody holds a
seat, the process that took it still has to get the result.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock

from aemodels.config import UserError
from aemodels.runtime.environment import store_folder
from aemodels.runtime.files import write_whole
from aemodels.runtime.locks import locked

NOTES = "run.json"
STATE = "state.safetensors"  # while training is not finished
COMMAND = "a command"  # the asker of a run at the terminal, which may be killed before it has told the result
SEATS = "seat-*.lock"


@dataclass(frozen=True)
class RunFolder:
    """A run folder has one process at work at a time, except for a search that several machines work on."""

    path: Path
    anew: bool = False
    """Tells whether the run is to use nothing that was kept of the same work before."""

    def notes(self) -> dict[str, Any]:
        """Returns what is known of the run: its MLflow id, and its result once it is finished."""
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
        """Keeps the result, for `asker` if it asks again, and removes the state that a resumed run would need."""
        self.asked_for(asker)
        self.note(result=result)
        self.forget_state()

    def forget_state(self) -> None:
        """Removes the checkpoint, which is of no use to a finished run."""
        (self.path / STATE).unlink(missing_ok=True)

    def forget(self) -> None:
        """Removes what an unfinished run has left, so that the next run in this folder begins anew."""
        self.forget_state()
        (self.path / NOTES).unlink(missing_ok=True)

    @property
    def result(self) -> dict[str, Any] | None:
        """Returns what the run came to; None while it is not finished."""
        return self.notes().get("result")

    @property
    def finished(self) -> bool:
        return self.result is not None

    def asked_by(self, asker: str) -> bool:
        """Tells whether the result is for that asker too; "" is nobody."""
        return bool(asker) and self._asker(asker).exists()

    def asked_for(self, asker: str) -> None:
        """Notes an asker of the result in a file of its own, so that those who share a search overwrite nobody."""
        if asker:
            self._asker(asker).parent.mkdir(exist_ok=True)
            self._asker(asker).touch()

    def told(self, asker: str) -> None:
        """Notes that the asker has the result: if it asks again, it means another run."""
        self._asker(asker).unlink(missing_ok=True)

    def _asker(self, asker: str) -> Path:
        return self.path / "askers" / hashlib.sha256(asker.encode()).hexdigest()[:16]


@contextmanager
def claimed(
    identity: str, asker: str = "", is_there: Callable[[RunFolder], bool] = lambda _: True, resume: bool = True
) -> Iterator[RunFolder]:
    """Claims the first folder of that identity that is not in use, and not finished unless `asker` asked for it.

    The lock is freed when the process ends.

    Args:
        asker: who will get the result, such as the id of a flow run; "" is nobody who could come back for it.
        is_there: whether what a finished folder's result names is still there; else the run begins anew.
        resume: False forgets what an unfinished run has left there, and claims no finished one.
    """
    asker = asker if resume else ""
    candidates = (_claim(path, asker, is_there) for path in _candidates(identity))
    folder, lock = next(filter(None, candidates))
    try:
        if not resume:
            folder.forget()
        yield replace(folder, anew=not resume)
    finally:
        lock.release()


def turn(identity: str) -> FileLock:
    """Returns the lock with which those who ask for the same run take turns."""
    folder = _runs() / identity
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "turn", thread_local=False)


def finish_left(identity: str, result: dict[str, Any]) -> None:
    """Finishes a run that was killed just before its end, when its result was found elsewhere.

    The caller has to hold the `turn` of this identity.
    """
    for path in takewhile(Path.exists, _candidates(identity)):
        folder = RunFolder(path)
        if folder.notes() and not folder.finished:
            folder.finish(result)


def numbered(identity: str) -> Iterator[str]:
    """Yields the names of the first run of that identity, of the second, and so on."""
    return (identity if number == 1 else f"{identity}-{number}" for number in count(1))


@contextmanager
def joined(study: str, asker: str = "") -> Iterator[RunFolder]:
    """Gives this process a seat at a search in a shared database, and its folder on this machine.

    Other processes of this machine may have seats too. A seat stays where the block ends with an error, and where the
    process is killed.

    Args:
        asker: as in `claimed`.
    """
    folder = _joined(study)
    folder.path.mkdir(parents=True, exist_ok=True)
    new = (folder.path / SEATS.replace("*", str(number)) for number in count(1))
    lock = next(filter(None, map(locked, chain(sorted(folder.path.glob(SEATS)), new))))
    try:
        yield folder
        folder.asked_for(asker)
        Path(lock.lock_file).unlink()
    finally:
        lock.release()


def awaited(study: str, asker: str, newer: bool) -> bool:
    """Tells whether this machine is still to get the result of a finished search in a shared database.

    The result is still awaited where a process that worked on the search here was killed or interrupted, and where the
    same `asker` asks again. It is also awaited where nobody on this machine has heard of the search, as with a process
    that was started too late. But then there must be no `newer` search to join.
    """
    folder = _joined(study)
    if not folder.path.exists():
        return not newer
    return folder.asked_by(asker) or any(map(_left, folder.path.glob(SEATS)))


def _joined(study: str) -> RunFolder:
    return RunFolder(_runs() / f"joined-{study}")


def _left(seat: Path) -> bool:
    """Tells whether nobody holds a seat any more."""
    lock = locked(seat)
    if lock is not None:
        lock.release()
    return lock is not None


def _runs() -> Path:
    return store_folder() / "runs"


def _candidates(identity: str) -> Iterator[Path]:
    return (_runs() / name for name in numbered(identity))


def _claim(path: Path, asker: str, is_there: Callable[[RunFolder], bool]) -> tuple[RunFolder, FileLock] | None:
    path.mkdir(parents=True, exist_ok=True)
    folder, lock = RunFolder(path), locked(path / "lock")
    if lock is None:
        return None
    if folder.finished:
        folder.forget_state()  # its process may have been killed before it did
        if not (folder.asked_by(asker) and is_there(folder)):
            lock.release()
            return None
    return folder, lock
