"""Locks files for processes; a lock is freed when its process ends, however it ends."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from aemodels.runtime.progress import Progress, Steps

BETWEEN = 0.2  # seconds between two reports of waiting


def locked(path: Path, seconds: float = 0.0) -> FileLock | None:
    """Locks a file for this process; it returns None if another process holds it for so long."""
    lock = FileLock(path, timeout=seconds, thread_local=False)  # a generator may go on in another thread
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def wait_for(path: Path, waiting: Progress) -> Steps[FileLock]:
    """Waits for a lock and returns it, held; it yields `waiting` as long as another process holds it."""
    while (lock := locked(path, BETWEEN)) is None:
        yield waiting
    return lock
