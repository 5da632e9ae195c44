"""Keeps a model on disk, and a training that can go on: JSON and safetensors, written whole or not at all; no pickle.

config.json          the experiment and what the model must know of its data
weights.safetensors  the finished model
codes.safetensors    codes of training images, where the model has an encoder
history.json         the metrics of each epoch of its training
model.sha256         the checksums of all of these
state.safetensors    the state after the last epoch, while training is not finished
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aemodels.checkpoints.model_files import CODES, COMPLETED, CONFIG, WEIGHTS, first_line, load_network, seal
from aemodels.checkpoints.run_folder import STATE
from aemodels.config import Config, SettingsError, UserError
from aemodels.data.prepared import PreparedData, prepared_before
from aemodels.evaluation.images import TrainedOn
from aemodels.experiment import Experiment
from aemodels.models.base import GenerativeModel
from aemodels.nn.trunks import ImageShape
from aemodels.runtime.files import write_whole
from aemodels.training.state import TrainingState

BESIDE = tuple(field.name for field in fields(TrainingState) if field.name != "tensors")  # kept as JSON


class ModelCard(Config):
    """Holds what is needed to build a model again."""

    experiment: Annotated[Experiment, COMPLETED]
    image_shape: ImageShape
    classes: tuple[str, ...]
    digest: str
    """Identifies the data that it was trained on, by a hash."""

    def trained_on(self, data: PreparedData) -> TrainedOn | None:
        """Returns the images of the model's training: these, if they are its own, or else what is left in the cache."""
        own = data if data.digest == self.digest else prepared_before(self.experiment.data, self.digest)
        return None if own is None else self.experiment.trained_on(own)

    def check_shape(self, data: PreparedData, what: str) -> None:
        """Checks that images have the shape of those that the model was made for; `what` names it in the message.

        Raises:
            SettingsError: they have another one.
        """
        if data.image_shape != self.image_shape:
            channels, height, width = self.image_shape
            size = height if height == width else [height, width]
            raise SettingsError(
                f"{what}: made for images of shape {self.image_shape}, these have {data.image_shape}; "
                f"set data.image_size={size}, or choose images of {channels} channels"
            )


class Loaded(NamedTuple):
    """Holds a trained model with its card."""

    model: GenerativeModel
    card: ModelCard


def save_card(folder: Path, experiment: Experiment, data: PreparedData) -> None:
    """Writes into config.json what the model is, and what it was trained on."""
    card = ModelCard(experiment=experiment, image_shape=data.image_shape, classes=data.classes, digest=data.digest)
    write_whole(folder / CONFIG, lambda path: path.write_text(card.model_dump_json(indent=2)))


def save_weights(folder: Path, model: GenerativeModel, codes: Tensor | None = None) -> None:
    """Writes weights.safetensors, codes (N, D) if there are any, and the checksums: the model is finished."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_whole(folder / WEIGHTS, lambda path: save_file(tensors, path))
    if codes is not None:
        write_whole(folder / CODES, lambda path: save_file({"codes": codes.contiguous()}, path))
    seal(folder)


def load_model(folder: Path, device: str = "cpu") -> Loaded:
    """Loads a finished model from its folder, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    return Loaded(load_network(folder / CONFIG, folder / WEIGHTS, device), load_card(folder))


def load_card(folder: Path) -> ModelCard:
    """Returns what a finished model was trained on, and how.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return ModelCard.model_validate_json((folder / CONFIG).read_text())
    except (FileNotFoundError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(f"{folder}: damaged model ({first_line(error)}); train it again") from None


def save_state(folder: Path, state: TrainingState) -> None:
    """Writes the state after an epoch, in one file, so that it is never half of one epoch and half of another."""
    meta = {name: json.dumps(getattr(state, name)) for name in BESIDE}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    write_whole(folder / STATE, lambda path: save_file(tensors, path, metadata=meta))


def load_state(folder: Path, device: str = "cpu") -> TrainingState | None:
    """Returns the state to resume from; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=device) as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            # Only the fields of today are kept, as an earlier release kept more.
            meta = {name: json.loads(text) for name, text in file.metadata().items() if name in BESIDE}
        return TrainingState(**meta, tensors=tensors)
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: damaged checkpoint ({first_line(error)}); delete the folder {folder} to train from the start"
        ) from None
