"""Counts the pairs that each candidate orders rightly, and writes the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.judge.collections import COLLECTIONS, FEW, MANY
from benchmarks.judge.sets import COUNTED, SHOWN, Chosen

Row = dict[str, Any]


def as_order(distances: Sequence[float]) -> str:
    """Writes the distances of a group, and between them whether each is below the next, as it should be."""
    words = [f"{distances[0]:.4g}"]
    for nearer, further in pairwise(distances):
        words += ["<" if nearer < further else ">", f"{further:.4g}"]
    return " ".join(words)


def pairs(order: str) -> list[bool]:
    """Returns for each pair of neighbours whether they are ordered rightly; distances that are NaN are not.

    Example:
        >>> pairs("0.1 < 0.2 > 0.15")
        [True, False]
    """
    return [sign == "<" for sign in order.split()[1::2]]


def as_across(right: Mapping[tuple[Chosen, Chosen], bool]) -> dict[str, Any]:
    """Returns how many pairs of other kinds there are, and names those that are ordered wrongly."""
    wrong = [f"{low.name} > {high.name}" for (low, high), found in right.items() if not found]
    return {"pairs": len(right), "wrong": ", ".join(wrong)}


def share_across(rows: Sequence[Row]) -> float | None:
    """Returns the share of pairs of other kinds that are ordered rightly; None without any."""
    found = [row["across"] for row in rows if "across" in row]
    shares = [1 - len(one["wrong"].split(", ")) / one["pairs"] if one["wrong"] else 1.0 for one in found]
    return sum(shares) / len(shares) if shares else None


def share(rows: Sequence[Row], groups: Sequence[str] = COUNTED) -> float | None:
    """Returns the share of pairs that are ordered rightly, where every collection weighs the same; None without any."""
    collections: dict[str, list[bool]] = {}
    for row in rows:
        for name in groups:
            collections.setdefault(row["collection"], []).extend(pairs(row["distances"].get(name, "")))
    shares = [sum(found) / len(found) for found in collections.values() if found]
    return sum(shares) / len(shares) if shares else None


def as_markdown(rows: Sequence[Row], seconds: dict[str, float]) -> str:
    """Writes two tables: the candidates by collection, and by what was done to the images."""
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    by_name = {name: [row for row in rows if row["candidate"] == name] for name in names}
    names.sort(key=lambda name: -(share([row for row in by_name[name] if row["images"] == FEW]) or 0))
    columns: dict[str, Callable[[Row], bool]] = {
        "with labels": lambda row: row["labels"] and row["images"] == FEW,
        "without": lambda row: not row["labels"] and row["images"] == FEW,
        f"with, {MANY:,}": lambda row: row["labels"] and row["images"] == MANY,
        f"without, {MANY:,}": lambda row: not row["labels"] and row["images"] == MANY,
    }
    shown = [
        [
            *(_percent(share(list(filter(chosen, by_name[name])))) for chosen in columns.values()),
            _percent(share_across(by_name[name])),
        ]
        for name in names
    ]
    each = [
        [_percent(share([row for row in by_name[name] if row["collection"] == c.name])) for c in COLLECTIONS]
        for name in names
    ]
    head = [*columns, "across", *(c.name for c in COLLECTIONS)]
    first = _table(names, head, [a + b for a, b in zip(shown, each, strict=True)])
    groups = [*COUNTED, *SHOWN]
    second = _table(names, groups, [[_percent(share(by_name[name], [group])) for group in groups] for name in names])
    lines = ["# Yardsticks, judged", "", ABOUT, "", first, "", "By what was done to the images:", "", second]
    if seconds:
        costs = ", ".join(f"{name} {number:.1f} s" for name, number in seconds.items())
        lines += ["", f"Seconds for {FEW} and {FEW} images of 64 px on one thread: {costs}."]
    return "\n".join(lines) + "\n"


ABOUT = (
    "The share of pairs in the right order: neighbouring levels of a degradation of real images, or two models of "
    f"which one is known to be better. There are {FEW} images a side, in two columns {MANY:,}, where a collection has "
    f"as many; every collection weighs the same. {len(SHOWN)} groups do not count: copies of training images are real "
    "images to any distance, and the order of some models is not known (their columns say how many pairs are ordered "
    "as one might think). The column across counts pairs of other kinds, which do not count either: what is hardly "
    "visible of one degradation, and the ruin of another."
)


def _percent(found: float | None) -> str:
    return "–" if found is None else f"{100 * found:.1f}"


def _table(names: Sequence[str], head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [f"| candidate | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in zip(names, cells, strict=True)]
    return "\n".join(lines)
