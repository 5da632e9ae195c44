"""Defines settings: frozen, validated, addressed by dotted keys (`model.latent_dim`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from aemodels.config.errors import SettingsError
from aemodels.config.explanations import Place, explained
from aemodels.config.notation import nested

AUTO = "auto"  # the variant of a section that is chosen from the images
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # a name of an experiment or model fits a path, a link and `name@alias`


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
            raise SettingsError(*(explained(e, _locate(cls, e["loc"])) for e in error.errors())) from None


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


def _locate(config: type[Config], location: tuple[int | str, ...]) -> Place:
    """Maps pydantic's location, which has the variants' tags, to the setting that it means."""
    key: list[str] = []
    found: Mapping[str, type[Config]] = {}
    steps = list(location)
    while steps:
        step = str(steps.pop(0))
        key.append(step)
        field = config.model_fields.get(step)
        kinds = section_kinds(field) if field else {}
        if kinds and steps:
            tag = steps.pop(0) if str(steps[0]) in kinds else next(iter(kinds))
            config, found = kinds[str(tag)], kinds
    return Place(".".join(key), config, _name(config), found)


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
