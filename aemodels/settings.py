"""All that a command or a flow can be told: an experiment, its search, and where the model is registered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from aemodels.config import SettingsError, did_you_mean, read_text
from aemodels.data.folder import FolderConfig, whole_paths
from aemodels.experiment import Experiment
from aemodels.tracking.gate import RegistryConfig
from aemodels.tuning.config import TuningConfig


class Settings(Experiment):
    """An experiment, `tuning` and `registry`. Every command takes the same."""

    tuning: TuningConfig = TuningConfig()
    registry: RegistryConfig = RegistryConfig()

    @property
    def experiment(self) -> Experiment:
        """What a single run depends on."""
        return Experiment(**{field: getattr(self, field) for field in Experiment.model_fields})

    @property
    def registered_name(self) -> str:
        """The name under which the model is registered."""
        self.require_name()
        return self.registry.name or self.data.name

    def require_name(self) -> None:
        """A folder's name says nothing about its images.

        Raises:
            SettingsError: images of one's own, and no name for their model.
        """
        if self.registry.name is None and isinstance(self.data, FolderConfig):
            raise SettingsError("registry.name: a model of images from folders needs a name; give registry.name=...")


def read_changes(arguments: Sequence[str]) -> dict[str, Any]:
    """What a person in the current folder writes, such as data.path=photos -> settings with whole paths.

    Raises:
        SettingsError: an argument is not of the form key=value.
    """
    return _from_here(read_text(list(arguments)))


def _from_here(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of an experiment, or of the systems of a comparison, whose folders start from the current one."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}.{name}"
        nested = isinstance(value, Mapping)
        result[name] = _from_here(value, key) if nested else whole_paths(value) if is_data_path(key) else value
    return result


def is_data_path(key: str) -> bool:
    """Whether a dotted key names folders of images: data.path, by itself or within the settings of a system."""
    return f".{key}".endswith(".data.path")


def presets() -> dict[str, Path]:
    """Name -> file of the experiments that come with the project; `fast` has a training section only."""
    folder = Path(str(files("aemodels") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def load_settings(
    changes: Mapping[str, Any], preset: str | Sequence[str] | None = None, config: Path | None = None
) -> Settings:
    """The defaults, then presets (one after the other), then a file, then single changes.

    Raises:
        SettingsError: something of it does not exist or does not fit.
    """
    names = [preset] if isinstance(preset, str) else preset or ()
    settings = Settings()
    for name in names:
        settings = settings.override(read_file(known_file(name, presets(), f"--preset {name}"), f"--preset {name}"))
    if config:
        settings = settings.override(read_file(config, f"--config {config}"))
    return settings.override(changes)


def known_file(name: str, known: Mapping[str, Path], asked: str) -> Path:
    """The file of a name.

    Args:
        asked: what a person gave, for the error.
    """
    if name not in known:
        raise SettingsError(f"{asked}: unknown; {did_you_mean(name, known)}choose one of {', '.join(known)}")
    return known[name]


def read_file(path: Path, asked: str) -> dict[str, Any]:
    """The JSON object in a file, its paths from the current folder; `asked` as in `known_file`."""
    try:
        settings = json.loads(path.read_text(), object_pairs_hook=_once)
    except FileNotFoundError:
        raise SettingsError(f"{asked}: there is no such file") from None
    except ValueError as error:
        raise SettingsError(f"{asked}: not readable as JSON ({error})") from None
    if not isinstance(settings, dict):
        raise SettingsError(f"{asked}: holds no settings; a JSON object of sections is expected")
    return _from_here(settings)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """JSON itself would keep the last of two entries of one name."""
    result = dict(pairs)
    for name in result:
        if sum(name == other for other, _ in pairs) > 1:
            raise ValueError(f"two entries are named {name!r}")
    return result
