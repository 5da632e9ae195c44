"""Reads what a Python program gives: images as a source of data, and keywords as settings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aemodels.checkpoints.model_files import WEIGHTS
from aemodels.checkpoints.model_files import digest as digest_of
from aemodels.config import SettingsError, UserError, section_kinds
from aemodels.data.arrays import keep_arrays
from aemodels.data.own_images import source_of
from aemodels.models.base import ModelConfig
from aemodels.runtime.arrays import as_array, as_images
from aemodels.serving.model import Model
from aemodels.settings import Settings
from aemodels.steps.start import DIGITS, fixed
from aemodels.tracking.references import is_folder, reads_as_registered


def settings_of(
    images: Any,
    model: str | ModelConfig | None,
    labels: Any,
    start: Model | str | Path | None,
    given: Mapping[str, Any],
) -> Settings:
    """Returns the settings of a fit or a search, with the images as their source of data.

    Raises:
        SettingsError: a setting does not exist, does not fit, or an argument is of another kind.
        UserError: the images cannot be used.
    """
    changes = changes_of(model, given)
    if start is not None and not isinstance(start, Model | str | Path):
        raise SettingsError(
            f"start_from={type(start).__name__}: give a model that was fitted or loaded, a folder, or a registered "
            "one, such as digits@champion"
        )
    if start is not None:
        changes["start_from"] = _reference(start) if isinstance(start, Model) else str(start)
        if isinstance(start, Model) and any(key.partition(".")[0] == "model" for key in changes):
            changes = {"model.name": start.kind} | changes
    return fixed(Settings().override({"data": _source(images, labels)} | changes))


def changes_of(model: str | ModelConfig | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that were given, by their dotted keys."""
    changes = {_dotted(key): value for key, value in given.items()}
    if isinstance(model, ModelConfig):
        return {"model": model.given()} | changes
    if isinstance(model, Model):
        raise SettingsError("model: this is a trained model; give start_from=... to train on from it")
    if model is not None and not isinstance(model, str):
        raise SettingsError(f"model={model!r}: give a name, such as vae, or settings, such as VAEConfig(beta=2)")
    return changes if model is None else {"model.name": model} | changes


def check_flags(**flags: Any) -> None:
    """Refuses switches that are neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise SettingsError(f"{name}={value!r}: must be True or False")


def check_used(changes: Mapping[str, Any], track: bool, search: bool) -> None:
    """Refuses settings that have no effect: those of a search in a fit, and those of the registry without tracking."""
    for key in changes:
        section = key.partition(".")[0]
        if section == "tuning" and not search:
            raise SettingsError(f"{key}: has no effect in a fit; leave it out, or use `aemodels.search`")
        if section == "registry" and not track:
            raise SettingsError(f"{key}: has no effect without track=True; give that, or leave {key} out")


def _reference(model: Model) -> str:
    """Names a model by its weights: by its registered name, or else by its folder."""
    registered = reads_as_registered(model.name) and not is_folder(model.name)
    digest = digest_of((model.folder / WEIGHTS).read_bytes())[:DIGITS]
    return f"{model.name if registered else model.folder.absolute()}#{digest}"


def _dotted(key: str) -> str:
    """Returns the dotted key of a keyword; one that begins with no section is a setting of the model.

    Raises:
        SettingsError: a keyword without its section is a setting of another section.
    """
    dotted = key.replace("__", ".")
    if dotted.partition(".")[0] in Settings.model_fields:
        return dotted
    sections = {name: section_kinds(field).values() for name, field in Settings.model_fields.items()}
    here = {name for name, kinds in sections.items() if any(key in kind.model_fields for kind in kinds)}
    if here and "model" not in here:
        raise SettingsError(f"{key}: is no setting of a model; give {' or '.join(f'{s}__{key}' for s in sorted(here))}")
    return f"model.{dotted}"


def _source(images: Any, labels: Any) -> dict[str, Any]:
    paths = [images] if isinstance(images, str | Path) else images
    if isinstance(paths, list | tuple) and paths and all(isinstance(path, str | Path) for path in paths):
        whole = [Path(path).expanduser().absolute() for path in paths]
        path: str | list[str] = str(whole[0]) if len(whole) == 1 else list(map(str, whole))
        name = source_of(whole[0])
        if name == "folder" and isinstance(labels, str | Path):
            return {"name": name, "path": path, "labels": str(Path(labels).expanduser().absolute())}
        if labels is not None:
            raise UserError(
                "labels: a folder's labels are its class folders, or in a CSV file, whose path can be given here; "
                "those of a file are in it, so leave them out"
            )
        return {"name": name, "path": path}
    if isinstance(images, torch.utils.data.Dataset):
        images, labels = _of_dataset(images, labels)
    kept = keep_arrays(as_images(images), None if labels is None else as_array(labels))
    return {"name": "arrays", "path": str(kept)}


def _of_dataset(dataset: Any, labels: Any) -> tuple[Any, Any]:
    """Returns the images of a data set, and the labels if its items have any."""
    if not hasattr(dataset, "__len__") or not len(dataset):
        raise UserError("images: this data set has no length, or no items; give one with images")
    items = [item if isinstance(item, tuple | list) else (item,) for item in (dataset[i] for i in range(len(dataset)))]
    arrays = [as_images(item[0]) for item in items]
    if len(shapes := {array.shape for array in arrays}) > 1:
        some = " and ".join(map(str, sorted(shapes)[:2]))
        raise UserError(f"images: this data set has images of several shapes, such as {some}; bring them to one")
    if labels is None and all(len(item) > 1 for item in items):
        labels = np.asarray([_label(item[1]) for item in items])
    return np.stack(arrays), labels


def _label(target: Any) -> Any:
    """Returns the class of an item of a data set, by its number or name.

    Raises:
        UserError: it is anything else, such as several targets.
    """
    if target is None or isinstance(target, str):
        return target
    with suppress(UserError):  # a tuple of tuples of several lengths is no array
        array = as_array(target)
        if array.size == 1 and array.dtype.kind in "biufUS":
            return array.item()
    several = f" of shape {tuple(target.shape)}" if hasattr(target, "shape") else ""
    raise UserError(
        f"labels of this data set are of type {type(target).__name__}{several}; give labels=... with one number or "
        "name per image, or a data set of images alone"
    )
