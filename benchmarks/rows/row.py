"""Defines a row: which contenders are measured at which work, and what follows from the numbers."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.jobs import Job, Measured

KEYS = {"images/s": "images_per_second", "s": "seconds", "FLOP/s": "flops_per_second"}  # unit -> key of a measurement

Repeat = dict[str, Measured]  # contender -> what it measured in one turn


class Scale(NamedTuple):
    """Chooses how large the work of each row is."""

    device: str
    quick: bool  # sizes with which the harness can be tried; the numbers mean little
    folder: Path  # for files that the rows share while the command runs

    def __call__(self, full: int, quick: int, cuda: int | None = None) -> int:
        """Returns one of the sizes: the quick one, that of a GPU if it is given and there is one, or the full one."""
        return quick if self.quick else cuda if cuda is not None and self.device == "cuda" else full


@dataclass(frozen=True)
class Row:
    """A row is a comparison; its first contender is this project, whose variants follow."""

    name: str
    title: str  # the title in the table
    work: str  # the name of a module of contenders/
    unit: Literal["images/s", "s", "FLOP/s"]
    contenders: Mapping[str, Sequence[str]]  # name -> the modules that it needs
    repeats: int
    settings: dict[str, Any]
    settle: Callable[[Repeat], Repeat] = lambda repeat: repeat  # adds what follows when all have had their turn
    findings: Callable[[list[Repeat]], dict[str, Any]] = lambda _: {}
    refusal: Callable[[], str] = lambda: ""  # why it cannot be measured here
    measure: Callable[[Job], Measured] | None = None  # called in place of a process of contender.py
    compared: bool = True  # whether the ratios mean anything
    variants: Sequence[str] = ()  # further contenders that are this project, with other settings

    @property
    def key(self) -> str:
        """Names the key of a measurement that has the row's number."""
        return KEYS[self.unit]

    @property
    def ours(self) -> list[str]:
        """Lists the contenders that are this project."""
        return [next(iter(self.contenders)), *self.variants]


def lacks(needs: Sequence[str]) -> str:
    """Returns which modules are not installed; "" if all are."""
    return ", ".join(name for name in needs if not _installed(name))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in is not installed either
        return False


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns what is reported of repeated numbers: median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(row: Row, repeats: Sequence[Repeat]) -> dict[str, dict[str, float]]:
    """Returns each contender's number, as median, smallest and largest of the turns."""
    values = {name: [r[name][row.key] for r in repeats if r.get(name, {}).get(row.key)] for name in row.contenders}
    return {name: spread(found) for name, found in values.items() if found}


def ratios(row: Row, repeats: Sequence[Repeat]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns, for each of this project's contenders and each peer, how many times faster the project is.

    The ratios are taken within each turn, then over the turns. There are none for a contender that did not reach the
    goal in every turn.
    """
    return {own: _ratios(row, own, repeats) for own in row.ours} if row.compared else {}


def _ratios(row: Row, ours: str, repeats: Sequence[Repeat]) -> dict[str, dict[str, float]]:
    if any(repeat.get(ours, {}).get(row.key) is None for repeat in repeats):
        return {}
    found: dict[str, list[float]] = {peer: [] for peer in row.contenders if peer not in row.ours}
    for repeat in repeats:
        for peer, values in found.items():
            own, other = (repeat.get(name, {}).get(row.key) for name in (ours, peer))
            if own and other:
                values.append(other / own if row.unit == "s" else own / other)
    return {peer: spread(values) for peer, values in found.items() if values}
