"""Starts a training from the weights of a trained model: finds them, fixes which they are, and checks that they fit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from aemodels.checkpoints.checkpoint import load_card, load_model
from aemodels.checkpoints.model_files import WEIGHTS
from aemodels.checkpoints.model_files import digest as digest_of
from aemodels.config import OwnWarning, SettingsError, UserError, as_written
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.models.base import ModelConfig
from aemodels.tracking.catalog import find, find_registered, pinned
from aemodels.tracking.references import reads_as_registered

DIGITS = 12  # of the SHA-256 of the weights, behind the #

E = TypeVar("E", bound=Experiment)


class Origin(NamedTuple):
    """Names the weights that a training starts from."""

    reference: str  # NAME/VERSION, or a folder; as it was given, NAME@ALIAS too
    digest: str  # the first digits of the SHA-256 of the weights; "" if they were not given

    @property
    def registered(self) -> bool:
        """Tells whether a registered version was fixed; a folder that was fixed is a whole path."""
        return self.digest != "" and reads_as_registered(self.reference)


def origin(start_from: str) -> Origin:
    """Splits the text of a setting into the reference and the digest."""
    match = re.fullmatch(rf"(.+?)(?:#([0-9a-f]{{{DIGITS}}}))?", start_from, re.DOTALL)
    assert match is not None  # the setting is not empty
    return Origin(match[1], match[2] or "")


def fixed(experiment: E) -> E:
    """Fixes which weights a training starts from, and takes over the settings of their model.

    An alias becomes the version that it names now. What is fixed already stays as it is.

    Raises:
        SettingsError: settings of the model were given that do not fit the weights.
        UserError: there is no such model, or its weights are others than those that the digest names.
    """
    if experiment.start_from is None:
        return experiment
    asked = origin(experiment.start_from)
    reference = asked.reference if asked.registered else pinned(asked.reference)
    folder = _folder(reference)
    found = _check_digest(experiment.start_from, folder, asked.digest)
    there = load_card(folder).experiment.model
    model = Experiment(model=there).override({"model": experiment.given().get("model", {})}).model
    _check_model(reference, there, model)
    return experiment.override({"start_from": f"{reference}#{found}", "model": model.given()})


def starting_weights(experiment: Experiment, data: PreparedData) -> Mapping[str, Tensor] | None:
    """Returns the weights before the first update, by their names; None where they are drawn.

    Raises:
        SettingsError: they do not fit the images.
        UserError: they cannot be read.
    """
    if experiment.start_from is None:
        return None
    reference, digest = origin(experiment.start_from)
    folder = _folder(reference) if digest else find(reference)
    _check_digest(experiment.start_from, folder, digest)
    model, card = load_model(folder)
    card.check_shape(data, f"start_from={reference}")
    if model.conditional and len(card.classes) != data.num_classes:
        raise SettingsError(
            f"start_from={reference}: conditional on {len(card.classes)} classes, these images have "
            f"{data.num_classes or 'no labels'}; choose images of as many classes, or leave start_from out"
        )
    if model.conditional and card.classes != data.classes:
        before, now = next(pair for pair in zip(card.classes, data.classes, strict=True) if pair[0] != pair[1])
        told = f"start_from={reference}: the classes have other names: what was {before} there becomes {now}"
        warnings.warn(told, OwnWarning, stacklevel=2)
    own = experiment.model.only_in_loss  # some of these settings are buffers
    return {name: tensor for name, tensor in model.state_dict().items() if name not in own}


def _folder(reference: str) -> Path:
    """Returns the folder of a reference that was fixed: a registered version, or else a whole path."""
    return find_registered(reference) if reads_as_registered(reference) else find(reference)


def _check_digest(start_from: str, folder: Path, digest: str) -> str:
    """Returns the first digits of the SHA-256 of a model's weights, which have to be those that were given, if any."""
    found = digest_of((folder / WEIGHTS).read_bytes())[:DIGITS]
    if digest not in ("", found):
        reference, _ = origin(start_from)
        raise UserError(
            f"start_from={start_from}: the weights of {reference} are others now, #{found}; leave # and the digits out "
            "to start from those"
        )
    return found


def _check_model(reference: str, there: ModelConfig, here: ModelConfig) -> None:
    """Says which settings keep weights of one model out of another."""
    before, now = there.flat(), here.flat()
    if before["name"] != now["name"]:  # what else differs follows from it
        before, now = {"name": before["name"]}, {"name": now["name"]}
    differ = [
        f"model.{key} is {as_written(before.get(key))} there and {as_written(now.get(key))} here"
        for key in before | now
        if before.get(key) != now.get(key) and key not in here.only_in_loss
    ]
    if differ:
        remedy = "leave these settings out, and they are those of that model"
        if "model.name" in differ[0]:
            remedy = f"give model.name={before['name']}, or no setting of the model"
        raise SettingsError(f"start_from={reference}: its weights do not fit: {', '.join(differ)}; {remedy}")
