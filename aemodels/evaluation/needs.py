"""Lists what metrics and figures may need of a model, its data and the settings; `evidence.NEEDS` tests each."""

from __future__ import annotations

from typing import Literal

Need = Literal[
    "autoencoder",
    "rate",
    "unit_rates",
    "likelihood",
    "denoising",
    "conditional",
    "unconditional",
    "nll_samples",
    "fitted_prior",
    "labels",
    "training_images",
    "factors",
    "features",
    "history",
    "seen",
    "two_dimensions",
    "more_dimensions",  # more latent units than a plot has axes
    "two_images",
    "ten_images",  # with fewer a layout by neighbours means nothing
]


# How many images of the split a need asks for; these are the needs that more images meet.
AMOUNTS: dict[Need, int] = {"two_images": 2, "ten_images": 10}
