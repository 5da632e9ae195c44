"""Defines an experiment, which holds all that a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from aemodels.config import AUTO, Config, as_written
from aemodels.data import DataConfig
from aemodels.data.digits import DigitsConfig
from aemodels.data.prepared import PreparedData
from aemodels.data.statistics import is_black_and_white
from aemodels.evaluation.advice import Course
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import check_ranking
from aemodels.evaluation.images import TrainedOn
from aemodels.models import AnyModelConfig, VAEConfig
from aemodels.nn.photo import PhotoConfig
from aemodels.runtime.hashes import hash_of
from aemodels.training.config import TrainingConfig
from aemodels.training.train import check_model

ENOUGH = 10_000  # images, from which on a trunk for photos needs no shifted ones

# What is chosen from the images, in words with a value, and in words where it is 0.
WORDS = {
    "training.updates": "{:,} updates",
    "training.schedule": "{} learning rate",
    "training.warmup_steps": "warm-up of {} updates",
    "training.augmentation.shift": "shifts of up to {} px",
}
WORDS_FOR_NONE = {"training.warmup_steps": "no warm-up", "training.augmentation.shift": "no shifts"}


class Experiment(Config):
    """Holds the data, a model, its training and its evaluation."""

    data: DataConfig = DigitsConfig()
    model: AnyModelConfig = VAEConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    start_from: str | None = Field(None, min_length=1)
    """Starts the training from the weights of a trained model: NAME@ALIAS, NAME/VERSION or a run's folder.

    The model's settings are then those of that model; others may be given if they only weigh the loss. With null the
    weights are drawn. Before the training is named, an alias is replaced by its version, and # is added with the first
    digits of the SHA-256 of the weights."""
    seed: int = Field(0, ge=0)
    """Seeds the weights, the order of the images and all noise; the splits have their own seed, `data.split_seed`."""

    @model_validator(mode="after")
    def _is_judged_by_a_known_metric(self) -> Self:
        check_ranking(self.evaluation)
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.start_from is not None and self.training.pretraining_epochs:
            raise ValueError(
                f"training.pretraining_epochs={self.training.pretraining_epochs}: nothing is pre-trained where weights "
                "are given; use training.pretraining_epochs=0, or leave start_from out"
            )
        check_model(self.model, self.training)
        if self.data.binarize != "none" and (grey := self.training.augmentation.makes_grey):
            name, strength = next(iter(grey.items()))
            raise ValueError(
                f"training.augmentation.{name}={strength}: makes grey pixels, and data.binarize={self.data.binarize} "
                f"black and white ones; use training.augmentation.{name}=0, or data.binarize=none"
            )
        return self

    def for_data(self, data: PreparedData) -> Self:
        """Returns the experiment with everything settled that is chosen from the images; the rest stays as it is."""
        training = self.training.for_images(data.sizes["train"])
        model = self.model.for_images(data.image_shape, is_black_and_white(data, self.training.images))
        if training.augmentation.shift is None:
            # A few hundred photos are too few without: the test error of hands was 0.55 and 0.78 of a linear code's.
            # Enough images only learn more slowly with it: those of MNIST had 0.30 and 0.29.
            few = isinstance(getattr(model, "trunk", None), PhotoConfig) and self.seen(data) < ENOUGH
            shift = min(data.image_shape[1:]) // 16 if few else 0
            augmentation = training.augmentation.model_copy(update={"shift": shift})
            training = training.model_copy(update={"augmentation": augmentation})
        return self.model_copy(update={"model": model, "training": training})

    def chosen(self, given: Experiment, data: PreparedData) -> str:
        """Says in a line what was chosen from the images that the given experiment left open; "" where it is nothing.

        Which images are left out stands first, as that costs quality.
        """
        before, after = given.flat(), self.flat()
        new = {key: value for key, value in after.items() if value is not None and value != before.get(key)}
        limit = new.pop("training.images", None)
        sections = [key.removesuffix("name") for key in new if before.get(key) == AUTO]
        told = [_in_words(key, new[key]) for key in new if key.endswith(".name") or not key.startswith(tuple(sections))]
        there = min(given.training.images or data.sizes["train"], data.sizes["train"])
        some = f"trains on {limit:,} of {there:,} images, training.updates=N sees more" if limit else ""
        return "; ".join(filter(None, (some, f"chosen for these images: {', '.join(told)}" if told else "")))

    def seen(self, data: PreparedData) -> int:
        """Returns how many of the first training images a training on these data sees."""
        there = data.sizes["train"]
        return min(self.training.images or there, there)

    def trained_on(self, data: PreparedData) -> TrainedOn:
        """Returns the images that a training on these data sees."""
        return TrainedOn(data, self.seen(data))

    def course(
        self, data: PreparedData, selection: str | None, history: Sequence[Mapping[str, float]], best_epoch: int
    ) -> Course:
        """Returns how a training on these data went, which advice is made of."""
        return Course(self.model, self.training, selection, self.seen(data), history, best_epoch)

    def identity(self, digest: str) -> str:
        """Returns the name of a run's folder: a hash of all settings and of the prepared data."""
        return hash_of([self.model_dump(mode="json"), digest])[:12]


def _in_words(key: str, value: Any) -> str:
    """Says what a setting of that key was set to; a kind by its section's name."""
    if key in WORDS:
        return WORDS[key].format(value) if value else WORDS_FOR_NONE[key]
    *_, section, name = key.split(".")
    return f"{section} {value}" if name == "name" else f"{key}={as_written(value)}"
