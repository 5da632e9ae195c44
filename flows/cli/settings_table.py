"""Arranges settings as a person reads them: first what all variants of a section share, then what some add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from aemodels.config import Setting


class Line(NamedTuple):
    """Holds one setting as it is shown, for all the variants that have it alike."""

    key: str
    of: str  # the variants, "" for all
    type: str
    default: object
    description: str


def of_variant(rows: Sequence[Setting], prefix: str) -> list[Setting]:
    """Returns the settings of one variant of a section, such as `model.vae`; none where the prefix names no variant."""
    section, _, variant = prefix.partition(".")
    mine = [row for row in rows if row.key.startswith(f"{section}.")]
    return [row for row in mine if row.kind.split(" ")[0] == variant] if variant else []


def sections(rows: Iterable[Setting]) -> dict[str, list[Line]]:
    """Groups settings by section: the names to choose from, then what all variants share, then what some have."""
    by_section: dict[str, list[Setting]] = {}
    for row in rows:
        by_section.setdefault(row.key.partition(".")[0], []).append(row)
    return {section: _lines(given) for section, given in by_section.items()}


def _lines(rows: Sequence[Setting]) -> list[Line]:
    """Brings together what several variants have alike, and the names of the variants of a section."""
    everybody = {row.kind.split(" ")[0] for row in rows if row.kind}
    names: dict[str, list[Setting]] = {}
    alike: dict[tuple[str, str, str, str], list[Setting]] = {}
    for row in rows:
        if row.kind and row.key.endswith(".name") and row.default == row.kind.split(" ")[-1]:
            names.setdefault(row.key, []).append(row)
        else:
            alike.setdefault((row.key, row.type, str(row.default), row.description), []).append(row)
    choices = [
        Line(key, "", " | ".join(dict.fromkeys(row.type for row in same)), "", same[0].description)
        for key, same in names.items()
    ]
    lines = [
        Line(key, _of([row.kind for row in same], everybody), kind, same[0].default, description)
        for (key, kind, _, description), same in alike.items()
    ]
    order = list(dict.fromkeys(line.key for line in lines))
    return choices + sorted(lines, key=lambda line: (line.of != "", order.index(line.key)))


def _of(kinds: Sequence[str], everybody: set[str]) -> str:
    """Names variants; an inner one, such as a trunk, alone where all outer ones have it."""
    outer = list(dict.fromkeys(kind.split(" ")[0] for kind in kinds))
    inner = list(dict.fromkeys(kind.partition(" ")[2] for kind in kinds))
    if kinds == [""]:
        return ""
    if {" ".join(filter(None, pair)) for pair in product(outer, inner)} != set(kinds):
        return ", ".join(kinds)
    named = "" if set(outer) == everybody else ", ".join(outer)
    return ": ".join(filter(None, (named, ", ".join(inner))))
