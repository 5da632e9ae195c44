"""Metrics of images that were asked for: of a class, or like 50 images of a class.

N images, F features, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aemodels.evidence import Evidence
from aemodels.metrics.table import Metric


def label_accuracy(evidence: Evidence) -> float:
    return _accuracy(evidence.requests.of_labels, evidence)


def label_diversity(evidence: Evidence) -> float:
    return _diversity(evidence.requests.of_labels, evidence)


def like_accuracy(evidence: Evidence) -> float:
    return _accuracy(evidence.requests.like_examples, evidence)


def like_diversity(evidence: Evidence) -> float:
    return _diversity(evidence.requests.like_examples, evidence)


def _accuracy(drawn: list[Tensor], evidence: Evidence) -> float:
    """Share of the images, features (N, F) for each class, that the classifier puts into the class asked for."""
    if not all(features.isfinite().all() for features in drawn):
        return math.nan
    right: list[Tensor] = []
    for label, features in enumerate(drawn):
        probabilities = evidence.features.classify(features)
        assert probabilities is not None
        right.append(probabilities.argmax(-1) == label)
    return float(torch.cat(right).double().mean())


def _diversity(drawn: list[Tensor], evidence: Evidence) -> float:
    spreads = zip(map(_spread, drawn), map(_spread, evidence.requests.examples), strict=True)
    return float(torch.stack([own / real for own, real in spreads]).mean())


def _spread(features: Tensor) -> Tensor:
    """Root of the mean squared distance of features (N, F) from their mean."""
    return features.double().var(0, correction=0).sum().sqrt()


# ---------------------------------------------------------------- the table


_DIVERSITY = (
    "How far such images lie from their mean in the data set's features, over the same of training images of the class "
    "(mean over the classes): 1 is as varied as they are, 0 always the same image."
)
REQUESTS = {
    "label_accuracy": Metric(
        label_accuracy,
        ("conditional", "features"),
        "share",
        "maximize",
        "Images asked for by their class, 100 of each, that the feature network's classifier puts into that class.",
    ),
    "label_diversity": Metric(label_diversity, ("conditional", "features"), "1 as real images", None, _DIVERSITY),
    "like_accuracy": Metric(
        like_accuracy,
        ("autoencoder", "labels", "features"),
        "share",
        "maximize",
        "Images drawn to be like 50 training images of a class, 100 for each class, that the feature network's "
        "classifier puts into that class.",
    ),
    "like_diversity": Metric(
        like_diversity, ("autoencoder", "labels", "features"), "1 as real images", None, _DIVERSITY
    ),
}
