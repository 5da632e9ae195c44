"""Defines the metrics of held-out images: the bound, reconstructions, codes. Their table is below them.

N images, M others, D latent units, F features, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from aemodels.evaluation.estimates import Estimate, mean_of
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.likelihood import GREY_LEVELS
from aemodels.evaluation.metrics.table import Metric

NEIGHBOURS = 5
ACTIVE = 0.01  # variance of a unit's posterior mean above which it is in use (Burda et al., 2016)
SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # pixels: Wang et al. (2004)
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
NO_ERROR = 1e-10  # mean squared error under which a reconstruction counts as equal: 100 dB


# ---------------------------------------------------------------- the bound


def distortion(evidence: Evidence) -> Estimate:
    return mean_of(evidence.terms["distortion"])


def rate(evidence: Evidence) -> Estimate:
    return mean_of(evidence.terms["rate"])


def negative_elbo(evidence: Evidence) -> Estimate:
    return mean_of(evidence.terms["negative_elbo"])


def bits_per_dimension(evidence: Evidence) -> Estimate:
    """Bounds the bits that a pixel's value takes.

    Grey levels under a density need the density's mean over a grey level, hence the noise (Theis et al., 2016,
    arXiv:1511.01844, section 3.1): with p(x) on [0, 1], log2(255) bits are added.
    """
    pixels = math.prod(evidence.data.image_shape)
    if evidence.likelihood == "bernoulli":
        return mean_of(evidence.terms["negative_elbo"] / pixels / math.log(2))
    return mean_of(evidence.dequantized_terms["negative_elbo"] / pixels / math.log(2) + math.log2(GREY_LEVELS))


def nll(evidence: Evidence) -> Estimate:
    return mean_of(-evidence.log_likelihoods)


def nll_samples(evidence: Evidence) -> float:
    return float(evidence.rules.nll_samples)


def nll_images(evidence: Evidence) -> float:
    return float(len(evidence.log_likelihoods))


# ---------------------------------------------------------------- reconstructions


def mse(evidence: Evidence) -> Estimate:
    return mean_of(squared_errors(evidence.reconstructions()))


def mse_training(evidence: Evidence) -> float:
    return mean_of(squared_errors(evidence.seen_reconstructions())).value


def generalization_gap(evidence: Evidence) -> float:
    return mse(evidence).value - mse_training(evidence)


def psnr(evidence: Evidence) -> Estimate:
    return mean_of(torch.cat([peak_signal_to_noise(x, r) for x, r in evidence.reconstructions()]))


def ssim(evidence: Evidence) -> Estimate:
    return mean_of(torch.cat([structural_similarity(x, r) for x, r in evidence.reconstructions()]))


def squared_errors(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns the squared error (N,), on pixels in [0, 1], of images and reconstructions, (B, C, H, W) each."""
    return torch.cat([(x - r).square().flatten(1).mean(1) for x, r in pairs])


def peak_signal_to_noise(a: Tensor, b: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of images (N, C, H, W) in [0, 1], (N,), in dB, at most 100."""
    return -10 * (a - b).square().flatten(1).mean(1).clamp(min=NO_ERROR).log10()


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Returns the SSIM of images (N, C, H, W) in [0, 1], (N,), as the mean over channels and windows in the image.

    Gaussian windows of 11 pixels, sigma 1.5 (Wang et al., 2004); on smaller images the largest odd one that fits.
    It equals scikit-image's, which refuses images smaller than a window and takes longer on small ones.
    """
    rows, columns = (_window(side).to(a) for side in a.shape[-2:])
    mean_a, mean_b, square_a, square_b, product = (
        rows @ moment @ columns.T for moment in (a, b, a * a, b * b, a * b)
    )  # (N, C, windows, windows)
    variance_a, variance_b = square_a - mean_a.square(), square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a.square() + mean_b.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return (luminance * structure).flatten(1).mean(1)


def _window(side: int) -> Tensor:
    """Returns the weights of the pixels of a line in each window on it, (windows, side)."""
    length = min(SSIM_SIDE, side - (side + 1) % 2)
    offsets = torch.arange(length) - length // 2
    weights = (-0.5 * (offsets / SSIM_SIGMA).square()).exp()
    windows = torch.zeros(side - length + 1, side)
    for i in range(len(windows)):
        windows[i, i : i + length] = weights / weights.sum()
    return windows


# ---------------------------------------------------------------- codes


def active_units(evidence: Evidence) -> float:
    """Counts the units whose posterior mean, less the prior's mean, varies between images.

    For a collapsed unit q(z|x, y) is p(z|y), whose mean tells the class that the model was told, not the image.
    """
    z, y = evidence.codes
    with torch.no_grad():
        prior = evidence.autoencoder.prior(None if y is None else y.to(evidence.model.device))
    return float(((z - prior.mean.cpu()).var(0) > ACTIVE).sum())


def probe_accuracy(evidence: Evidence) -> Estimate:
    from sklearn.linear_model import LogisticRegression

    codes, training = evidence.codes.z.double(), evidence.training_codes.z.double()
    spread = training.std(0, correction=min(1, len(training) - 1))
    spread = spread.clamp(min=0.01 * float(spread.max()) + 1e-12)  # a dead unit's noise is not blown up
    return _accuracy(LogisticRegression(max_iter=1_000), training / spread, codes / spread, evidence)


def knn_accuracy(evidence: Evidence) -> Estimate:
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = min(NEIGHBOURS, len(evidence.training_codes.z))
    classifier = KNeighborsClassifier(neighbours, algorithm="brute")
    return _accuracy(classifier, evidence.training_codes.z, evidence.codes.z, evidence)


def _accuracy(classifier: Any, training: Tensor, codes: Tensor, evidence: Evidence) -> Estimate:
    """Returns the share of the split's codes that a scikit-learn classifier gets right.

    The classifier is fitted to the training codes.
    """
    known, truth = evidence.training_codes.y, evidence.codes.y
    if known is None or truth is None or not (training.isfinite().all() and codes.isfinite().all()):
        return Estimate(math.nan)
    if len(known.unique()) == 1:
        return mean_of(truth == known[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that it stopped at `max_iter`, which is meant
        classifier.fit(training.numpy(), known.numpy())
    return mean_of(torch.from_numpy(classifier.predict(codes.numpy())) == truth)


# ---------------------------------------------------------------- the table


_GIVEN = "A conditional model is told the image's class."
_OF_CLASS = "For a conditional model it is that of p(x|y), whose nats cannot be compared with those of p(x)."
_CODES = (
    "codes of at most 10,000 training images. If the model was trained on these data, it has seen all of them. "
    "A conditional model has no such number, since its encoder is told the class."
)
HELD_OUT = {
    "distortion": Metric(
        distortion,
        ("autoencoder",),
        "nats per image",
        "minimize",
        "what reconstructions cost: the mean of -log p(x|z)",
        "It is the mean of -log p(x|z) over the images, summed over pixels, with one z from q(z|x) for each. An iwae "
        "takes the mean of its samples * repeats. A denoising model is shown clean images here, and corrupted ones in "
        f"val/distortion. {_GIVEN}",
        of_likelihood=True,
    ),
    "rate": Metric(
        rate,
        ("rate",),
        "nats per image",
        "minimize",
        "what codes cost: the mean KL divergence of q(z|x) from the prior",
        "It is the mean KL divergence of q(z|x) from the prior, summed over the latent units.",
        ranks=False,  # codes that tell nothing have no rate, so less rate is not better by itself
    ),
    "negative_elbo": Metric(
        negative_elbo,
        ("rate",),
        "nats per image",
        "minimize",
        "distortion + rate, whatever beta the model was trained with",
        "It is distortion + rate, whatever beta the model was trained with. It is a bound on -log p(x) only if the "
        f"likelihood fits the pixels; coin flips do not fit grey pixels. {_OF_CLASS}",
        of_likelihood=True,
    ),
    "bits_per_dimension": Metric(
        bits_per_dimension,
        ("rate", "likelihood"),
        "bits per pixel and channel",
        "minimize",
        "the negative ELBO over the pixels and ln 2",
        "It is the negative ELBO divided by the number of pixels and ln 2. Pixels are black and white under coin "
        f"flips, or 256 grey levels under a density, with uniform noise of one grey level. {_OF_CLASS}",
        of_likelihood=True,
    ),
    "nll": Metric(
        nll,
        ("rate", "likelihood", "nll_samples"),
        "nats per image",
        "minimize",
        "the negative log-likelihood by importance sampling",
        "It is the mean of -log p(x). Here p(x) is the mean of p(x|z) p(z) / q(z|x) over nll_samples codes from "
        "q(z|x), with noise by evaluation.seed. It is too high in expectation, and less so with more codes. It is "
        "measured on the split's first nll_images. They are black and white, by themselves or as data.binarize says "
        f"(dynamic: one fixed draw), or grey with no noise added. {_OF_CLASS}",
        of_likelihood=True,
    ),
    "nll_samples": Metric(
        nll_samples,
        ("rate", "likelihood", "nll_samples"),
        "codes per image",
        None,
        "codes for each image in the importance sampling",
        "It is K, the number of codes of the importance sampling.",
    ),
    "nll_images": Metric(
        nll_images,
        ("rate", "likelihood", "nll_samples"),
        "images",
        None,
        "images in the importance sampling",
        "It counts the images whose -log p(x) was measured.",
    ),
    "mse": Metric(
        mse,
        ("autoencoder",),
        "squared pixels in [0, 1]",
        "minimize",
        "the mean squared error of reconstructions",
        "It is the mean over pixels and images of the squared error of the reconstruction from the posterior's mean. "
        f"{_GIVEN}",
    ),
    "mse_training": Metric(
        mse_training,
        ("autoencoder", "seen"),
        "squared pixels in [0, 1]",
        None,
        "the mean squared error of reconstructions of training images",
        "It is the MSE of the first images, at most 10,000, that the model was trained on.",
    ),
    "generalization_gap": Metric(
        generalization_gap,
        ("autoencoder", "seen"),
        "squared pixels in [0, 1]",
        None,
        "the error of test images less that of training images",
        "It is the MSE of these images less that of the images that the model was trained on. A model that learned "
        "nothing has no gap.",
    ),
    "psnr": Metric(
        psnr,
        ("autoencoder",),
        "dB",
        "maximize",
        "the peak signal-to-noise ratio of reconstructions",
        f"It is the mean over images of -10 log10 of the image's mean squared error. {_GIVEN}",
    ),
    "ssim": Metric(
        ssim,
        ("autoencoder",),
        "at most 1",
        "maximize",
        "the structural similarity of images and reconstructions",
        f"It is the mean structural similarity of image and reconstruction, in Gaussian windows of 11 pixels. {_GIVEN}",
    ),
    "active_units": Metric(
        active_units,
        ("rate", "two_images"),
        "units",
        "maximize",
        "latent units that differ between images",
        "It counts the latent units whose posterior mean has a variance over 0.01 between images. For a conditional "
        "model the distance from the mean of the prior of the image's class takes the place of the posterior mean.",
    ),
    "probe_accuracy": Metric(
        probe_accuracy,
        ("autoencoder", "unconditional", "labels", "training_images"),
        "share",
        "maximize",
        "how often a logistic regression tells the class from the code",
        f"It is the accuracy of a logistic regression from posterior mean to class, fitted to {_CODES}",
        slow=True,
    ),
    "knn_accuracy": Metric(
        knn_accuracy,
        ("autoencoder", "unconditional", "labels", "training_images"),
        "share",
        "maximize",
        "how often the 5 nearest training codes tell the class",
        f"It is the accuracy of the class of the 5 nearest (by posterior means) among {_CODES}",
        slow=True,
    ),
}
