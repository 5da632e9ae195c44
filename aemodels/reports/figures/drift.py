"""Draws the figures of a check: how the scores are distributed, and the images that fit worst."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from aemodels.evaluation.drift import Scores
from aemodels.reports.pictures import FONT, WIDTH, Labels, Picture, drawn, plots, sheet

ACROSS, WORST = 8, 16  # images
BARS = 40
LONGEST_TAIL = 3  # times the range of the test images
SMALLEST_RANGE = 1e-6  # range of an axis, as a share of its values; with less the bars have no width


def histograms(test: Scores, new: Scores) -> Picture:
    """Draws both scores, of the test images and of the new ones, as densities."""
    figure, panels = plots(1, 2, WIDTH, 300, "New images against the test images")
    names = ("mean squared error", "distance in code space")
    for axes, name, known, found in zip(panels, names, test, new, strict=True):
        low, high = min(known.min(), found.min()), max(known.max(), found.max())
        if (spread := known.max() - known.min()) > 0:  # test images that are all alike have no tail to cut
            high = min(high, known.max() + LONGEST_TAIL * spread)
        high = max(high, low + SMALLEST_RANGE * max(1, abs(low)))
        edges = np.linspace(low, high, BARS + 1).tolist()
        axes.hist(known, edges, density=True, color="0.7", label=f"{len(known):,} test images")
        clipped = np.minimum(found, high)  # the last bar holds what lies further away
        axes.hist(clipped, edges, density=True, histtype="step", linewidth=1.6, label=f"{len(found):,} new images")
        axes.set_xlabel(name, fontsize=FONT)
        axes.set_yticks([])
        axes.legend(fontsize=FONT, frameon=False)
    return drawn(figure)


def worst(images: NDArray[np.uint8], reconstructed: NDArray[np.float32], errors: NDArray[np.floating]) -> Picture:
    """Draws the new images (N, C, H, W) with the largest errors, each below its reconstruction."""
    order = np.argsort(-errors)[: min(WORST, len(errors))]
    across = min(ACROSS, len(order))
    rows = len(order) // across
    order = order[: rows * across]
    pairs = [
        torch.from_numpy(chosen).reshape(rows, across, *images.shape[1:])
        for chosen in (reconstructed[order].astype(np.float32), images[order].astype(np.float32) / 255)
    ]
    grid = torch.stack(pairs, dim=1).flatten(0, 2)  # (rows * 2 * across, C, H, W)
    return sheet(grid, across, Labels("The new images that fit worst", ["reconstruction", "new image"] * rows))
