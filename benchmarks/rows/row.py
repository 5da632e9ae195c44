"""What a row is: who is measured at what, and what follows from the numbers."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.jobs import Job, Measured

KEYS = {"images/s": "images_per_second", "s": "seconds", "FLOP/s": "flops_per_second"}  # unit -> where it is found

Repeat = dict[str, Measured]  # contender -> what it measured in one turn


class Scale(NamedTuple):
    """How large everything is."""

    device: str
    quick: bool  # sizes with which the harness can be tried; the numbers mean little
    folder: Path  # for files that the rows share while the command runs

    def __call__(self, full: int, quick: int, cuda: int | None = None) -> int:
        """A size: another one on a GPU, if given."""
        return quick if self.quick else cuda if cuda is not None and self.device == "cuda" else full


@dataclass(frozen=True)
class Row:
    """A comparison; its first contender is this project, whose variants follow."""

    name: str
    title: str  # in the table
    work: str  # one module of contenders/
    unit: Literal["images/s", "s", "FLOP/s"]
    contenders: Mapping[str, Sequence[str]]  # name -> the modules that it needs
    repeats: int
    settings: dict[str, Any]
    settle: Callable[[Repeat], Repeat] = lambda repeat: repeat  # what a turn says only when all have had it
    findings: Callable[[list[Repeat]], dict[str, Any]] = lambda _: {}
    refusal: Callable[[], str] = lambda: ""  # why it cannot be measured here
    measure: Callable[[Job], Measured] | None = None  # instead of a process of contender.py
    compared: bool = True  # whether the ratios mean anything
    variants: Sequence[str] = ()  # further contenders that are this project, with other settings

    @property
    def key(self) -> str:
        """Where a measurement has the row's number."""
        return KEYS[self.unit]

    @property
    def ours(self) -> list[str]:
        """The contenders that are this project."""
        return [next(iter(self.contenders)), *self.variants]


def lacks(needs: Sequence[str]) -> str:
    """Which modules are not installed; "" if all are."""
    return ", ".join(name for name in needs if not _installed(name))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def spread(values: Sequence[float]) -> dict[str, float]:
    """What is reported of repeated numbers."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(row: Row, repeats: Sequence[Repeat]) -> dict[str, dict[str, float]]:
    """Contender -> its number."""
    values = {name: [r[name][row.key] for r in repeats if r.get(name, {}).get(row.key)] for name in row.contenders}
    return {name: spread(found) for name, found in values.items() if found}


def ratios(row: Row, repeats: Sequence[Repeat]) -> dict[str, dict[str, dict[str, float]]]:
    """Each of this project's contenders -> peer -> how many times faster the project is: within each turn, then over
    the turns; none where it did not get to the goal in every turn.
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
