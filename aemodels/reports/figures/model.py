"""Draws the figures of a model: one function each (those of codes are in codes.py), and the table FIGURES below them.

It also draws the two plain grids of a training's image cards.

N images, D latent units, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.evaluation import neighbours
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import Made, making_from
from aemodels.evaluation.needs import Need
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.reports.figures.class_requests import classes, denoising, like
from aemodels.reports.figures.codes import codes, codes_tsne, decode, manifold, traversals
from aemodels.reports.pictures import FONT, GAP, WIDEST, WIDTH, Labels, Picture, drawn, plots, sheet, shrunk, tile
from aemodels.runtime.progress import Steps, finish
from aemodels.runtime.randomness import derived_seed, undisturbed

POOL = 100_000  # training images, at most, among which the nearest is looked for: 26 MB of features
ACROSS, SAMPLES = 8, 32  # images: MLflow's cards are wide
CARD_HEIGHT = 360  # pixels, MLflow's

PAIRS, STEPS = 4, 9  # pairs and steps of interpolations; the ends count as steps
SIDE_METRICS = {"seconds", "images_per_second", "learning_rate"}  # metrics of an epoch that are no terms of a loss


# ---------------------------------------------------------------- plain grids, for image cards


def reconstruction_grid(model: GenerativeModel, data: PreparedData, split: str = "val") -> Picture:
    """Draws reconstructions of a split's first images, each above its original; every model gets the same images."""
    assert isinstance(model, Autoencoder)
    x, y, _ = next(Batches(data, split, model.device, 2 * ACROSS).in_order(2 * ACROSS))
    with undisturbed(model, 0):
        reconstructed = model(x, y)
    return _card(_above(reconstructed, x), min(ACROSS, len(x)))


def sample_grid(model: GenerativeModel, seed: int = 0) -> Picture:
    """Draws new images, with the same noise at every call."""
    with undisturbed(model, derived_seed(seed, "samples")):
        return _card(model.sample(SAMPLES), ACROSS)


def _card(images: Tensor, across: int) -> Picture:
    rows = math.ceil(len(images) / across)
    tall, wide = (rows * (images.shape[-2] + GAP), across * (images.shape[-1] + GAP))
    images = shrunk(images, max(tall / (2 * CARD_HEIGHT), wide / WIDEST))
    return tile(images, across, max(1, min(CARD_HEIGHT // tall, WIDEST // wide)))


def _above(upper: Tensor, lower: Tensor) -> Tensor:
    """Puts two sets of images in rows that alternate; what does not fill a row is left out."""
    across = min(ACROSS, len(upper))
    rows = len(upper) // across
    pairs = [images[: rows * across].reshape(rows, across, *images.shape[1:]) for images in (upper, lower)]
    return torch.stack(pairs, dim=1).flatten(0, 2)  # (rows * 2 * across, C, h, w)


# ---------------------------------------------------------------- images


def reconstructions(evidence: Evidence) -> Picture:
    x, reconstructed = next(evidence.reconstructions())
    images = _above(reconstructed[: 2 * ACROSS], x[: 2 * ACROSS])
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
    images = _above(new, torch.from_numpy(pixels).float() / 255)
    looked_at = f"{seen:,} training images" if seen <= POOL else f"the first {POOL:,} of {seen:,} training images"
    labels = Labels(
        f"New images, each above the nearest of {looked_at}",
        ["new image", "nearest\nin training"] * (len(images) // (2 * ACROSS)),
        below="nearest in the features that the Frechet distance is taken in",
    )
    return sheet(images, ACROSS, labels)


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


# ---------------------------------------------------------------- plots


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


def training_curves(evidence: Evidence) -> Picture:
    """Draws a panel for each term of the loss, of training and validation images."""
    from matplotlib.ticker import MaxNLocator

    panels = _curves(evidence.history)
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, drawings = plots(rows, columns, max(WIDTH, 360 * columns), 60 + 280 * rows, "Training")
    for axes, (term, curves) in zip(drawings, panels.items(), strict=False):
        for split, values in curves.items():
            epochs, numbers = zip(*values, strict=True)
            colour = "tab:blue" if split == "train" else "tab:orange"
            marker = "o" if len(epochs) < 30 else None
            axes.plot(epochs, numbers, label=split, color=colour, marker=marker, markersize=3)
        axes.set_title(term.replace("_", " ").replace("elbo", "ELBO"), fontsize=FONT + 1)
        axes.set_xlabel("epoch", fontsize=FONT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.legend(fontsize=FONT, frameon=False)
    drawings[0].set_ylabel("nats per image", fontsize=FONT)
    for axes in drawings[len(panels) :]:
        axes.set_visible(False)
    return drawn(figure)


Curves = dict[str, list[tuple[int, float]]]  # split -> (epoch, value)


def _curves(history: Sequence[Mapping[str, float]]) -> dict[str, Curves]:
    """Returns term -> its curves; a loss that equals a term is left out.

    Where several parts have a term of one name, which is always so for the loss, the part's name stands before it.
    """
    keys = {key for metrics in history for key in metrics if key.startswith("train/")}
    alike = Counter(key.rpartition("/")[2] for key in keys)
    terms: dict[str, Curves] = {}
    losses: dict[str, Curves] = {}
    for epoch, metrics in enumerate(history, start=1):
        for key, value in metrics.items():
            split, *path = key.split("/")
            if split in ("train", "val") and path[-1] not in SIDE_METRICS and math.isfinite(value):
                *part, term = path
                panels = losses if term in ("loss", "objective") else terms
                name = " ".join([*part, term]) if alike[term] > 1 else "objective" if term == "loss" else term
                panels.setdefault(name, {}).setdefault(split, []).append((epoch, value))
    known = [curves.get("train") for curves in terms.values()]
    return terms | {name: curves for name, curves in losses.items() if curves.get("train") not in known}


# ---------------------------------------------------------------- the table


class FigureKind(NamedTuple):
    """Describes one figure of a model."""

    draw: Callable[[Evidence], Picture]
    needs: tuple[Need, ...]
    heading: str
    caption: str  # a sentence or two for a reader who has not seen such a figure before
    slow: bool = False  # whether evaluation.level=quick leaves it out


FIGURES = {
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
        "Samples, and beneath each the training image that is nearest in the data set's features, of all that the "
        f"model was trained on (of all there are for a model of other data, and of the first {POOL:,} at most). "
        "A model that only repeats its training images would show the same twice.",
        slow=True,
    ),
    "classes": FigureKind(
        classes,
        ("conditional", "features"),
        "By class",
        "The model was asked for each class, and draws a row of it.",
    ),
    "like": FigureKind(
        like,
        ("autoencoder", "labels", "features"),
        "More like these",
        "On the left training images of a class, on the right new ones, from a distribution fitted to the codes of up "
        "to 50 such images.",
        slow=True,
    ),
    "denoising": FigureKind(
        denoising,
        ("denoising",),
        "Denoising",
        "Held-out images, the same with noise, and what the model and two plain filters make of those. The filters "
        "have the setting that suits these images best.",
    ),
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
    "training_curves": FigureKind(
        training_curves,
        ("history",),
        "Training",
        "The terms of the loss after each epoch, on training and on validation images, as far as they are measured on "
        "both; a denoising model is shown them corrupted. Validation curves that rise again show overfitting.",
    ),
}


def draw_figures(evidence: Evidence, only: Collection[str] | None = None) -> Made[Picture]:
    """Draws figures, as `drawing_figures` does."""
    return finish(drawing_figures(evidence, only))


def drawing_figures(evidence: Evidence, only: Collection[str] | None = None) -> Steps[Made[Picture]]:
    """Draws the figures that the model and the data have, by name, and tells why others could not be drawn.

    What they need is computed once, and shared with the metrics.
    """
    quick = evidence.rules.level == "quick"
    wanted = [name for name, kind in FIGURES.items() if not (quick and kind.slow)] if only is None else only
    kinds = {name: (kind.needs, kind.draw) for name, kind in FIGURES.items() if name in wanted}
    return (yield from making_from(evidence, kinds, "drawing figures"))
