"""Chooses the metrics that pages, lists and searches show out of METRICS; all of them show these in one order."""

from __future__ import annotations

from typing import Literal

Place = Literal[
    "reports",  # the first screen of a report, and the line above a run's figures: the first that the model has
    "lists",  # the registered models in a list, and MLflow's views of runs
    "comparisons",  # what the command prints of a comparison; the files of one have all metrics
    "trials",  # what is measured of a trial of a search beside its objectives, so only quick ones
    "references",  # what is measured of the mean image and of linear codes as systems of a comparison
]

KEY: dict[str, tuple[Place, ...]] = {
    "frechet_samples": ("reports", "lists", "comparisons", "trials", "references"),
    "share_of_linear_code": ("reports", "lists", "comparisons"),
    "mse": ("reports", "lists", "comparisons", "trials", "references"),
    "negative_elbo": ("reports", "lists", "comparisons", "trials"),
    "distortion": ("trials",),
    "rate": ("trials",),
    "psnr": ("references",),
    "ssim": ("references",),
    "coverage": ("reports", "comparisons", "references"),
    "density": ("references",),
    "explained_variance": ("reports", "references"),
    "confident_samples": ("comparisons",),
    "probe_accuracy": ("reports", "lists", "comparisons"),
    "active_units": ("reports", "trials"),
    "label_accuracy": ("comparisons",),
    "like_accuracy": ("comparisons",),
}


def shown_in(place: Place) -> tuple[str, ...]:
    """Returns the metrics that a place shows, in their order."""
    return tuple(name for name, places in KEY.items() if place in places)
