"""Defines the settings of an evaluation; this file imports nothing that measures."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from aemodels.config import Config


class EvaluationConfig(Config):
    """Holds how a trained model is evaluated."""

    primary: str = "frechet_samples"
    """Names the metric that defines better: a search and the gate read it on validation images."""
    level: Literal["quick", "full"] = "full"
    """Leaves out with quick what is slow: classifiers of codes, density and coverage, requests for classes, t-SNE."""
    samples: int = Field(2_000, ge=2)
    """Sets the images on each side of a Frechet distance; there are fewer where the data have fewer.

    The gate draws so many of each model, however few real ones there are."""
    denoising: bool = False
    """Measures how well Gaussian noise is removed, beside plain filters, by models trained with any corruption."""
    seed: int = Field(0, ge=0)
    """Seeds the evaluation's noise; it is the same for all runs, so that they compare."""

    nll_samples: int = Field(0, ge=0)
    """Sets how many codes from q(z|x) the negative log-likelihood takes for each image; 0 leaves it out."""
    nll_images: int = Field(1_000, ge=1)
    """Sets how many of the split's first images the negative log-likelihood is measured on."""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.primary == "nll" and self.nll_samples == 0:
            raise ValueError("primary=nll needs nll_samples of at least 1; 100 and more make it a close bound")
        return self
