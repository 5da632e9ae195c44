"""Defines the metrics of references: what the mean image and a linear code reach on the images of a model.

They are of the model's images and of the size of its code alone. So models that share both share the measurement.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from aemodels.data.prepared import PreparedData
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.estimates import Estimate, ratio
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.evaluation.metrics.held_out import mse, psnr, ssim
from aemodels.evaluation.metrics.samples import frechet_samples
from aemodels.evaluation.metrics.table import Metric
from aemodels.evaluation.references import LinearReference, Size, fit_mixture, linear_reference, mean_image

KEPT = 16  # references whose numbers are kept in memory


class Reference(NamedTuple):
    """Says which references are measured, and on what."""

    own: PreparedData  # its linear code is that of these training images, as far as the model saw them
    size: Size
    data: PreparedData
    split: str
    features: Features | None
    rules: EvaluationConfig
    drawn: int  # images that each draws for a Frechet distance, as many as the model beside it
    device: torch.device

    def evidence(self, model: LinearReference) -> Evidence:
        """Returns what a reference is measured by."""
        return Evidence(model, self.data, self.features, self.rules, self.split, drawn=self.drawn)


class Errors(NamedTuple):
    """Holds how close the reconstructions of the references are."""

    mean_image: Estimate  # the mse of the mean image; the rest is of the linear code
    mse: Estimate
    psnr: Estimate
    ssim: Estimate


def mean_image_mse(evidence: Evidence) -> Estimate:
    return _errors(_reference(evidence)).mean_image


def linear_code_mse(evidence: Evidence) -> Estimate:
    return _errors(_reference(evidence)).mse


def linear_code_psnr(evidence: Evidence) -> Estimate:
    return _errors(_reference(evidence)).psnr


def linear_code_ssim(evidence: Evidence) -> Estimate:
    return _errors(_reference(evidence)).ssim


def share_of_linear_code(evidence: Evidence) -> Estimate:
    linear = linear_code_mse(evidence)
    if linear.value == 0:
        raise NotEnoughError("needs images that the linear code does not reconstruct without any error")
    return ratio(mse(evidence), linear)


def frechet_linear_code(evidence: Evidence) -> Estimate:
    return _distance(_reference(evidence))


def _reference(evidence: Evidence) -> Reference:
    """Returns the references that suit a model: of the size of its code, fitted to the images of its training."""
    if evidence.trained_on is None:
        raise NotEnoughError("needs the images that the model was trained on, which are not in the cache")
    own, seen = evidence.trained_on
    size = Size(evidence.model.latent_dim, seen)
    features = evidence.features if evidence.has_features else None
    rules, drawn = evidence.rules, evidence.drawn
    return Reference(own, size, evidence.data, evidence.split, features, rules, drawn, evidence.model.device)


@lru_cache(maxsize=KEPT)
def _errors(reference: Reference) -> Errors:
    linear = linear_reference(reference.own, reference.size, reference.device)
    evidence = reference.evidence(linear)
    mean = mse(reference.evidence(mean_image(linear)))
    return Errors(mean, mse(evidence), psnr(evidence), ssim(evidence))


@lru_cache(maxsize=KEPT)
def _distance(reference: Reference) -> Estimate:
    linear = linear_reference(reference.own, reference.size, reference.device)
    fit_mixture(linear, reference.own, reference.size.seen, reference.rules.seed)
    return frechet_samples(reference.evidence(linear))


# ---------------------------------------------------------------- the table


_LINEAR = (
    "The linear code is the principal components of at most 10,000 of the model's training images, with as many "
    "numbers as the model's code, and its reconstructions are clipped to [0, 1]."
)
REFERENCES = {
    "mean_image_mse": Metric(
        mean_image_mse,
        ("autoencoder",),
        "squared pixels in [0, 1]",
        None,
        "the mean squared error of the mean of the training images",
        "It is the MSE of the mean training image in place of every reconstruction. A model that is no better has "
        "learned nothing.",
    ),
    "linear_code_mse": Metric(
        linear_code_mse,
        ("autoencoder",),
        "squared pixels in [0, 1]",
        None,
        "the mean squared error of principal components of the same size",
        f"It is the MSE of a linear code on the same images. {_LINEAR}",
    ),
    "linear_code_psnr": Metric(
        linear_code_psnr,
        ("autoencoder",),
        "dB",
        None,
        "the peak signal-to-noise ratio of principal components of the same size",
        f"It is the PSNR of a linear code on the same images. {_LINEAR}",
    ),
    "linear_code_ssim": Metric(
        linear_code_ssim,
        ("autoencoder",),
        "at most 1",
        None,
        "the structural similarity of principal components of the same size",
        f"It is the SSIM of a linear code on the same images. {_LINEAR}",
    ),
    "share_of_linear_code": Metric(
        share_of_linear_code,
        ("autoencoder",),
        "of the linear code's error",
        "minimize",
        "the model's mse over linear_code_mse; under 1 it is the better one",
        f"It is the model's MSE over that of a linear code on the same images. {_LINEAR}",
    ),
    "frechet_linear_code": Metric(
        frechet_linear_code,
        ("features",),
        "squared feature units",
        None,
        "the distance of images of a mixture on linear codes to real ones",
        "It is frechet_samples of a linear code, with a mixture of up to 10 Gaussians fitted to the codes of training "
        f"images. {_LINEAR}",
    ),
}
