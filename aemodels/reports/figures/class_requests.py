"""Draws what a model was asked for: images of a class, more like these.

N images, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import torch

from aemodels.evaluation.evidence import Evidence
from aemodels.reports.figures.table import FigureKind
from aemodels.reports.lettering import told_apart
from aemodels.reports.pictures import Labels, Picture, sheet
from aemodels.runtime.randomness import derived_seed, undisturbed

ACROSS = 8
SHOWN, DRAWN = 4, 8  # images of a class, and images that are drawn to be like them
LETTERS = 14  # letters of a class's name that are shown


def classes(evidence: Evidence) -> Picture:
    """Draws a row for each class that was asked for."""
    y = torch.tensor(evidence.requests.classes, device=evidence.model.device).repeat_interleave(ACROSS)
    with undisturbed(evidence.model, derived_seed(evidence.seed, "classes")):
        images = evidence.model.sample(len(y), y)
    return sheet(images, ACROSS, Labels(f"Images asked for by their class{_of(evidence)}", _names(evidence)))


def like(evidence: Evidence) -> Picture:
    """Draws images of a class, and beside them what the model draws to be like 50 images of it."""
    rows: list[torch.Tensor] = []
    for label, x in evidence.requests.images.items():
        with undisturbed(evidence.model, derived_seed(evidence.seed, "like", label)):
            drawn = evidence.autoencoder.sample_like(x, DRAWN, evidence.seed)
        paper = x.new_ones(1 + SHOWN - len(x[:SHOWN]), *x.shape[1:])
        rows += [x[:SHOWN], paper, drawn]
    columns = ["", "these", "", "", "", "", "more like these", *[""] * (DRAWN - 2)]
    return sheet(
        torch.cat(rows), SHOWN + 1 + DRAWN, Labels(f"More like these{_of(evidence)}", _names(evidence), columns)
    )


def _of(evidence: Evidence) -> str:
    """Says how many classes are shown, where there are more than rows."""
    shown, there = len(evidence.requests.classes), len(evidence.data.classes)
    return "" if shown == there else f" ({shown} of {there} classes)"


def _names(evidence: Evidence) -> list[str]:
    names = told_apart(evidence.data.classes, LETTERS)
    return [names[label] for label in evidence.requests.classes]


REQUESTS = {
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
}
