"""Draws the code space: codes as points, by class, the images that codes give, and what each unit tells.

N images, D latent units, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import NotEnoughError
from aemodels.reports.figures.table import FigureKind
from aemodels.reports.lettering import told_apart
from aemodels.reports.pictures import FONT, GAP, WIDTH, Labels, Picture, drawn, plots, sheet
from aemodels.runtime.randomness import undisturbed

TRAVERSED = 8  # latent units that are shown
POSITIONS = 13  # values of a unit, from -3 to 3

PAIRS, STEPS = 4, 9  # pairs and steps of interpolations; the ends count as steps

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


def interpolations(evidence: Evidence) -> Picture:
    """Draws the images on straight lines between the codes of two images."""
    x, y, _ = evidence.first(64)
    pairs = unlike_pairs(None if y is None else y.tolist(), len(x))
    rows: list[Tensor] = []
    for a, b in pairs:
        rows += [x[a : a + 1].cpu(), between(evidence, a, b, STEPS), x[b : b + 1].cpu()]
    percent = [f"{100 * i // (STEPS - 1)} %" if i % 2 == 0 else "" for i in range(STEPS)]
    labels = Labels(
        f"Between the codes of two {evidence.split} images",
        columns=["original", *percent, "original"],
        below="share of the right image's code",
    )
    return sheet(torch.cat(rows), STEPS + 2, labels)


def between(evidence: Evidence, a: int, b: int, steps: int) -> Tensor:
    """Returns images (steps, C, h, w) on the line from the code of image a of the split to that of b, ends included."""
    z, y = evidence.codes
    share = torch.linspace(0, 1, steps)[:, None]
    classes = None if y is None else torch.where(share[:, 0] < 0.5, y[a], y[b])
    return decode(evidence, z[a] * (1 - share) + z[b] * share, classes)


def unlike_pairs(labels: list[int] | None, count: int) -> list[tuple[int, int]]:
    """Returns pairs of images, of different classes where there are such, each used once."""
    free = list(range(count))
    pairs: list[tuple[int, int]] = []
    while len(free) > 1 and len(pairs) < PAIRS:
        a = free.pop(0)
        b = next((i for i in free if labels is not None and labels[i] != labels[a]), free[0])
        free.remove(b)
        pairs.append((a, b))
    return pairs


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


def rate_per_unit(evidence: Evidence) -> Picture:
    rates = evidence.unit_rates
    assert rates is not None
    order = rates.nan_to_num(0).argsort(descending=True).tolist()
    figure, (axes,) = plots(1, 1, WIDTH, 360, f"Rate of each latent unit, {float(rates.sum()):.1f} nats in all")
    axes.bar(range(len(order)), rates[order].nan_to_num(0).numpy(), color="tab:blue")
    step = math.ceil(len(order) / 32)  # more numbers than that would run into each other
    axes.set_xticks(range(0, len(order), step), [str(unit) for unit in order[::step]])
    axes.set_xlabel("latent unit, by its rate", fontsize=FONT)
    axes.set_ylabel(f"nats per image ({evidence.split})", fontsize=FONT)
    axes.grid(axis="x", visible=False)
    return drawn(figure)


CODES = {
    "traversals": FigureKind(
        traversals,
        ("autoencoder",),
        "Traversals",
        "Each row changes one latent unit, the most important one on top, and leaves the others as an image has them. "
        "A row that does not change shows a unit that is not in use. Where the data have known factors, beside each "
        "unit stands the one that it says most about, with the share of the factor's entropy that it knows; not of a "
        "conditional model, whose codes are made with the class at hand.",
    ),
    "interpolations": FigureKind(
        interpolations,
        ("autoencoder", "two_images"),
        "Interpolations",
        "Each row walks on a straight line from the code of one held-out image to that of another. A smooth code space "
        "shows plausible images on the way.",
    ),
    "manifold": FigureKind(
        manifold,
        ("two_dimensions",),
        "Manifold",
        "The whole code space decoded: one latent unit along each axis, at equal shares of the prior, or for a plain "
        "autoencoder over the range of its codes.",
    ),
    "codes": FigureKind(
        codes,
        ("autoencoder", "unconditional", "two_images"),
        "Codes",
        "Each dot is the code of a held-out image, in the two directions in which codes differ most. Where the dots of "
        "one colour lie together, the code tells what class an image is of.",
    ),
    "codes_tsne": FigureKind(
        codes_tsne,
        ("more_dimensions", "unconditional", "ten_images"),
        "Codes by t-SNE",
        "Codes laid out so that neighbours stay neighbours, whatever the number of latent units. Sizes of clusters and "
        "distances between them mean nothing.",
        slow=True,
    ),
    "rate_per_unit": FigureKind(
        rate_per_unit,
        ("unit_rates",),
        "Rate per unit",
        "How much information each latent unit carries about an image, on average. Units near zero are not in use.",
    ),
}
