"""The two files of a finished model, read with nothing but what a model needs to run.

config.json          the experiment, and the shape of the images; only its `model` section matters here
weights.safetensors  its weights
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from aemodels.config import UserError
from aemodels.models import AnyModelConfig
from aemodels.models.base import GenerativeModel
from aemodels.nets import ImageShape

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


class _Experiment(BaseModel):
    """The other sections are ignored: a model that is served knows nothing of data sources and metrics."""

    model: AnyModelConfig


class _Card(BaseModel):
    experiment: _Experiment
    image_shape: ImageShape
    classes: tuple[str, ...]


def load_network(config: Path, weights: Path, device: str = "cpu") -> GenerativeModel:
    """The model, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        card = _Card.model_validate_json(config.read_text())
        model = card.experiment.model.build(card.image_shape, len(card.classes))
        model.load_state_dict(load_file(weights, device=device))
    except FileNotFoundError as error:
        missing = Path(error.filename or weights)
        raise UserError(f"{missing}: not there; {missing.parent} holds no finished model") from None
    except (SafetensorError, RuntimeError, ValidationError, ValueError, OSError) as error:
        raise UserError(f"{config.parent}: damaged model ({first_line(error)}); train it again") from None
    return model.to(device).eval()


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
