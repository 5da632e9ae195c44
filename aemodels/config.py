"""Defines settings: frozen, validated, addressed by dotted keys (`model.latent_dim`), explained when they are wrong."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic.fields import FieldInfo

from aemodels.texts import visible

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


class UserError(Exception):
    """The person at the command line can mend this error; it names the field, the value and the remedy.

    Args:
        lines: the lines of the message. A line break inside one comes from outside, such as from a file's name, and is
            escaped.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(visible, self.args))


class OutageError(UserError):
    """The cause may be over by itself, such as a server that is away or a full disk, so it can be tried again."""


class SettingsError(UserError, ValueError):
    """Some settings do not fit together or do not exist."""


class OwnWarning(UserWarning):
    """A person who trains a model should know this; the commands show it, but no warnings of libraries."""


class Config(BaseModel):
    """Provides the base of all settings; a section with variants (`data`, `model`) is a union, told apart by `name`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _complete_sections(cls, values: Any) -> Any:
        """Completes sections: a text for one is short for its name; one without a name gets that of its kind."""
        if not isinstance(values, Mapping):
            return values
        result = dict(values)
        for name, field in cls.model_fields.items():
            value = values.get(name)
            if isinstance(value, str) and section_kinds(field):
                result[name] = {"name": value}
            elif isinstance(value, Mapping) and "name" not in value and isinstance(field.default, Config):
                kind = _meant(field, value)
                result[name] = {"name": kind, **value} if kind else value
        return result

    def flat(self) -> dict[str, Any]:
        """Returns dotted key -> plain value, as JSON has it; `parse` reads it back."""
        result: dict[str, Any] = {}
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, Config):
                result |= {f"{field}.{key}": leaf for key, leaf in value.flat().items()}
            else:
                result[field] = self.model_dump(mode="json", include={field})[field]
        return result

    def given(self) -> dict[str, Any]:
        """Returns the settings that were given, nested, with the name of each section; the others are defaults."""
        return {
            field: value.given() if isinstance(value := getattr(self, field), Config) else value
            for field in type(self).model_fields
            if field in self.model_fields_set or field == "name"
        }

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Makes a validated config from dotted keys or nested mappings.

        Raises:
            SettingsError: a setting does not exist or its value is out of range.
        """
        return cls.validated(nested(settings))

    def override(self, settings: Mapping[str, Any]) -> Self:
        """Returns a copy with other settings, validated again.

        A section whose `name` changes starts from its defaults; `section=variant` is short for `section.name=variant`.

        Raises:
            SettingsError: as `parse`.
        """
        return type(self).validated(self._merged(nested(settings)))

    def _merged(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        merged = self.given()
        for field, change in changes.items():
            section = getattr(self, field, None)
            if isinstance(section, Config):
                change = {"name": change} if isinstance(change, str) else change
                if isinstance(change, Mapping) and change.get("name", _name(section)) == _name(section):
                    chosen = _name(section) == AUTO and "name" not in change
                    change = change if chosen else section._merged(change)
            merged[field] = change
        return merged

    @classmethod
    def validated(cls, values: object) -> Self:
        """Makes a validated config from nested mappings, as a flow run's parameters are.

        Raises:
            SettingsError: as `parse`.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(*(_explain(cls, e) for e in error.errors())) from None


def section_kinds(field: FieldInfo) -> dict[str, type[Config]]:
    """Returns variant name -> config class of a field that holds a section; empty for a field that holds a value."""
    return {_name(kind): kind for kind in _config_classes(field.annotation)}


def _meant(field: FieldInfo, value: Mapping[str, Any]) -> str:
    """Returns the variant's name of a section that gives none; "" if it has no variants.

    It is the default's, or where that is `auto`, whose kind the images decide, the first that has these settings.
    """
    name = _name(field.default)
    if name == AUTO:
        kinds = section_kinds(field).items() if value else ()
        return next((kind for kind, config in kinds if config.model_fields.keys() >= value.keys()), name)
    return name


class Range(BaseModel):
    """A range holds the numbers from low to high that a search may try, only whole ones where both ends are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"low={self.low:g}, high={self.high:g}: low <= high is needed, and low > 0 with log=true")
        return self

    @property
    def whole(self) -> bool:
        """Tells whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Choice(BaseModel):
    """A choice holds the values that a search may try: texts, numbers, booleans, null, lists, or whole sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[JsonValue, ...] = Field(min_length=1)


Space = Mapping[str, Range | Choice]  # dotted key -> what a search may try there


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


def _explain(config: type[Config], error: Any) -> str:
    """Returns one line with the field, the value and the remedy."""
    key, owner, kinds = _locate(config, error["loc"])
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _no_such(key, value, owner, kinds)
    if kind == "union_tag_invalid":
        tag, known = context["tag"], [name.strip(" '") for name in context["expected_tags"].split(",")]
        return f"{key}.name={tag}: unknown; {did_you_mean(tag, known)}choose one of {', '.join(known)}"
    if kind == "union_tag_not_found":
        return f"{key}={_short(value)}: does not say which variant is meant; give {key}.name"
    if kind == "missing":
        return f"{key}: required; give {key}=..."
    if kind == "value_error" and isinstance(value, Mapping | Config):  # a rule between several settings
        return ": ".join(filter(None, (key, _message(error))))
    if kind == "string_pattern_mismatch":
        words = str(owner.model_fields[key.rpartition(".")[2]].description).split()
        return f"{key}={_short(value)}: does not fit; {' '.join(words)}"
    if kind in ALLOWED:
        more = f"; see `aemodels settings {key.partition('.')[0]}`" if "." in key else ""
        return f"{key}={_short(value)}: {demand(error)}{more}"
    return f"{key}={_short(value)}: {_message(error)}"


def _no_such(key: str, value: Any, owner: type[Config], kinds: Kinds) -> str:
    """Returns the line about a setting that does not exist: other variants have it, or it may be misspelt."""
    section, _, own = key.rpartition(".")
    known, others = list(owner.model_fields), [kind for kind, config in kinds.items() if own in config.model_fields]
    of = f"{section}.name={_name(owner)}" if _name(owner) else section or "an experiment"
    hint = f"it has: {', '.join(known)}"
    if others:
        hint = f"give {section}.name={' or '.join(others)}"
    elif close := difflib.get_close_matches(own, known, n=1):
        hint = f"did you mean {section + '.' if section else ''}{close[0]}?"
    if isinstance(value, Mapping) and len(value) == 1:  # as it was written: modle.beta=2
        ((inner, value),) = value.items()
        key = f"{key}.{inner}"
    return f"{key}={_short(value)}: no such setting of {of}; {hint}"


def _locate(config: type[Config], location: tuple[int | str, ...]) -> tuple[str, type[Config], Kinds]:
    """Maps pydantic's location, which has the variants' tags, to the dotted key, its last part's owner and variants."""
    key: list[str] = []
    found: Kinds = {}
    steps = list(location)
    while steps:
        step = str(steps.pop(0))
        key.append(step)
        field = config.model_fields.get(step)
        kinds = section_kinds(field) if field else {}
        if kinds and steps:
            tag = steps.pop(0) if str(steps[0]) in kinds else next(iter(kinds))
            config, found = kinds[str(tag)], kinds
    return ".".join(key), config, found


def _name(config: Config | type[Config]) -> str:
    """Returns the variant's name; "" for a section that has no variants."""
    fields = (type(config) if isinstance(config, Config) else config).model_fields
    return str(fields["name"].default) if "name" in fields and get_origin(fields["name"].annotation) is Literal else ""


def _config_classes(annotation: Any) -> Iterator[type[Config]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _config_classes(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _config_classes(member)
    elif isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation


def _short(value: Any) -> str:
    text = as_written(value)
    return text if len(text) <= 80 else text[:77] + "..."


Kinds = Mapping[str, type[Config]]  # the variants of a section by their names
AUTO = "auto"  # the variant of a section that is chosen from the images
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # a name of an experiment or model fits a path, a link and `name@alias`


class UnreachableError(OutageError):
    """A server does not answer now; a scheduled run may try again later."""
