"""Defines all that a command or a flow can be told: an experiment, its search, and where the model is registered."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, reduce
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from aemodels.config import Config, SettingsError, did_you_mean, nested, read_text
from aemodels.data.own_images import source_of
from aemodels.data.paths import whole_path, whole_paths
from aemodels.data.source import OwnImagesConfig
from aemodels.experiment import Experiment
from aemodels.tracking.gate import RegistryConfig
from aemodels.tuning.config import TuningConfig


class Settings(Experiment):
    """Holds an experiment, `tuning` and `registry`; every command takes the same settings."""

    tuning: TuningConfig = TuningConfig()
    registry: RegistryConfig = RegistryConfig()

    @property
    def experiment(self) -> Experiment:
        """Returns what a single run depends on."""
        return Experiment(**{field: getattr(self, field) for field in Experiment.model_fields})

    @property
    def registered_name(self) -> str:
        """Returns the name under which the model is registered."""
        self.require_name()
        return self.registry.name or self.data.name

    @property
    def listed_name(self) -> str:
        """Returns the name under which MLflow lists runs that register no model; a folder's name will do."""
        return self.registry.name or self.data.listed_name

    def require_name(self) -> None:
        """Demands a name for a model of images from folders, as a folder's name says nothing about its images.

        Raises:
            SettingsError: the images are one's own, and their model has no name.
        """
        if self.registry.name is None and isinstance(self.data, OwnImagesConfig):
            raise SettingsError(
                "registry.name: a model of your own images needs a name; give registry.name=NAME (in Python "
                "registry__name='NAME')"
            )


def read_changes(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads what a person in the current folder writes, such as data.path=photos, into settings with whole paths.

    Raises:
        SettingsError: an argument is not of the form key=value.
    """
    for argument in arguments:
        if "=" not in argument and os.path.exists(argument):
            images = f"data.name={source_of(Path(argument))} {shlex.quote(f'data.path={argument}')}"
            raise SettingsError(f"{argument!r} is not a setting: give {images} for the images in it")
    return _from_here(read_text(list(arguments)))


def _from_here(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Makes paths whole, from the current folder, in the settings of an experiment or of a comparison's systems."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}.{name}"
        nested = isinstance(value, Mapping)
        result[name] = _from_here(value, key) if nested else _whole(key, value)
    return result


def _whole(key: str, value: Any) -> Any:
    if is_data_path(key):
        return whole_paths(value)
    return whole_path(value) if f".{key}".endswith(".data.labels") else value


def is_data_path(key: str) -> bool:
    """Tells whether a dotted key names folders of images, such as data.path, also within a system's settings."""
    return f".{key}".endswith((".data.path", ".data.val_path", ".data.test_path"))


def presets() -> dict[str, Path]:
    """Returns name -> file of the experiments that come with the project; `fast` has a training section only."""
    folder = Path(str(files("aemodels") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def load_settings(
    changes: Mapping[str, Any],
    preset: str | Sequence[str] | None = None,
    config: Path | None = None,
    start: Mapping[str, Any] | None = None,
) -> Settings:
    """Joins the defaults, then `start`, then presets (one after the other), then a file, then single changes.

    Raises:
        SettingsError: a part of it does not exist or does not fit.
    """
    settings = Settings().override(start or {})
    for found in _read_files(preset, config):
        settings = settings.override(found)
    return settings.override(changes)


def join_files(preset: str | Sequence[str] | None, config: Path | None) -> dict[str, Any]:
    """Joins presets and a file as they are, nested: with what they give alone, and without any defaults.

    Raises:
        SettingsError: there is no such preset or file, or it cannot be read.
    """
    return reduce(merged, _read_files(preset, config), {})


def _read_files(preset: str | Sequence[str] | None, config: Path | None) -> Iterator[dict[str, Any]]:
    """Yields what presets and a file give; later ones win."""
    for name in [preset] if isinstance(preset, str) else preset or ():
        yield read_file(known_file(name, presets(), f"--preset {name}"), f"--preset {name}")
    if config:
        yield read_file(config, f"--config {config}")


def known_file(name: str, known: Mapping[str, Path], asked: str) -> Path:
    """Returns the file of a name.

    Args:
        asked: what a person gave, for the error.
    """
    if name not in known:
        raise SettingsError(f"{asked}: unknown; {did_you_mean(name, known)}choose one of {', '.join(known)}")
    return known[name]


def read_file(path: Path, asked: str) -> dict[str, Any]:
    """Reads the JSON object in a file, its paths from the current folder; `asked` as in `known_file`."""
    try:
        settings = json.loads(path.read_text(), object_pairs_hook=_once)
    except FileNotFoundError:
        raise SettingsError(f"{asked}: there is no such file; give the path of a JSON file of settings") from None
    except ValueError as error:
        raise SettingsError(f"{asked}: not readable as JSON ({error})") from None
    if not isinstance(settings, dict):
        raise SettingsError(f"{asked}: holds no settings; a JSON object of sections is expected")
    return _from_here(settings)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses two entries of one name, of which JSON itself would keep the last."""
    result = dict(pairs)
    for name in result:
        if sum(name == other for other, _ in pairs) > 1:
            raise ValueError(f"two entries are named {name!r}")
    return result


SYSTEM_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,29}"  # a name of a system fits into a path and beside a picture


# What is the same for all systems.
ALIKE = ("data", "evaluation", "registry", "seed", "training.epochs", "training.updates", "training.images")


class ComparisonConfig(Config):
    """Holds systems to compare.

    Example:
        >>> narrow, wide = {"model": {"latent_dim": 2}}, {"model": {"latent_dim": 20}}
        >>> comparison = ComparisonConfig(shared={"training.epochs": 1}, systems={"narrow": narrow, "wide": wide})
        >>> comparison.settings["wide"].training.epochs
        1
    """

    shared: dict[str, Any] = Field(default_factory=dict)
    """Sets what is the same for all systems, such as the images and the budget; it wins over a system's own."""
    systems: dict[str, str | dict[str, Any]]
    """Maps a system's name to a preset's name, or to settings."""
    seeds: int = Field(1, ge=1)
    """Sets the number of seeds: each system is trained with the seeds 0, 1 and so on."""

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Works like `Config.parse`, except that keys are not dotted, as a system's name may have dots."""
        return cls.validated(settings)

    @cached_property
    def settings(self) -> dict[str, Settings]:
        """Returns system -> all of its settings, those of the first seed."""
        return {name: self._resolved(name) for name in self.systems}

    def experiment(self, system: str, seed: int) -> Experiment:
        """Returns what a single run of the comparison depends on."""
        return self.settings[system].experiment.override({"seed": seed})

    def swept(self) -> list[str]:
        """Returns the systems that differ in model.beta alone, of the first kind that has three or more of them."""
        kinds: dict[str, list[str]] = {}
        for name, settings in self.settings.items():
            flat = settings.experiment.flat()
            if "model.beta" in flat:
                kinds.setdefault(json.dumps({**flat, "model.beta": None}, default=str), []).append(name)
        return next((names for names in kinds.values() if len(names) > 2), [])

    def _resolved(self, name: str) -> Settings:
        system = self.systems[name]
        try:
            if isinstance(system, str):
                return load_settings(self.shared, system)
            return load_settings(system).override(self.shared)
        except SettingsError as error:
            raise SettingsError(*(f"system {name}: {line}" for line in error.args)) from None

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if len(self.systems) < 2:
            named = ", ".join(self.systems) or "none"
            raise ValueError(f"a comparison needs at least two systems, here is {named}; name more presets or files")
        for name in self.systems:
            if not re.fullmatch(SYSTEM_NAME, name):
                raise ValueError(f"{name!r} is no name for a system; take up to 30 letters, digits and ._-")
        for key in ALIKE:
            self._check_alike(key)
        self._check_different()
        for name, settings in self.settings.items():
            if settings.start_from is not None:
                raise ValueError(
                    f"system {name}: start_from={settings.start_from}: a comparison trains every system anew; leave it "
                    "out, and start with `aemodels train`"
                )
        if next(iter(self.settings.values())).seed:
            raise ValueError("seed: a comparison counts its seeds from 0; give --seeds N instead")
        return self

    def _check_different(self) -> None:
        seen: dict[str, str] = {}
        for name, settings in self.settings.items():
            if (other := seen.setdefault(settings.experiment.model_dump_json(), name)) != name:
                raise ValueError(
                    f"systems {other} and {name}: they have the same settings; leave out what is given for all and "
                    "makes them so, or let one of them differ"
                )

    def _check_alike(self, key: str) -> None:
        values = {name: _part(settings, key) for name, settings in self.settings.items()}
        (first, value), *others = values.items()
        for name, other in others:
            if other != value:
                differs = f"{first} has {_short(value)}, {name} has {_short(other)}"
                setting = f"{key}.name" if key == "data" else f"{key}.KEY" if isinstance(value, Config) else key
                raise ValueError(f"{key}: not the same for all systems ({differs}); give {setting}=... for all")


def comparisons() -> dict[str, Path]:
    """Returns name -> file of the comparisons that come with the project."""
    folder = Path(str(files("aemodels") / "presets" / "comparisons"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def load_comparison(
    names: Sequence[str], changes: Mapping[str, Any], preset: Sequence[str] = (), seeds: int | None = None
) -> ComparisonConfig:
    """Joins what was named, then applies single changes to all of it.

    Args:
        names: presets, comparisons or JSON files of either.
        preset: comparisons, or settings for all systems.

    Raises:
        SettingsError: a part of it does not exist or does not fit.
    """
    shared: dict[str, Any] = {}
    systems: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for found in [*map(_preset, preset), *map(_named, names)]:
        shared = merged(shared, found.pop("shared", {}))
        for name, system in found.pop("systems", {}).items():
            if name in systems:
                raise SettingsError(f"{name}: two systems have this name; write one of them to a file of another name")
            systems[name] = system
        others |= found
    given = {} if seeds is None else {"seeds": seeds}
    return ComparisonConfig.parse({**others, "shared": merged(shared, changes), "systems": systems, **given})


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Joins both, where changes win; a section of another name replaces the old one, as in `Config.override`."""
    result = nested(settings)
    for key, change in nested(changes).items():
        result[key] = _changed(result.get(key), change)
    return result


def _changed(value: Any, change: Any) -> Any:
    """Returns a value or a section after a change; a section's name alone is short for it."""
    if isinstance(value, str) and isinstance(change, str):
        return change
    old, new = ({"name": part} if isinstance(part, str) else part for part in (value, change))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return change
    another = "name" in old and new.get("name", old["name"]) != old["name"]
    return change if another else merged(old, new)


def _preset(name: str) -> dict[str, Any]:
    asked = f"--preset {name}"
    path = known_file(name, comparisons() | presets(), asked)
    return read_file(path, asked) if name in comparisons() else {"shared": read_file(path, asked)}


def _named(name: str) -> dict[str, Any]:
    """Returns a part of a comparison: one system, or all that a file of a comparison holds."""
    if name in presets():
        return {"systems": {name: name}}
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        path = known_file(name, comparisons() | presets(), name)  # refuses what is neither a file nor a preset
    found = read_file(path, name)
    return found if "systems" in found else {"systems": {path.stem: found}}


def _part(settings: Config, key: str) -> Any:
    for step in key.split("."):
        settings = getattr(settings, step)
    return settings


def _short(value: Any) -> str:
    """Returns a value as text; for a section, its name and what is not as by default."""
    if not isinstance(value, Config):
        return str(value)
    own = {"name": getattr(value, "name", None), **value.model_dump(mode="json", exclude_defaults=True)}
    return " ".join(f"{key}={leaf}" for key, leaf in own.items() if leaf is not None) or "the defaults"
