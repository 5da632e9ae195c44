"""Defines the metrics of compression: how much smaller a code is than its image, and what is lost.

They are measured on images of the kind that the model was made for, and on others.

N images, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from aemodels.data.other_kind import images_of_another_kind
from aemodels.evaluation.estimates import Estimate, mean_of, ratio
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.evaluation.metrics.held_out import squared_errors
from aemodels.evaluation.metrics.table import Metric

CODE_BYTES = 4  # bytes of one number of a code; a prepared pixel has one byte

Pairs = Iterable[tuple[Tensor, Tensor]]  # images and their reconstructions, (B, C, H, W) each


def compression_ratio(evidence: Evidence) -> float:
    return math.prod(evidence.data.image_shape) / (CODE_BYTES * evidence.model.latent_dim)


def explained_variance(evidence: Evidence) -> Estimate:
    return _explained(evidence.reconstructions(), evidence.images)


def out_of_domain_mse(evidence: Evidence) -> float:
    return mean_of(squared_errors(evidence.other_reconstructions())).value


def out_of_domain_explained_variance(evidence: Evidence) -> float:
    return _explained(evidence.other_reconstructions(), lambda: [images_of_another_kind(evidence.data)]).value


def _explained(pairs: Pairs, images: Callable[[], Iterable[Tensor]]) -> Estimate:
    """Returns 1 - squared error / squared distance from the mean image, both summed over images and pixels.

    Args:
        images: gives the images once more, without reconstructing them again.
    """
    total, errors = torch.zeros(()), []
    for x, r in pairs:
        total = total + x.cpu().double().sum(0)
        errors.append((x - r).cpu().double().square().flatten(1).sum(1))
    error = torch.cat(errors)
    mean = total / len(error)
    distance = torch.cat([(x.cpu().double() - mean).square().flatten(1).sum(1) for x in images()])
    if distance.sum() == 0:
        raise NotEnoughError("needs images that differ; these are all the same")
    lost = ratio(mean_of(error), mean_of(distance))
    return Estimate(1 - lost.value, -lost.images)


# ---------------------------------------------------------------- the table


_EXPLAINED = (
    "It is 1 - squared error of the reconstructions / squared distance of the images from their mean image. 1 loses "
    "nothing, and 0 is no better than the mean image, whatever the contrast of the images"
)
_OTHERS = "1,000 images of another kind: rendered sprites, or handwritten digits for a model of sprites."
COMPRESSION = {
    "compression_ratio": Metric(
        compression_ratio,
        ("autoencoder",),
        "bytes per byte",
        None,
        "bytes of an image over those of its code",
        "It is the bytes of an image over those of its code. A pixel has one for each channel, a latent unit has four.",
    ),
    "explained_variance": Metric(
        explained_variance,
        ("autoencoder", "two_images"),
        "share",
        "maximize",
        "1 loses nothing, 0 is no better than the mean image",
        f"{_EXPLAINED}.",
    ),
    "out_of_domain_mse": Metric(
        out_of_domain_mse,
        ("autoencoder",),
        "squared pixels in [0, 1]",
        None,
        "the mean squared error of images of another kind",
        f"It is the MSE of {_OTHERS}",
        slow=True,
    ),
    "out_of_domain_explained_variance": Metric(
        out_of_domain_explained_variance,
        ("autoencoder",),
        "share",
        None,
        "the explained variance of images of another kind",
        f"{_EXPLAINED}. It is measured on {_OTHERS}",
        slow=True,
    ),
}
