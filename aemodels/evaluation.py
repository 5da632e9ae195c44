"""Evaluation: a model on held-out images, by the tables of metrics.py and figures.py."""

from __future__ import annotations

from pydantic import Field

from aemodels.config import Config


class EvaluationConfig(Config):
    """How a trained model is judged."""

    primary: str = "frechet_samples"
    """The metric that defines better: the search reads it on validation images, the promotion gate on test images."""
    samples: int = Field(10_000, ge=2)
    """Images on each side of a Frechet distance; at most as many as the split has."""
    seed: int = Field(0, ge=0)
    """Of the evaluation's noise; the same for all runs, so that they compare."""
