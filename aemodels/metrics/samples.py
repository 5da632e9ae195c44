"""Metrics of samples in a data set's features: how near they come to real images, how varied and how clear they are.

N images, M others, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from aemodels.evidence import Evidence
from aemodels.metrics.table import Metric

CONFIDENT = 0.9  # probability of a class over which an image counts as showing an object


# ---------------------------------------------------------------- Frechet distances


def frechet_samples(evidence: Evidence) -> float:
    return frechet_distance(evidence.real_features, evidence.sample_features)


def frechet_standard_normal(evidence: Evidence) -> float:
    return frechet_distance(evidence.real_features, evidence.standard_normal_features)


def frechet_reconstructions(evidence: Evidence) -> float:
    return frechet_distance(evidence.real_features, evidence.reconstruction_features)


def frechet_floor(evidence: Evidence) -> float:
    return frechet_distance(evidence.real_features, evidence.training_features)


def frechet_images(evidence: Evidence) -> float:
    return float(evidence.count)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features (N, F) and (M, F); NaN if one is not finite.

    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)) (Heusel et al., 2017, arXiv:1706.08500). The trace
    of the root is taken from r cov_b r, r the root of cov_a: symmetric, so no complex roots, and exact for few images.
    """
    a, b = a.cpu().double(), b.cpu().double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.nan
    covariance_a, covariance_b = (torch.cov(x.T, correction=0).reshape(x.shape[1], -1) for x in (a, b))
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ covariance_b @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
    return max(0.0, float(distance))


# ---------------------------------------------------------------- near, varied, clear


def density(evidence: Evidence) -> float:
    """Balls that hold a sample, over the images that a ball reaches (Naeem et al., 2020, arXiv:2002.09797)."""
    found = evidence.balls
    return math.nan if found is None else float(found.held.double().mean()) / found.reached


def coverage(evidence: Evidence) -> float:
    """The share of the balls that hold any sample (the same paper)."""
    return math.nan if evidence.balls is None else float(evidence.balls.hit.double().mean())


def confident_samples(evidence: Evidence) -> float:
    return confident_share(evidence.sample_probabilities)


def confident_real(evidence: Evidence) -> float:
    return confident_share(evidence.classified(evidence.real_features))


def confident_share(probabilities: Tensor) -> float:
    """Share of distributions (N, classes) with a class over 0.9; NaN if one is not finite."""
    clearest = probabilities.amax(1)
    return float((clearest > CONFIDENT).double().mean()) if clearest.isfinite().all() else math.nan


def class_balance(evidence: Evidence) -> float:
    """Of the likeliest classes: by their probabilities one image that could be of any class would be a balance."""
    probabilities = evidence.sample_probabilities
    if not probabilities.isfinite().all():
        return math.nan
    return entropy_share(F.one_hot(probabilities.argmax(1), probabilities.shape[1]))


def entropy_share(probabilities: Tensor) -> float:
    """Entropy of the mean of distributions (N, classes), of its largest value: 0 for one class, 1 for a balance."""
    mean = probabilities.double().mean(0)
    return float(torch.special.entr(mean).sum()) / math.log(len(mean))


# ---------------------------------------------------------------- the table


SAMPLES = {
    "frechet_samples": Metric(
        frechet_samples,
        ("features",),
        "squared feature units",
        "minimize",
        "Frechet distance of as many images drawn from the prior to the split's images, in the data set's features.",
    ),
    "frechet_standard_normal": Metric(
        frechet_standard_normal,
        ("fitted_prior", "features"),
        "squared feature units",
        None,
        "As frechet_samples, of codes from N(0, I) and not from the prior that was fitted to the training codes: what "
        "an autoencoder draws whose code space nothing made normal.",
    ),
    "frechet_reconstructions": Metric(
        frechet_reconstructions,
        ("autoencoder", "features"),
        "squared feature units",
        "minimize",
        "Frechet distance of the reconstructions to the images themselves.",
    ),
    "frechet_floor": Metric(
        frechet_floor,
        ("features",),
        "squared feature units",
        None,
        "Frechet distance of as many training images to the split's images: what no model can be expected to beat.",
    ),
    "frechet_images": Metric(
        frechet_images, ("features",), "images", None, "Images on each side of the Frechet distances."
    ),
    "density": Metric(
        density,
        ("features",),
        "1 as real images",
        "maximize",
        "Balls around the split's images that hold a sample, over 5: a ball reaches to its image's 5th nearest in the "
        "data set's features. Over 1 where samples crowd together.",
    ),
    "coverage": Metric(
        coverage,
        ("features",),
        "share",
        "maximize",
        "Share of the same balls that hold at least one of as many samples; 0.97 is expected of real images.",
    ),
    "confident_samples": Metric(
        confident_samples,
        ("features", "labels"),
        "share",
        None,
        "Samples to which the feature network's classifier gives a class with a probability over 0.9; it may be sure "
        "of a picture that shows no object, too.",
    ),
    "confident_real": Metric(
        confident_real, ("features", "labels"), "share", None, "The same of the split's images: what to expect at best."
    ),
    "class_balance": Metric(
        class_balance,
        ("features", "labels"),
        "share",
        "maximize",
        "Entropy of the shares of the classes that the feature network's classifier takes the samples for, of "
        "ln(classes): 0 is one class, 1 is a balance.",
    ),
}
