"""The settings of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aemodels.config import Config, UserError
from aemodels.nn.corruption import CorruptionConfig, NoCorruption
from aemodels.nn.schedules import Schedule


class TrainingConfig(Config):
    """How a model is trained."""

    epochs: int = Field(20, ge=1)
    """Passes over the training images."""
    pretraining_epochs: int = Field(0, ge=0)
    """Passes over them for each hidden layer of an MLP trunk, one layer after the other, before `epochs` of all layers
    together; 0 starts with those."""
    batch_size: int = Field(128, ge=1)
    """Images per update."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam (weight decay in the gradient) or AdamW (decoupled)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of the optimiser."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""
    schedule: Schedule = "constant"
    """Learning rate after its warm-up: constant, half a cosine down to 0, or down to a tenth in 8 stages, each of them
    three times as long as the one before."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0."""
    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of a part's gradient; null clips nothing."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the layers' arithmetic, where the processor has instructions for bfloat16 (a GPU since Ampere, AMX, AVX-512
    BF16; others compute in float32); densities and weights are always float32. On an NVIDIA GPU the factors of float32
    products are rounded to TF32, in training and whenever a model is judged."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a better validation bound after which training stops; null trains all epochs. No
    bound says which epoch of an adversarial model (`gan`, `vae_gan`) is better: it always trains all."""
    corruption: CorruptionConfig = NoCorruption()
    images: int | None = Field(None, ge=1)
    """Train on so many images only, and validate each epoch on a tenth as many, at least 1,000; null takes all."""


class TrainingDivergedError(UserError, RuntimeError):
    """A term of the loss is not finite."""
