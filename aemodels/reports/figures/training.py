"""Draws the curves of a training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from aemodels.evaluation.evidence import Evidence
from aemodels.reports.figures.table import FigureKind
from aemodels.reports.pictures import FONT, WIDTH, Picture, drawn, plots

SIDE_METRICS = {"seconds", "images_per_second", "learning_rate"}  # metrics of an epoch that are no terms of a loss


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


TRAINING = {
    "training_curves": FigureKind(
        training_curves,
        ("history",),
        "Training",
        "The terms of the loss after each epoch, on training and on validation images, as far as they are measured on "
        "both; a denoising model is shown them corrupted. Validation curves that rise again show overfitting.",
    ),
}
