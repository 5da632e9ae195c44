"""Defines an experiment, which holds all that a run needs."""

from __future__ import annotations

import hashlib
from typing import Self

from pydantic import Field, model_validator

from aemodels.config import Config
from aemodels.data import DataConfig
from aemodels.data.digits import DigitsConfig
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.evaluate import EvaluationConfig
from aemodels.models import AnyModelConfig, VAEConfig
from aemodels.training.config import TrainingConfig
from aemodels.training.loop import check_model


class Experiment(Config):
    """Holds the data, a model, its training and its evaluation."""

    data: DataConfig = DigitsConfig()
    model: AnyModelConfig = VAEConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(0, ge=0)
    """Seeds the weights, the order of the images and all noise; the splits have their own seed, `data.split_seed`."""

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        check_model(self.model, self.training)
        return self

    def seen(self, data: PreparedData) -> int:
        """Returns how many of the first training images a training on these data sees."""
        return self.training.images or data.sizes["train"]

    def identity(self, digest: str) -> str:
        """Returns the name of a run's folder: a hash of all settings and of the prepared data."""
        return hashlib.sha256(f"{self.model_dump_json()}{digest}".encode()).hexdigest()[:12]
