"""Reads settings as people write them, key=value with dotted keys, and writes values so, or in short."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aemodels.config.errors import SettingsError


def read_text(settings: list[str]) -> dict[str, Any]:
    """Maps arguments such as "model.beta=2" to a mapping for `override`; their field gives the values their type.

    Raises:
        SettingsError: an argument is not of the form key=value.
    """
    result: dict[str, Any] = {}
    for argument in settings:
        key, separator, text = argument.partition("=")
        if not separator or not key:
            raise SettingsError(f"{argument!r} is not a setting: write key=value, for example model.latent_dim=20")
        result[key] = _read_value(key, text)
    return result


def _read_value(key: str, text: str) -> Any:
    if text == "null":
        return None
    if not text.startswith(("[", "{")):
        return text  # the field's own type reads numbers and booleans
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{key}={text}: not valid JSON ({error}); write a list as [400, 200]") from None


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nests dotted keys, such as {"a.b": 1, "a": {"c": 2}} -> {"a": {"b": 1, "c": 2}}.

    A text for a whole section becomes its name.
    """
    result: dict[str, Any] = {}
    for key in sorted(settings, key=lambda k: k.count(".")):
        *path, leaf = key.split(".")
        place = result
        for step in path:
            inner = place.get(step)
            place[step] = place = {"name": inner} if isinstance(inner, str) else dict(inner or {})
        value = settings[key]
        place[leaf] = nested(value) if isinstance(value, Mapping) else value
    return result


def as_written(value: Any) -> str:
    """Returns a value as the command line takes it: null, true, [400, 200]."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def in_short(value: Any) -> str:
    """Returns a value as a table or a figure shows it.

    A number has four digits, and a section reads like `conv channels=[32, 64]`.
    """
    if isinstance(value, Mapping):
        kind = [str(value["name"])] if "name" in value else []
        return " ".join(kind + [f"{key}={in_short(inner)}" for key, inner in value.items() if key != "name"])
    return f"{value:.4g}" if isinstance(value, float) else as_written(value)
