"""Arranges settings as a person reads them: first what all variants of a section share, then what some add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aemodels.config import Config, section_kinds
from aemodels.texts import Typed


class Setting(NamedTuple):
    """Holds one row of `aemodels settings`."""

    key: str
    kind: str  # the variant that has it, "" where all have it
    type: str
    default: Any
    description: str


def list_settings(config: type[Config], prefix: str = "", kind: str = "") -> Iterator[Setting]:
    """Yields all settings below a config class, those of every variant of a section included."""
    for name, field in config.model_fields.items():
        kinds = section_kinds(field)
        for variant, section in kinds.items():
            of = " ".join(filter(None, (kind, variant if len(kinds) > 1 else "")))
            yield from list_settings(section, f"{prefix}{name}.", of)
        if not kinds:
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            yield Setting(f"{prefix}{name}", kind, _type_name(field), default, (field.description or "").strip())


LIMITS = {"ge": "at least {:g}", "gt": "more than {:g}", "le": "at most {:g}", "lt": "less than {:g}"}
WORDS = {bool: "true | false", int: "whole number", float: "number", str: "text", Path: "path", NoneType: "null"}

NULL = " | null"  # the end of a type's text, which is said last


def _type_name(field: FieldInfo) -> str:
    """Returns what a person can type, with the range: `whole number, at least 1`."""
    text = typed(field.annotation, field.metadata)
    limits = [LIMITS[name].format(getattr(m, name)) for m in field.metadata for name in LIMITS if hasattr(m, name)]
    null = ["or null"] if text.endswith(NULL) else []
    return ", ".join([text.removesuffix(NULL), *limits, *null])


def typed(annotation: Any, metadata: Sequence[object] = ()) -> str:
    """Returns a person's words for a type; those that stand beside the type come before its own."""
    for one in metadata:
        if isinstance(one, Typed):
            return one.text
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return typed(inner[0], inner[1:])
    if origin in (Union, UnionType):
        return " | ".join(map(typed, sorted(inner, key=lambda kind: kind is NoneType)))
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin is tuple:
        return f"list of {typed(inner[0])}s" if Ellipsis in inner else f"[{', '.join(map(typed, inner))}]"
    if origin in (dict, Mapping):
        return f'{{"key": {typed(inner[1])}}}'
    if issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return WORDS[annotation]


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
