"""Reads the files of a finished model, with nothing but what a model needs to run.

config.json          the experiment, and the shape of the images; only its `model` section matters here
weights.safetensors  its weights
codes.safetensors    codes of training images, to fit other priors to; models without an encoder have none
history.json         the metrics of each epoch of its training
model.sha256         the checksums of all, as `sha256sum -c` reads them; models of earlier releases have none
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from aemodels.config import UserError
from aemodels.models import AnyModelConfig
from aemodels.models.base import GenerativeModel
from aemodels.nn.trunks import ImageShape
from aemodels.runtime.files import at_path, write_whole
from aemodels.runtime.randomness import seeded

CONFIG, WEIGHTS, CHECKSUMS = "config.json", "weights.safetensors", "model.sha256"
CODES, HISTORY = "codes.safetensors", "history.json"
KEPT = "kept"  # in the history 1 for the epoch whose weights were kept, else 0; models of earlier releases lack it
# The files of a finished model, by their names in MLflow. Copied in this order, a model is whole when config.json is
# there, which is what readers look for.
FILES = {"checksums": CHECKSUMS, "history": HISTORY, "codes": CODES, "weights": WEIGHTS, "config": CONFIG}


DRAWN_BEFORE = {"vae": "prior", "iwae": "prior"}  # model.draws_from of models of releases that had no choice


def _completed(experiment: Any) -> Any:
    """Gives a stored experiment of an earlier release what that release did without saying so."""
    model = experiment.get("model") if isinstance(experiment, Mapping) else None
    if not isinstance(model, Mapping) or model.get("name") not in DRAWN_BEFORE:
        return experiment
    return {**experiment, "model": {"draws_from": DRAWN_BEFORE[model["name"]], **model}}


COMPLETED = BeforeValidator(_completed)


class _Experiment(BaseModel):
    """Reads the `model` section and ignores the others: a served model needs no data sources and metrics."""

    model: AnyModelConfig


class _Card(BaseModel):
    experiment: Annotated[_Experiment, COMPLETED]
    image_shape: ImageShape
    classes: tuple[str, ...]


def load_network(config: Path, weights: Path, device: str = "cpu") -> GenerativeModel:
    """Builds the model that the config describes, in evaluation mode; everything that loads a model loads it here.

    Raises:
        UserError: a file is missing or damaged, is not the one that was saved, or the weights are not of such a model.
    """
    try:
        content = {CONFIG: config.read_bytes(), WEIGHTS: weights.read_bytes()}
        _check(config.with_name(CHECKSUMS), content)
        card = _Card.model_validate_json(content[CONFIG])
        with seeded(0):  # what a new network draws is overwritten, and the caller's noise stays as it was
            model = card.experiment.model.build(card.image_shape, len(card.classes))
        tensors = load(content[WEIGHTS])
        _check_weights(tensors, model.state_dict())
        model.load_state_dict(tensors)
    except FileNotFoundError as error:
        missing = Path(error.filename or weights)
        raise UserError(
            f"{missing}: it is missing, so {missing.parent} holds no finished model; give the folder of one"
        ) from None
    except (SafetensorError, RuntimeError, ValidationError, ValueError) as error:
        raise UserError(f"{config.parent}: damaged model ({first_line(error)}); train it again") from None
    return model.to(device).eval()


def load_codes(folder: Path, latent_dim: int) -> Tensor:
    """Reads the codes (N, D) of training images.

    Raises:
        UserError: the model has none, or the file is damaged.
    """
    try:
        content = {CODES: (folder / CODES).read_bytes()}
        _check(folder / CHECKSUMS, content)
        codes = load(content[CODES])["codes"]
        _check_weights({"codes": codes}, {"codes": torch.zeros(len(codes), latent_dim)})
        return codes
    except FileNotFoundError:
        raise UserError(f"{folder}: no {CODES}, so no other prior can be fitted; train the model again") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: damaged codes ({first_line(error)}); train the model again") from None


def load_history(folder: Path) -> tuple[dict[str, float], ...]:
    """Reads the metrics of each epoch; it is empty for models of earlier releases, which kept none.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = (folder / HISTORY).read_bytes()
        _check(folder / CHECKSUMS, {HISTORY: content})
        return TypeAdapter(tuple[dict[str, float], ...]).validate_json(content)
    except FileNotFoundError:
        return ()
    except ValueError as error:
        raise UserError(f"{folder}: damaged history ({first_line(error)}); train the model again") from None


def seal(folder: Path) -> None:
    """Writes model.sha256: nothing of the model changes any more."""
    there = [name for name in (CONFIG, WEIGHTS, CODES, HISTORY) if (folder / name).exists()]
    lines = [f"{digest((folder / name).read_bytes())}  {name}\n" for name in there]
    write_whole(folder / CHECKSUMS, lambda path: path.write_text("".join(lines)))


def copied(source: Path, target: Path) -> Path:
    """Copies a model's files into a folder, the same model only once, and returns the folder.

    Raises:
        UserError: the folder holds another model, or cannot be written.
    """
    if (target / CONFIG).exists():
        if checksums(target) == checksums(source) != "":
            return target
        raise UserError(f"{target}: holds a model already; give another folder")
    with at_path(target):
        target.mkdir(parents=True, exist_ok=True)
    for name in FILES.values():
        if (source / name).exists():
            write_whole(target / name, partial(shutil.copyfile, source / name))
    return target


def check_registered(checksums: Path, known: str | None, what: str) -> None:
    """Compares the file of checksums with what the registry knows of it; for models of earlier releases it knows none.

    Args:
        known: the file's SHA-256.
        what: the model's name, for the message.

    Raises:
        UserError: it is another file, or gone.
    """
    if known is not None and not (checksums.exists() and digest(checksums.read_bytes()) == known):
        raise UserError(f"{what}: {checksums} is not the one that was registered; restore it, or train it again")


def _check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Says which tensor is not what a model of this config has; torch converts such a tensor, or tells at length."""
    for name in sorted(found.keys() ^ expected.keys()):
        raise ValueError(f"the tensor {name} {'is missing' if name in expected else 'belongs to another model'}")
    for name, tensor in found.items():
        for have, need in ((tensor.dtype, expected[name].dtype), (tensor.shape, expected[name].shape)):
            if have != need:
                raise ValueError(f"the tensor {name} is {_short(have)} and has to be {_short(need)}")
        # The unused components of a mixture have a log weight of -inf, in a new model too.
        if wrong := int((~tensor.isfinite() & (tensor != expected[name])).sum()):
            raise ValueError(f"the tensor {name} has {wrong} values that are NaN or infinite")


def _short(kind: torch.dtype | torch.Size) -> str:
    return str(tuple(kind)) if isinstance(kind, torch.Size) else str(kind).removeprefix("torch.")


def _check(checksums: Path, content: Mapping[str, bytes]) -> None:
    if not checksums.exists():
        return
    expected = {name: known for known, name in (line.split() for line in checksums.read_text().splitlines())}
    for name, read in content.items():
        if digest(read) != expected.get(name):
            raise ValueError(f"{name} is not the one that was saved: its SHA-256 is another one than in {CHECKSUMS}")


def digest(content: bytes) -> str:
    """Returns the SHA-256 of the content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def first_line(error: Exception) -> str:
    """Says in short what an error says; for a file of settings, which of them is wrong."""
    if isinstance(error, ValidationError):
        wrong = error.errors()[0]
        place = ".".join(str(step) for step in wrong["loc"])
        return f"{CONFIG}: {place}: {wrong['msg']}" if place else f"{CONFIG}: {wrong['msg']}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def checksums(folder: Path) -> str:
    """Returns what tells a model from others; "" for models of earlier releases."""
    return file.read_text() if (file := folder / CHECKSUMS).exists() else ""
