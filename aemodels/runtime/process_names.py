"""Names processes, so that others can tell later whether they are gone."""

from __future__ import annotations

import os
import platform
import sys

import psutil

SAME_START = 60.0  # seconds; a clock that was set meanwhile moves the start of a process


def own_name() -> str:
    """Names this process: machine, pid namespace, number, and start, since numbers are used again."""
    return f"{_place()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_gone(name: str) -> bool:
    """Tells whether a process of this machine has ended; it is False for processes of other machines and containers."""
    match name.rsplit(":", 2):
        case [place, number, begun] if place == _place():
            return not _runs(int(number), int(begun))
    return False


def is_here(name: str) -> bool:
    """Tells whether the name is of a process of this machine or container, alive or gone."""
    return name.rsplit(":", 2)[0] == _place()


def _runs(number: int, begun: int) -> bool:
    try:
        process = psutil.Process(number)
        started: float = process.create_time()
        return abs(started - begun) <= SAME_START and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _place() -> str:
    """Names the place where a process number means something: containers count their own."""
    namespace = os.readlink("/proc/self/ns/pid").partition(":")[2] if sys.platform == "linux" else ""
    return f"{platform.node()}{namespace}"
