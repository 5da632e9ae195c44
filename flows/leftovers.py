"""Removes the processes and locks that killed commands have left behind; every command does so at its start.

Prefect's temporary server outlives a command that was killed. Every process that a command starts carries the
command's name in its environment, so that it is known whose it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from aemodels.runtime.environment import store_folder
from aemodels.runtime.process_names import is_gone, own_name

MARK = "AEMODELS_COMMAND"  # the variable that names the command which started a process
PATIENCE = 5.0  # seconds until a process that does not end by itself is killed


def mark_own() -> None:
    """Puts this command's name into the environment of all processes that it will start."""
    os.environ[MARK] = own_name()


@contextmanager
def outliving() -> Iterator[None]:
    """Lets processes that the block starts, such as a browser, live on when this command has ended."""
    name = os.environ.pop(MARK, None)
    try:
        yield
    finally:
        if name is not None:
            os.environ[MARK] = name


def end_leftovers() -> None:
    """Ends the processes that killed commands of this user have left, and removes their locks."""
    left = [process for process in psutil.process_iter() if _is_left(process)]
    for process in left:
        _quietly(process.terminate)
    _, stubborn = psutil.wait_procs(left, PATIENCE)
    for process in stubborn:
        _quietly(process.kill)
    remove_unheld_locks(attempts_folder())


def attempts_folder() -> Path:
    """Returns the folder of the locks that attempts of flow runs hold."""
    return store_folder() / "attempts"


def remove_unheld_locks(place: Path, own: Path | None = None) -> None:
    """Removes the locks of attempts that were killed; it takes each lock first, and so removes none that is held.

    Args:
        own: a lock to keep.
    """
    for path in place.glob("*.lock"):
        if path != own:
            with suppress(Timeout, OSError), FileLock(path, timeout=0, thread_local=False):
                path.unlink(missing_ok=True)


def _is_left(process: psutil.Process) -> bool:
    try:
        ours: bool = process.uids().real == os.getuid() and process.pid != os.getpid()
        return ours and is_gone(process.environ().get(MARK, ""))
    except (psutil.Error, OSError):  # it has just ended, or we may not look at it
        return False


def _quietly(end: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        end()
