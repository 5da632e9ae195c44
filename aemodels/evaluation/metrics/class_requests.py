"""Defines the metrics of images that were asked for: of a class, or like examples of a class; and of other images.

N images, F features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from aemodels.evaluation.class_requests import ASKED, EXAMPLES, MOST_CLASSES
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.evaluation.metrics.table import Metric


def label_accuracy(evidence: Evidence) -> float:
    return _accuracy(evidence.requests.of_labels, evidence)


def label_diversity(evidence: Evidence) -> float:
    return _diversity(evidence.requests.of_labels, evidence)


def like_accuracy(evidence: Evidence) -> float:
    return _accuracy(evidence.requests.like_examples, evidence)


def like_diversity(evidence: Evidence) -> float:
    return _diversity(evidence.requests.like_examples, evidence)


def prior_diversity(evidence: Evidence) -> float:
    return _diversity(evidence.requests.unasked, evidence)


def _accuracy(drawn: Mapping[int, Tensor], evidence: Evidence) -> float:
    """Returns the share of the images that the classifier puts into the class asked for.

    `drawn` has features (N, F) for each class.
    """
    if not all(features.isfinite().all() for features in drawn.values()):
        return math.nan
    right = [evidence.classified(features).argmax(-1) == label for label, features in drawn.items()]
    return float(torch.cat(right).double().mean())


def _diversity(drawn: Mapping[int, Tensor], evidence: Evidence) -> float:
    """Returns the mean over the classes whose examples differ; a class with one example alone has no spread."""
    real = {label: _spread(features) for label, features in evidence.requests.examples.items()}
    shares = [_spread(drawn[label]) / spread for label, spread in real.items() if spread > 0]
    if not shares:
        raise NotEnoughError("needs a class with training images that differ; no class has two that do")
    return float(torch.stack(shares).mean())


def _spread(features: Tensor) -> Tensor:
    """Returns the root of the mean squared distance of features (N, F) from their mean."""
    return features.double().var(0, correction=0).sum().sqrt()


# ---------------------------------------------------------------- the table


_EACH = f"{ASKED} for each class (of the first {MOST_CLASSES} if there are more)"
_DIVERSITY = (
    "It is the distance of {} from their mean in the features of frechet_samples, over that of training images of the "
    "class (mean over the classes). 1 is as varied as they are, 0 is always the same image."
)
REQUESTS = {
    "label_accuracy": Metric(
        label_accuracy,
        ("conditional", "features"),
        "share",
        "maximize",
        "images asked for by class that are of the class",
        f"It is the share of images drawn for a class that the classifier of real images puts into that class. "
        f"There are {_EACH}. 1 / classes is chance.",
        slow=True,
        fitted=True,
    ),
    "label_diversity": Metric(
        label_diversity,
        ("conditional", "features"),
        "1 as real images",
        None,
        "how varied images asked for by class are",
        _DIVERSITY.format("images drawn for a class"),
        slow=True,
        fitted=True,
    ),
    "like_accuracy": Metric(
        like_accuracy,
        ("autoencoder", "labels", "features"),
        "share",
        "maximize",
        "images like examples of a class that are of the class",
        f"It is the share of images drawn to be like {EXAMPLES} training images of a class (like all, if there are "
        f"fewer) that the classifier of real images puts into that class. There are {_EACH}. 1 / classes is chance.",
        slow=True,
        fitted=True,
    ),
    "like_diversity": Metric(
        like_diversity,
        ("autoencoder", "labels", "features"),
        "1 as real images",
        None,
        "how varied images like examples of a class are",
        _DIVERSITY.format("images drawn to be like those of a class"),
        slow=True,
        fitted=True,
    ),
    "prior_diversity": Metric(
        prior_diversity,
        ("labels", "features"),
        "1 as real images",
        None,
        "how varied images are that nobody asked for",
        _DIVERSITY.format(f"{ASKED} images that nobody asked for") + " It is over 1, as they are of all classes.",
        slow=True,
        fitted=True,
    ),
}
