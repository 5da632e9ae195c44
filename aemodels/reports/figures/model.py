"""Joins the figures of a model, of which each file has one function for each figure and a table, and draws them.

It also draws the two plain grids of a training's image cards.

(C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Collection

from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.leaving_out import Made, making_from
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.reports.figures.class_requests import REQUESTS
from aemodels.reports.figures.codes import CODES
from aemodels.reports.figures.images import ACROSS, IMAGES, SAMPLES, above
from aemodels.reports.figures.training import TRAINING
from aemodels.reports.pictures import GAP, WIDEST, Picture, shrunk, tile
from aemodels.runtime.progress import Steps, finish
from aemodels.runtime.randomness import derived_seed, undisturbed

FIGURES = {**IMAGES, **REQUESTS, **CODES, **TRAINING}  # in the order of a report
CARD_HEIGHT = 360  # pixels, MLflow's


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


def reconstruction_grid(model: GenerativeModel, data: PreparedData, split: str = "val") -> Picture:
    """Draws reconstructions of a split's first images, each above its original; every model gets the same images."""
    assert isinstance(model, Autoencoder)
    x, y, _ = next(Batches(data, split, model.device, 2 * ACROSS).in_order(2 * ACROSS))
    with undisturbed(model, 0):
        reconstructed = model(x, y)
    return _card(above(reconstructed, x), min(ACROSS, len(x)))


def sample_grid(model: GenerativeModel, seed: int = 0) -> Picture:
    """Draws new images, with the same noise at every call."""
    with undisturbed(model, derived_seed(seed, "samples")):
        return _card(model.sample(SAMPLES), ACROSS)


def _card(images: Tensor, across: int) -> Picture:
    rows = math.ceil(len(images) / across)
    tall, wide = (rows * (images.shape[-2] + GAP), across * (images.shape[-1] + GAP))
    images = shrunk(images, max(tall / (2 * CARD_HEIGHT), wide / WIDEST))
    return tile(images, across, max(1, min(CARD_HEIGHT // tall, WIDEST // wide)))
