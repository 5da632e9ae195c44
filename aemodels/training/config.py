"""Defines the settings of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from aemodels.config import Config, UserError
from aemodels.nn.augmentation import AugmentationConfig
from aemodels.nn.corruption import CorruptionConfig, NoCorruption
from aemodels.nn.schedules import Schedule

UPDATES = 1_500  # of a training whose length is not given
PASSES, MOST_UPDATES = 3, 2 * UPDATES  # it has more where there are many images: so many passes, up to so many updates
EPOCH = 100  # updates of an epoch, where the length is given in updates
WARM_UP = 100  # updates of the learning rate of such a training: the first steps of Adam spoil a linear code
PATIENCE = 1 / 3  # share of such a training that may bring no better validation
FEWEST = 3  # epochs, at least, that it may last: a single validation says little


class LengthConfig(Config):
    """Provides the base of settings that hold the length of a training, in updates or in epochs."""

    updates: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.updates is not None and self.epochs is not None:
            raise ValueError(
                f"updates={self.updates} and epochs={self.epochs} are two lengths of one training; leave one of them "
                "out, or give it as null where a preset has it"
            )
        return self

    def _merged(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Replaces the one length where a change gives the other."""
        merged = super()._merged(changes)
        for one, other in (("updates", "epochs"), ("epochs", "updates")):
            if changes.get(one) is not None and other not in changes:
                merged.pop(other, None)
        return merged


class TrainingConfig(LengthConfig):
    """Holds how a model is trained."""

    updates: int | None = Field(None, ge=1)
    """Sets the length of the training, in updates; null takes 1,500, and up to 3,000 for three passes over many images.

    What a training needs does not shrink with the number of images. An epoch, after which the model is validated, saved
    and shown, then has 100 updates, however many passes over the images these are."""
    epochs: int | None = Field(None, ge=1)
    """Sets the length of the training in another way: as passes over the training images, which are then its epochs."""
    pretraining_epochs: int = Field(0, ge=0)
    """Sets the passes for each hidden layer of an MLP trunk, one layer after the other, before all train together.

    With 0 the training starts with all layers together."""
    batch_size: int = Field(64, ge=1)
    """Sets the images per update."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Chooses Adam (weight decay in the gradient) or AdamW (decoupled weight decay)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Sets the step size of the optimiser."""
    weight_decay: float = Field(0.0, ge=0)
    """Weighs the L2 penalty on the weights."""
    schedule: Schedule | None = None
    """Chooses the learning rate after its warm-up: constant, half a cosine down to 0, or 8 stages down to a tenth.

    Each stage is three times as long as the one before. null is cosine for a length in updates, constant in epochs."""
    warmup_steps: int | None = Field(None, ge=0)
    """Sets the updates over which the learning rate rises from 0; null is 100 for a length in updates, 0 in epochs."""
    gradient_clip: float | None = Field(None, gt=0)
    """Sets the largest norm of a part's gradient; null clips nothing."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Chooses the precision of the layers' arithmetic; densities and weights are always float32.

    bfloat16 is used where the processor has instructions for it (a GPU since Ampere, AMX, AVX-512 BF16); others compute
    in float32. On an NVIDIA GPU the factors of float32 products are rounded to TF32, in training and whenever a model
    is evaluated."""
    patience: int | None = Field(None, ge=0)
    """Sets the updates without a better validation bound after which training stops; 0 never stops it.

    It goes on as long as the bound is lower in the second half of them than in the first, by more than its noise.
    null takes a third of a length in updates, at least 300, and 0 for one in epochs. No bound says which epoch of an
    adversarial model (`gan`, `vae_gan`) is better, so it is always trained in full."""
    augmentation: AugmentationConfig = AugmentationConfig()
    corruption: CorruptionConfig = NoCorruption()
    images: int | None = Field(None, ge=1)
    """Trains on so many of the first images only; null takes all, or as many as there is time for.

    Each epoch is validated on a tenth as many images as it trains on, at least 1,000; on all of them where the length
    is in epochs and this is null."""

    def for_images(self, count: int) -> Self:
        """Returns the settings for so many training images, with everything settled that depends on their number.

        Where a training is over before it has passed over its images once, it takes no others.
        """
        rates = {"schedule": self.rates, "warmup_steps": self.warm_up}
        if self.epochs is not None:
            return self.model_copy(update=rates)
        images = min(self.images or count, count)
        passes = math.ceil(PASSES * images / self.batch_size)
        updates = self.updates or max(UPDATES, min(passes, MOST_UPDATES))
        seen = updates * self.batch_size
        some = {"images": seen} if seen < images else {}
        return self.model_copy(update={"updates": updates, **rates, **some})

    @property
    def budget(self) -> int:
        """Returns the updates of a training whose length is not in epochs; before `for_images` it is the least."""
        return UPDATES if self.updates is None else self.updates

    @property
    def number_of_epochs(self) -> int:
        """Returns how many epochs the whole training has; the last may be shorter."""
        return math.ceil(self.budget / EPOCH) if self.epochs is None else self.epochs

    def epoch_updates(self, images: int) -> int:
        """Returns the updates of an epoch of a training on so many images."""
        return EPOCH if self.epochs is None else math.ceil(images / self.batch_size)

    def all_updates(self, images: int) -> int:
        """Returns the updates of the whole training on so many images."""
        return self.budget if self.epochs is None else self.epochs * self.epoch_updates(images)

    @property
    def rates(self) -> Schedule:
        """Returns the schedule of the learning rate."""
        return self.schedule or ("cosine" if self.epochs is None else "constant")

    @property
    def warm_up(self) -> int:
        """Returns the updates over which the learning rate rises."""
        if self.warmup_steps is None:
            return WARM_UP if self.epochs is None else 0
        return self.warmup_steps

    @property
    def waits(self) -> int | None:
        """Returns the updates without a better validation after which it stops; None where it never does."""
        if self.patience is None:
            return max(math.ceil(PATIENCE * self.budget), FEWEST * EPOCH) if self.epochs is None else None
        return self.patience or None


class TrainingDivergedError(UserError, RuntimeError):
    """A term of the loss is not finite."""
