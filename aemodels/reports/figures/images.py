"""Draws images of a model: reconstructions, samples, the training images nearest to them, and denoised images.

(C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from aemodels.evaluation import neighbours
from aemodels.evaluation.evidence import Evidence
from aemodels.reports.figures.table import FigureKind
from aemodels.reports.pictures import Labels, Picture, sheet

POOL = 10_000  # training images, at most, among which the nearest is looked for: some seconds, once a data set
SHOWN_NOISE = 0.3
ACROSS, SAMPLES = 8, 32  # images: MLflow's cards are wide


def reconstructions(evidence: Evidence) -> Picture:
    x, reconstructed = next(evidence.reconstructions())
    images = above(reconstructed[: 2 * ACROSS], x[: 2 * ACROSS])
    across = min(ACROSS, len(x))
    labels = ["reconstruction", "original"] * (len(images) // (2 * across))
    return sheet(images, across, Labels(f"Reconstructions of {evidence.split} images", labels))


def samples(evidence: Evidence) -> Picture:
    return sheet(evidence.samples(SAMPLES), ACROSS, Labels("New images"))


def samples_standard_normal(evidence: Evidence) -> Picture:
    labels = Labels("Codes from N(0, I), decoded")
    return sheet(evidence.standard_normal(SAMPLES), ACROSS, labels)


def nearest(evidence: Evidence) -> Picture:
    """Shows whether samples are copies: beneath each is the training image that is most like it."""
    new = evidence.samples(SAMPLES)[: 2 * ACROSS].cpu()  # the first of those that `samples` shows
    there = evidence.data.sizes["train"]
    seen = min(evidence.seen or there, there)
    pool = evidence.features.of_split(evidence.data, "train", min(seen, POOL), evidence.model.device)
    found = neighbours.nearest(evidence.features.embed(new), pool)
    pixels = evidence.data.split("train").images[found.numpy()]
    images = above(new, torch.from_numpy(pixels).float() / 255)
    looked_at = f"{seen:,} training images" if seen <= POOL else f"the first {POOL:,} of {seen:,} training images"
    labels = Labels(
        f"New images, each above the nearest of {looked_at}",
        ["new image", "nearest\nin training"] * (len(images) // (2 * ACROSS)),
        below="nearest in the features that the Frechet distance is taken in",
    )
    return sheet(images, ACROSS, labels)


def above(upper: Tensor, lower: Tensor) -> Tensor:
    """Puts two sets of images in rows that alternate; what does not fill a row is left out."""
    across = min(ACROSS, len(upper))
    rows = len(upper) // across
    pairs = [images[: rows * across].reshape(rows, across, *images.shape[1:]) for images in (upper, lower)]
    return torch.stack(pairs, dim=1).flatten(0, 2)  # (rows * 2 * across, C, h, w)


def denoising(evidence: Evidence) -> Picture:
    """Draws a row for each way of removing the noise."""
    trial = evidence.denoising[SHOWN_NOISE]
    rows = {
        "clean": trial.clean,
        "noisy": trial.noisy,
        "the model": trial.denoised,
        "median filter": trial.median,
        "total variation": trial.total_variation,
    }
    images = torch.cat([row[:ACROSS] for row in rows.values()])
    title = f"Gaussian noise of {SHOWN_NOISE} on {evidence.split} images, removed"
    return sheet(images, min(ACROSS, len(trial.clean)), Labels(title, list(rows)))


IMAGES = {
    "reconstructions": FigureKind(
        reconstructions,
        ("autoencoder",),
        "Reconstructions",
        "Held-out images, and above each what the model makes of its code. What is missing there, the code does not "
        "hold.",
    ),
    "samples": FigureKind(
        samples,
        (),
        "Samples",
        "New images from random codes: of the prior, or of what was fitted to training codes where the model draws "
        "from that.",
    ),
    "samples_standard_normal": FigureKind(
        samples_standard_normal,
        ("fitted_prior",),
        "Samples from N(0, I)",
        "What random codes with mean 0 and variance 1 in each unit give. A VAE is drawn there in training, and nothing "
        "brings the codes of a plain autoencoder there; the samples above are from where codes really lie.",
    ),
    "nearest": FigureKind(
        nearest,
        ("features",),
        "Nearest training images",
        "Samples, and beneath each the training image that is nearest in the features of frechet_samples, of all that "
        f"the model was trained on (of all there are for a model of other data, and of the first {POOL:,} at most). "
        "A model that only repeats its training images would show the same twice.",
        slow=True,
    ),
    "denoising": FigureKind(
        denoising,
        ("denoising",),
        "Denoising",
        "Held-out images, the same with noise, and what the model and two plain filters make of those. The filters "
        "have the setting that suits these images best.",
    ),
}
