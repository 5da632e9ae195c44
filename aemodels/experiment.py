"""Defines an experiment, which holds all that a run needs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from aemodels.config import AUTO, Config
from aemodels.data import DataConfig
from aemodels.data.digits import DigitsConfig
from aemodels.data.prepared import PreparedData
from aemodels.data.statistics import is_black_and_white
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evaluate import check_ranking
from aemodels.evaluation.evidence import TrainedOn
from aemodels.models import AnyModelConfig, VAEConfig
from aemodels.nn.photo import PhotoConfig
from aemodels.runtime.hashes import hash_of
from aemodels.training.config import TrainingConfig
from aemodels.training.train import check_model

ENOUGH = 10_000  # images, from which on a trunk for photos needs no shifted ones


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

    def chosen(self, given: Experiment) -> str:
        """Says what was chosen from the images where the given experiment has `auto`; "" where it has none."""
        before, after = given.flat(), self.flat()
        kinds = [
            f"{key} {after[f'model.{key}.name']}"
            for key in ("trunk", "likelihood")
            if before.get(f"model.{key}.name") == AUTO
        ]
        return f"{' and '.join(kinds)}, chosen for these images" if kinds else ""

    def seen(self, data: PreparedData) -> int:
        """Returns how many of the first training images a training on these data sees."""
        there = data.sizes["train"]
        return min(self.training.images or there, there)

    def trained_on(self, data: PreparedData) -> TrainedOn:
        """Returns the images that a training on these data sees."""
        return TrainedOn(data, self.seen(data))

    def identity(self, digest: str) -> str:
        """Returns the name of a run's folder: a hash of all settings and of the prepared data."""
        return hash_of([self.model_dump(mode="json"), digest])[:12]
