"""The picture of a comparison: a row per system, what it reconstructs, draws and finds between two images.

N images, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from aemodels.evidence import Evidence
from aemodels.figures import between, unlike_pairs
from aemodels.pictures import GAP, PAPER, Labels, Picture, framed, tile
from aemodels.undisturbed import undisturbed

PANELS = {"reconstructions": 6, "samples": 8, "between two of the images": 7}  # images in a row of each
WIDE, MARGIN = 1200, 22  # pixels: of the picture, about, and between its panels


def side_by_side(systems: Mapping[str, Evidence], title: str) -> Picture:
    """The originals on top; a system without an encoder has empty cells where it would need one.

    Args:
        systems: name -> a model of it; all judged on the same images, with the same seed.
    """
    first = next(iter(systems.values()))
    shape = first.data.image_shape
    empty = {name: torch.ones(count, *shape) for name, count in PANELS.items()}  # white
    rows = [empty | cells for cells in (_originals(first), *map(_row, systems.values()))]
    _, height, width = shape
    factor = max(1, round(WIDE / (sum(PANELS.values()) * (width + GAP))))
    panels = [tile(torch.cat([row[name] for row in rows]), count, factor) for name, count in PANELS.items()]
    labels = Labels(title, ["original", *systems], list(PANELS))
    down = [i * (height * factor + GAP) + height * factor / 2 for i in range(len(rows))]
    ends = accumulate(panel.shape[1] + MARGIN for panel in panels)
    across = [end - MARGIN - panel.shape[1] / 2 for end, panel in zip(ends, panels, strict=True)]
    return framed(_beside(panels), labels, across, down)


def _originals(evidence: Evidence) -> dict[str, Tensor]:
    """The images, and the two that are walked between."""
    reconstructed, _, walked = PANELS
    x = evidence.first(PANELS[reconstructed]).x.cpu()
    cells = {reconstructed: _filled(x, PANELS[reconstructed])}
    for pair in _walk(evidence):
        blank = torch.ones(PANELS[walked] - 2, *x.shape[1:])
        cells[walked] = torch.cat([x[pair[:1]], blank, x[pair[1:]]])
    return cells


def _walk(evidence: Evidence) -> list[list[int]]:
    """The two images that are walked between; none where there is only one."""
    x, y, _ = evidence.first(next(iter(PANELS.values())))
    return [list(pair) for pair in unlike_pairs(None if y is None else y.tolist(), len(x))[:1]]


def _row(evidence: Evidence) -> dict[str, Tensor]:
    """What the system can do of the panels."""
    reconstructed, drawn, walked = PANELS
    cells = {drawn: evidence.samples(PANELS[drawn]).cpu()}
    if evidence.has("autoencoder"):
        x, y, _ = evidence.first(PANELS[reconstructed])
        with undisturbed(evidence.model, evidence.seed):
            cells[reconstructed] = _filled(evidence.autoencoder(x, y), PANELS[reconstructed])
        for a, b in _walk(evidence):
            cells[walked] = between(evidence, a, b, PANELS[walked])
    return cells


def _filled(images: Tensor, count: int) -> Tensor:
    """Images (N, C, h, w) and white ones, as many as fill a row: a split may have fewer."""
    return torch.cat([images.cpu(), torch.ones(count - len(images), *images.shape[1:])])


def _beside(panels: list[Picture]) -> Picture:
    margin = np.full((len(panels[0]), MARGIN, 3), PAPER, np.uint8)
    parts = [part for panel in panels for part in (panel, margin)]
    return np.concatenate(parts[:-1], axis=1)
