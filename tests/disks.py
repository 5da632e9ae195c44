"""Makes real disks that are small, full or mounted read-only, and a user without a home, which only root can do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER = "12345"  # a user and group that no machine lists


def _run(*command: object) -> bool:
    return subprocess.run(list(map(str, command)), capture_output=True).returncode == 0


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """Mounts a disk of that size on the folder."""
    place.mkdir(exist_ok=True)
    if os.getuid() or not _run("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place):
        pytest.skip("only root can mount a disk")
    try:
        yield place
    finally:
        _run("umount", "--lazy", place)  # databases of this process may be open on it


@contextmanager
def read_only(place: Path) -> Iterator[Path]:
    """Lets nobody write to the folder while the block runs."""
    if os.getuid() or not _run("mount", "--bind", place, place):
        pytest.skip("only root can mount a disk")
    try:
        assert _run("mount", "-o", "remount,bind,ro", place)
        yield place
    finally:
        _run("umount", "--lazy", place)


def fill(disk: Path, left: int) -> Path:
    """Fills a disk up to so many free bytes. Deleting the file makes room again."""
    state = os.statvfs(disk)
    file = disk / "other people's files"
    file.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - left)))
    return file


@contextmanager
def open_folder() -> Iterator[Path]:
    """Makes a folder that any user can write to; pytest's own belong to its user alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def as_stranger(command: Sequence[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program as a user that is not listed and has no home, with nothing else in its environment.

    It runs in a mount namespace of its own, where Python can be read even if it is in root's home.
    """
    if os.getuid():
        pytest.skip("only root can run as another user")
    base = Path(sys.base_prefix)
    shown = 'mkdir -p "$2" && mount --bind "$1" "$2" && mount -t tmpfs -o mode=755 tmpfs "$3" && mkdir -p "$1" && '
    shown += 'mount --bind "$2" "$1" && '
    root = Path("/") / base.parts[1]
    script = (shown if base.is_relative_to("/root") else "") + 'shift 3 && exec "$@"'
    with open_folder() as aside:
        variables = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LANG": "C"}
        settings = [f"{name}={text}" for name, text in ({**variables, **environment}).items()]
        person = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "env", "-i", *settings]
        places = [str(base), str(aside / "python"), str(root)]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *places, *person, sys.executable, *command],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=600,
        )
