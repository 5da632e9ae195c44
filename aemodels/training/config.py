"""Defines the settings of a training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from aemodels.config import Config, UserError
from aemodels.nn.augmentation import AugmentationConfig
from aemodels.nn.corruption import CorruptionConfig, NoCorruption
from aemodels.nn.schedules import Schedule


class TrainingConfig(Config):
    """Holds how a model is trained."""

    epochs: int = Field(20, ge=1)
    """Sets the passes over the training images."""
    pretraining_epochs: int = Field(0, ge=0)
    """Sets the passes for each hidden layer of an MLP trunk, one layer after the other, before all train together.

    With 0 the training starts with all layers together."""
    batch_size: int = Field(128, ge=1)
    """Sets the images per update."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Chooses Adam (weight decay in the gradient) or AdamW (decoupled weight decay)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Sets the step size of the optimiser."""
    weight_decay: float = Field(0.0, ge=0)
    """Weighs the L2 penalty on the weights."""
    schedule: Schedule = "constant"
    """Chooses the learning rate after its warm-up: constant, half a cosine down to 0, or 8 stages down to a tenth.

    Each stage is three times as long as the one before."""
    warmup_steps: int = Field(0, ge=0)
    """Sets the updates over which the learning rate rises from 0."""
    gradient_clip: float | None = Field(None, gt=0)
    """Sets the largest norm of a part's gradient; null clips nothing."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Chooses the precision of the layers' arithmetic; densities and weights are always float32.

    bfloat16 is used where the processor has instructions for it (a GPU since Ampere, AMX, AVX-512 BF16); others compute
    in float32. On an NVIDIA GPU the factors of float32 products are rounded to TF32, in training and whenever a model
    is evaluated."""
    patience: int | None = Field(None, ge=1)
    """Sets the epochs without a better validation bound after which training stops; null trains all epochs.

    No bound says which epoch of an adversarial model (`gan`, `vae_gan`) is better, so it always trains all."""
    augmentation: AugmentationConfig = AugmentationConfig()
    corruption: CorruptionConfig = NoCorruption()
    images: int | None = Field(None, ge=1)
    """Trains on so many images only, and validates each epoch on a tenth as many, at least 1,000; null takes all."""

    def for_images(self, count: int) -> Self:
        """Returns the settings for so many training images, with everything settled that depends on their number."""
        return self


class TrainingDivergedError(UserError, RuntimeError):
    """A term of the loss is not finite."""
