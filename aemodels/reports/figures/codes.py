"""Draws the code space: codes as points, by class, and the images that a plane of codes or a changed unit gives.

N images, D latent units, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.reports.lettering import told_apart
from aemodels.reports.pictures import FONT, GAP, WIDTH, Labels, Picture, drawn, plots, sheet
from aemodels.runtime.randomness import undisturbed

TRAVERSED = 8  # latent units that are shown
POSITIONS = 13  # values of a unit, from -3 to 3

POINTS = 3_000  # codes in a scatter
LEGEND_CLASSES, LEGEND_LETTERS = 20, 20

NEIGHBOURLY = 1_000  # codes that t-SNE lays out: 1.5 seconds on one core
PERPLEXITY = 30  # neighbours that count, of t-SNE
JITTER = 1e-4  # noise as a share of the codes' spread, as t-SNE crashes on codes that are all the same

MOST_ACROSS, WIDEST = 16, 1_000  # codes along an axis of the manifold, pixels of all their images
RANGE = 0.01, 0.99  # quantiles: a few codes far out would leave little of the plane to the others


def decode(evidence: Evidence, z: Tensor, y: Tensor | None) -> Tensor:
    """Decodes codes (N, D), of images of the classes y (N,), to images (N, C, h, w) on the CPU."""
    device = evidence.model.device
    with undisturbed(evidence.model, 0):
        images: Tensor = evidence.autoencoder.decode(z.to(device), None if y is None else y.to(device)).mean
    return images.cpu()


def prior_of_units(evidence: Evidence) -> tuple[Tensor, Tensor] | None:
    """Returns the mean and standard deviation of each unit under the prior, (D,) both; None where units have no prior.

    For a conditional model it is the prior of the class of the split's first image, with which the figures decode.
    """
    if evidence.unit_rates is None:
        return None
    y = evidence.codes.y
    with undisturbed(evidence.model, 0):
        p_z = evidence.autoencoder.prior(None if y is None else y[:1].to(evidence.model.device))
    return p_z.mean.flatten().cpu(), p_z.stddev.flatten().cpu()


def traversals(evidence: Evidence) -> Picture:
    """Draws a row for each of the latent units that matter most: that unit changes, the others stay as in an image."""
    z, rates, prior = evidence.codes.z, evidence.unit_rates, prior_of_units(evidence)
    if prior is None and len(z) < 2:
        raise NotEnoughError(f"needs 2 {evidence.split} images or more: a model without a prior moves by their spread")
    importance = z.var(0) if rates is None else rates
    centre, spread = (z.mean(0), z.std(0)) if prior is None else prior
    units = importance.nan_to_num(0).argsort(descending=True)[:TRAVERSED].tolist()
    positions = torch.linspace(-3, 3, POSITIONS)
    codes = z[0].repeat(len(units), POSITIONS, 1)
    for row, unit in enumerate(units):
        codes[row, :, unit] = centre[unit] + spread[unit] * positions
    labels = Labels(
        f"One latent unit at a time, from the code of a {evidence.split} image",
        [_unit_label(evidence, unit) for unit in units],
        [f"{position:g}" if position == round(position) else "" for position in positions.tolist()],
        f"value of the unit, in standard deviations of the {'codes' if prior is None else 'prior'}",
    )
    y = evidence.codes.y
    images = decode(evidence, codes.flatten(0, 1), None if y is None else y[:1].expand(len(units) * POSITIONS))
    return sheet(images, POSITIONS, labels)


def _unit_label(evidence: Evidence, unit: int) -> str:
    """Returns what is known of a latent unit: its number, its rate, and the known factor that it says most about."""
    lines = [f"unit {unit}"]
    if evidence.unit_rates is not None:
        lines.append(f"{float(evidence.unit_rates[unit]):.2f} nats")
    if evidence.has("factors") and evidence.has("unconditional"):
        share, factor = evidence.known_shares[unit].max(0)
        lines.append(f"{evidence.data.factors[int(factor)]} {float(share):.2f}")
    return "\n".join(lines)


def manifold(evidence: Evidence) -> Picture:
    """Draws the images that a grid of two-dimensional codes decodes to."""
    _, height, width = evidence.data.image_shape
    across = max(4, min(MOST_ACROSS, WIDEST // (max(height, width) + GAP)))
    places, below = _places(evidence, across)  # (across, 2)
    right, up = places[:, 0], places[:, 1].flip(0)  # in the directions of the scatter's axes
    codes = torch.cartesian_prod(up, right).flip(1)  # (across * across, 2), row by row
    labels = Labels(
        "The plane of codes, decoded",
        [_sparse(i, across, f"{value:.2g}") for i, value in enumerate(up.tolist())],
        [_sparse(i, across, f"{value:.2g}") for i, value in enumerate(right.tolist())],
        below,
    )
    y = evidence.codes.y  # a conditional model is shown with one class
    return sheet(decode(evidence, codes, None if y is None else y[:1].expand(len(codes))), across, labels)


def _places(evidence: Evidence, count: int) -> tuple[Tensor, str]:
    """Returns values of both units (count, 2): at equal shares of the prior where there is one, else over the codes."""
    prior = prior_of_units(evidence)
    if prior is not None:
        shares = (torch.arange(count) + 0.5) / count
        mean, spread = prior  # (2,) each, of a normal distribution
        places = mean + spread * torch.special.ndtri(shares)[:, None]
        return places, "unit 0, and unit 1 upwards, at quantiles of the prior"
    if len(evidence.codes.z) < 2:
        raise NotEnoughError(f"needs 2 {evidence.split} images or more: a model without a prior is shown between them")
    low, high = evidence.codes.z.nan_to_num(0, posinf=0, neginf=0).quantile(torch.tensor(RANGE), dim=0)  # (2,) each
    share = torch.linspace(0, 1, count)[:, None]
    return low + (high - low) * share, "unit 0, and unit 1 upwards, over the range of the codes"


def _sparse(i: int, count: int, label: str) -> str:
    """Keeps every third label, and those at the ends."""
    return label if i % 3 == 0 or i == count - 1 else ""


def codes(evidence: Evidence) -> Picture:
    """Draws the codes in two dimensions, coloured by class."""
    points, names = _two_dimensions(evidence.codes.z[:POINTS])
    return _scatter(evidence, points, names, f"Codes of {evidence.split} images")


def codes_tsne(evidence: Evidence) -> Picture:
    """Draws the codes, laid out by their neighbours with t-SNE (van der Maaten and Hinton, 2008, JMLR 9)."""
    from sklearn.manifold import TSNE

    z = evidence.codes.z[:NEIGHBOURLY].double().nan_to_num(0, posinf=0, neginf=0).numpy()
    noise = np.random.default_rng(evidence.seed).normal(size=z.shape)
    z = (z - z.mean(0)) / (z.std() or 1) + JITTER * noise
    layout = TSNE(2, perplexity=min(PERPLEXITY, (len(z) - 1) / 3), init="pca", random_state=0, max_iter=500)
    title = f"Codes of {len(z):,} {evidence.split} images, by t-SNE"
    return _scatter(evidence, layout.fit_transform(z), ("", ""), title)


def _scatter(evidence: Evidence, points: NDArray[np.floating], directions: tuple[str, str], title: str) -> Picture:
    """Draws the points (N, 2) of the first N codes."""
    from matplotlib import colormaps

    y, classes = evidence.codes.y, evidence.data.classes
    figure, (axes,) = plots(1, 1, WIDTH, 560, title)
    axes.set_xlabel(directions[0], fontsize=FONT)
    axes.set_ylabel(directions[1], fontsize=FONT)
    if not any(directions):
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.grid(visible=False)
    colours = colormaps["tab10" if len(classes) <= 10 else "tab20" if len(classes) <= LEGEND_CLASSES else "turbo"]
    size = 24 if len(points) < 1_000 else 10
    drawn_points = []
    for label in range(max(1, len(classes))):
        own = points if y is None else points[y[: len(points)] == label]
        colour = colours(label) if len(classes) <= LEGEND_CLASSES else colours(label / (len(classes) - 1))
        drawn_points.append(axes.scatter(own[:, 0], own[:, 1], s=size, color=colour, linewidths=0))
    if 1 < len(classes) <= LEGEND_CLASSES:
        names = told_apart(classes, LEGEND_LETTERS)
        axes.legend(
            drawn_points,
            names,
            fontsize=FONT,
            frameon=False,
            markerscale=2,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
        )
    return drawn(figure)


def _two_dimensions(z: Tensor) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Maps codes (N, D) to points (N, 2), and names their axes."""
    z = z.double().nan_to_num(0, posinf=0, neginf=0)
    if z.shape[1] == 1:
        return torch.cat([z, torch.zeros_like(z)], dim=1).numpy(), ("latent unit 0", "")
    if z.shape[1] == 2:
        return z.numpy(), ("latent unit 0", "latent unit 1")
    left, singular, _ = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    shares = singular.square() / singular.square().sum().clamp(min=1e-30)
    names = [
        f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares[:2].tolist())
    ]
    return (left * singular)[:, :2].numpy(), (names[0], names[1])
