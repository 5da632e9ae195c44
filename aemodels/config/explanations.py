"""Explains why settings are refused, with the field, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from aemodels.config.notation import as_written

ALLOWED = {  # kinds of pydantic's errors -> what is allowed, with the names that pydantic gives the limits
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "literal_error": "{expected}",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "finite_number": "a finite number",
    "tuple_type": "a list, such as [400, 200]",
    "too_short": "a list of at least {min_length}",
}


class Place(NamedTuple):
    """Tells where in the settings an error is."""

    key: str  # dotted
    owner: type[BaseModel]  # the section that holds the setting
    variant: str  # the name of that section's variant; "" if it has no variants
    variants: Mapping[str, type[BaseModel]]  # all variants of that section, by their names


def explained(error: Any, place: Place) -> str:
    """Returns one line about an error of pydantic's, with the field, the value and the remedy."""
    key = place.key
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _no_such(value, place)
    if kind == "union_tag_invalid":
        tag, known = context["tag"], [name.strip(" '") for name in context["expected_tags"].split(",")]
        return f"{key}.name={tag}: unknown; {did_you_mean(tag, known)}choose one of {', '.join(known)}"
    if kind == "union_tag_not_found":
        return f"{key}={_short(value)}: does not say which variant is meant; give {key}.name"
    if kind == "missing":
        return f"{key}: required; give {key}=..."
    if kind == "value_error" and isinstance(value, Mapping | BaseModel):  # a rule between several settings
        return ": ".join(filter(None, (key, _message(error))))
    if kind == "string_pattern_mismatch":
        words = " ".join(str(place.owner.model_fields[key.rpartition(".")[2]].description).split())
        return f"{key}={_short(value)}: does not fit; the setting {words[:1].lower()}{words[1:]}"
    if kind in ALLOWED:
        more = f"; see `aemodels settings {key.partition('.')[0]}`" if "." in key else ""
        return f"{key}={_short(value)}: {demand(error)}{more}"
    return f"{key}={_short(value)}: {_message(error)}"


def _no_such(value: Any, place: Place) -> str:
    """Returns the line about a setting that does not exist: other variants have it, or it may be misspelt."""
    key, owner, variant, kinds = place
    section, _, own = key.rpartition(".")
    known, others = list(owner.model_fields), [kind for kind, config in kinds.items() if own in config.model_fields]
    of = f"{section}.name={variant}" if variant else section or "an experiment"
    hint = f"it has: {', '.join(known)}"
    if others:
        hint = f"give {section}.name={' or '.join(others)}"
    elif close := difflib.get_close_matches(own, known, n=1):
        hint = f"did you mean {section + '.' if section else ''}{close[0]}?"
    if isinstance(value, Mapping) and len(value) == 1:  # as it was written: modle.beta=2
        ((inner, value),) = value.items()
        key = f"{key}.{inner}"
    return f"{key}={_short(value)}: no such setting of {of}; {hint}"


def demand(error: Any) -> str:
    """Says what one of pydantic's errors asks for."""
    kind, context = error["type"], error.get("ctx", {})
    return f"must be {ALLOWED[kind].format(**context)}" if kind in ALLOWED else _message(error)


def _message(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the known name that is nearest, with a space behind it; "" if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""


def _short(value: Any) -> str:
    text = as_written(value)
    return text if len(text) <= 80 else text[:77] + "..."
