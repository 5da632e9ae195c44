"""Defines the metrics of samples in features of photos: how near to real images, how varied and how clear they are.

N images, M others, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from aemodels.evaluation.estimates import Estimate, mean_of
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.evaluation.metrics.table import Metric
from aemodels.evaluation.neighbours import Balls
from aemodels.models.variational import Variational
from aemodels.priors.fitting import fitted
from aemodels.priors.mixture import GaussianMixturePrior
from aemodels.runtime.randomness import derived_seed, undisturbed

CONFIDENT = 0.9  # probability of a class over which an image counts as showing an object


# ---------------------------------------------------------------- Frechet distances


def frechet_samples(evidence: Evidence) -> Estimate:
    return frechet(evidence.real_features, evidence.sample_features)


def frechet_standard_normal(evidence: Evidence) -> Estimate:
    if isinstance(evidence.model, Variational) and not evidence.has("fitted_prior"):  # it draws from N(0, I)
        return frechet_samples(evidence)
    return frechet(evidence.real_features, evidence.drawn_features(evidence.standard_normal))


def frechet_fitted_prior(evidence: Evidence) -> Estimate:
    if isinstance(evidence.autoencoder.fitted_prior, GaussianMixturePrior):  # it draws from such a mixture
        return frechet_samples(evidence)
    codes = evidence.drawn_training_codes()
    if not codes.isfinite().all():
        return Estimate(math.nan)
    prior = fitted("mixture", codes, derived_seed(evidence.seed, "fitted prior")).to(evidence.model.device)

    def draw(n: int, part: int) -> Tensor:
        with undisturbed(evidence.model, derived_seed(evidence.seed, "samples of the fitted prior", part)):
            return evidence.autoencoder.decode(prior().sample((n,))).mean

    return frechet(evidence.real_features, evidence.drawn_features(draw))


def frechet_reconstructions(evidence: Evidence) -> Estimate:
    return frechet(evidence.real_features, evidence.reconstruction_features)


def frechet_floor(evidence: Evidence) -> Estimate:
    return frechet(evidence.real_features, evidence.training_features)


def frechet_images(evidence: Evidence) -> float:
    return float(evidence.frechet_images)


def frechet_distance(real: Tensor, others: Tensor) -> float:
    """Returns the Frechet distance of two sets of features, as `frechet` does."""
    return frechet(real, others).value


def frechet(real: Tensor, others: Tensor) -> Estimate:
    """Returns the Frechet distance of the Gaussians fitted to two sets of features (N, F) and (M, F).

    It is NaN if one is not finite.

    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)) (Heusel et al., 2017, arXiv:1706.08500). The trace
    of the root is the sum of the singular values of a b^T, a and b the centred features over the roots of N and M. So
    no root of a matrix is taken, and there may be fewer images than features. With u s v^T = a b^T the weight of row i
    of a changes that sum by half of (u s u^T)_ii, which gives the influences.
    """
    real, others = real.cpu().double(), others.cpu().double()
    if not (real.isfinite().all() and others.isfinite().all()):
        return Estimate(math.nan)
    shift = real.mean(0) - others.mean(0)
    a, b = ((x - x.mean(0)) / math.sqrt(len(x)) for x in (real, others))
    (axes_a, within_a), (axes_b, within_b) = torch.linalg.qr(a), torch.linalg.qr(b)
    u, s, vh = torch.linalg.svd(within_a @ within_b.T, full_matrices=False)
    distance = shift.square().sum() + a.square().sum() + b.square().sum() - 2 * s.sum()

    def influences(x: Tensor, axes: Tensor, towards: Tensor) -> Tensor:
        own: Tensor = 2 * x @ towards / math.sqrt(len(x)) + x.square().sum(1) - axes.square() @ s
        return own - own.mean()

    value = max(0.0, float(distance))
    return Estimate(value, influences(a, axes_a @ u, shift), influences(b, axes_b @ vh.T, -shift))


# ---------------------------------------------------------------- near, varied, clear


def density(evidence: Evidence) -> float:
    """Counts the balls around a sample, over the images that a ball reaches (Naeem et al., 2020, arXiv:2002.09797)."""
    found = _balls(evidence)
    return math.nan if found is None else float(found.held.double().mean()) / found.reached


def coverage(evidence: Evidence) -> Estimate:
    """Measures the share of the balls that hold any sample (the same paper)."""
    found = _balls(evidence)
    return Estimate(math.nan) if found is None else mean_of(found.hit)


def _balls(evidence: Evidence) -> Balls | None:
    """Returns the balls, or None of a model whose samples are not finite."""
    if evidence.frechet_images < 2:
        raise NotEnoughError("needs 2 real images, and there is one here")
    return evidence.balls


def confident_samples(evidence: Evidence) -> float:
    return confident_share(evidence.sample_probabilities)


def confident_real(evidence: Evidence) -> float:
    return confident_share(evidence.classified(evidence.real_features))


def confident_share(probabilities: Tensor) -> float:
    """Returns the share of distributions (N, classes) with a class over 0.9; NaN if one is not finite."""
    clearest = probabilities.amax(1)
    return float((clearest > CONFIDENT).double().mean()) if clearest.isfinite().all() else math.nan


def class_balance(evidence: Evidence) -> float:
    """Measures the balance of the likeliest classes.

    By their probabilities, one image that could be of any class would count as a balance.
    """
    probabilities = evidence.sample_probabilities
    if not probabilities.isfinite().all():
        return math.nan
    return entropy_share(F.one_hot(probabilities.argmax(1), probabilities.shape[1]))


def entropy_share(probabilities: Tensor) -> float:
    """Returns the entropy of the mean of distributions (N, classes), as a share of its largest value.

    It is 0 for one class and 1 for a balance.
    """
    mean = probabilities.double().mean(0)
    return float(torch.special.entr(mean).sum()) / math.log(len(mean))


# ---------------------------------------------------------------- the table


SAMPLES = {
    "frechet_samples": Metric(
        frechet_samples,
        ("features",),
        "squared feature units",
        "minimize",
        "the distance of new images, as the model draws them, to real ones",
        "It is the Frechet distance of as many images that the model draws to the split's images, in features of "
        "a network that has learned photos. An ae, vae and iwae draw codes from a mixture fitted to training codes, or "
        "from what model.draws_from names. frechet_fitted_prior and frechet_standard_normal have the same codes for "
        "every unconditional autoencoder.",
        fitted=True,
    ),
    "frechet_standard_normal": Metric(
        frechet_standard_normal,
        ("autoencoder", "unconditional", "features"),
        "squared feature units",
        None,
        "the distance of images of codes from N(0, I) to real ones",
        "It is frechet_samples with codes from N(0, I), whatever the model draws from. Nothing brings the codes of an "
        "ae there.",
        slow=True,
    ),
    "frechet_fitted_prior": Metric(
        frechet_fitted_prior,
        ("autoencoder", "unconditional", "features"),
        "squared feature units",
        "minimize",
        "the distance of images of a mixture fitted to codes to real ones",
        "It is frechet_samples with codes from a mixture of up to 10 Gaussians. The mixture is fitted to one code from "
        "q(z|x) of each of at most 10,000 training images (once, when it was trained, for a model that draws from it).",
        slow=True,
        fitted=True,
    ),
    "frechet_reconstructions": Metric(
        frechet_reconstructions,
        ("autoencoder", "features"),
        "squared feature units",
        "minimize",
        "the distance of reconstructions to the images",
        "It is the Frechet distance of the reconstructions to the images themselves.",
    ),
    "frechet_floor": Metric(
        frechet_floor,
        ("features",),
        "squared feature units",
        None,
        "the distance of training images to test images: the best to hope for",
        "It is the Frechet distance of as many training images to the split's images. No model is expected to beat it.",
    ),
    "frechet_images": Metric(
        frechet_images,
        ("features",),
        "images",
        None,
        "images on each side of the Frechet distances",
        "It counts the images on each side of the distances.",
    ),
    "density": Metric(
        density,
        ("features", "two_images"),
        "1 as real images",
        "maximize",
        "how closely samples lie to real images; over 1 they crowd together",
        "It is the number of balls around the split's images that hold a sample (mean over the samples), over 5. A "
        "ball reaches to its image's 5th nearest in the same features. It is over 1 if samples crowd together.",
        slow=True,
        fitted=True,
    ),
    "coverage": Metric(
        coverage,
        ("features", "two_images"),
        "share",
        "maximize",
        "real images with a sample near them; of real images 0.97 is expected",
        "It is the share of the balls of density that hold at least one of as many samples. 0.97 is expected of real "
        "images.",
        slow=True,
        fitted=True,
    ),
    "confident_samples": Metric(
        confident_samples,
        ("features", "labels"),
        "share",
        None,
        "samples of which the classifier is sure",
        "It is the share of samples to which the classifier of real images gives a class with a probability over "
        "0.9. It may also be sure of a picture that shows no object.",
        slow=True,
        fitted=True,
    ),
    "confident_real": Metric(
        confident_real,
        ("features", "labels"),
        "share",
        None,
        "real images of which the classifier is sure",
        "It is confident_samples of the split's images.",
        slow=True,
    ),
    "class_balance": Metric(
        class_balance,
        ("features", "labels"),
        "share",
        "maximize",
        "0 if all samples are of one class, 1 if all classes come alike often",
        "It is the entropy of the classes that the classifier of real images gives to the samples, over "
        "ln(classes). 0 is one class, 1 is a balance.",
        slow=True,
        fitted=True,
    ),
}
