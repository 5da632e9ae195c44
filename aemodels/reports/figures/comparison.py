"""Draws the pictures of a comparison.

One has a row for each system: what it reconstructs, draws and finds between two images. The other shows where systems
with different beta stand between rate and distortion, with what they draw.

N images, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from aemodels.evaluation.evidence import Evidence
from aemodels.reports.figures.codes import between, unlike_pairs
from aemodels.reports.pictures import FONT, GAP, PAPER, Labels, Picture, drawn, framed, plots, sheet, shrunk, tile
from aemodels.runtime.randomness import undisturbed

SIDE_BY_SIDE, CURVE = "comparison", "rate_distortion"  # the names of the pictures, also of their files
NORMAL = "codes from N(0, I)"  # a panel of systems that draw from another prior, fitted to their codes
PANELS = {"reconstructions": 6, "samples": 8, NORMAL: 4, "between two of the images": 7}  # images in a row of each
WIDE, MARGIN = 1300, 22  # pixels: of the picture, about, and between its panels
DRAWN = 3  # images of each system along the rate


def side_by_side(systems: Mapping[str, Evidence], title: str) -> Picture:
    """Draws a row for each system, below the originals; a cell is empty where a system cannot do what the panel shows.

    Args:
        systems: name -> a model of it; all evaluated on the same images, with the same seed.
    """
    first = next(iter(systems.values()))
    shape = first.data.image_shape
    empty = {name: torch.ones(count, *shape) for name, count in PANELS.items()}  # white
    rows = [empty | cells for cells in (_originals(first), *map(_row, systems.values()))]
    fitted = any(evidence.has("fitted_prior") for evidence in systems.values())
    shown = {name: count for name, count in PANELS.items() if name != NORMAL or fitted}
    wide = sum(shown.values()) * (shape[2] + GAP)
    cells = {name: shrunk(torch.cat([row[name] for row in rows]), wide / (2 * WIDE)) for name in shown}
    height, factor = cells[next(iter(shown))].shape[-2], max(1, round(WIDE / wide))
    panels = [tile(cells[name], count, factor) for name, count in shown.items()]
    labels = Labels(title, ["original", *systems], list(shown))
    down = [i * (height * factor + GAP) + height * factor / 2 for i in range(len(rows))]
    ends = accumulate(panel.shape[1] + MARGIN for panel in panels)
    across = [end - MARGIN - panel.shape[1] / 2 for end, panel in zip(ends, panels, strict=True)]
    return framed(_beside(panels), labels, across, down)


def _originals(evidence: Evidence) -> dict[str, Tensor]:
    """Returns the cells of the originals: the images, and the two that the walk goes between."""
    reconstructed, *_, walked = PANELS
    x = evidence.first(PANELS[reconstructed]).x.cpu()
    cells = {reconstructed: _filled(x, PANELS[reconstructed])}
    for pair in _walk(evidence):
        blank = torch.ones(PANELS[walked] - 2, *x.shape[1:])
        cells[walked] = torch.cat([x[pair[:1]], blank, x[pair[1:]]])
    return cells


def _walk(evidence: Evidence) -> list[list[int]]:
    """Returns the two images that the walk goes between, in a list; it is empty if there is only one image."""
    x, y, _ = evidence.first(next(iter(PANELS.values())))
    return [list(pair) for pair in unlike_pairs(None if y is None else y.tolist(), len(x))[:1]]


def _row(evidence: Evidence) -> dict[str, Tensor]:
    """Returns what the system can show in the panels."""
    reconstructed, drawn, _, walked = PANELS
    cells = {drawn: evidence.samples(PANELS[drawn]).cpu()}
    if evidence.has("fitted_prior"):
        cells[NORMAL] = evidence.standard_normal(PANELS[NORMAL]).cpu()
    if evidence.has("autoencoder"):
        x, y, _ = evidence.first(PANELS[reconstructed])
        with undisturbed(evidence.model, evidence.seed):
            cells[reconstructed] = _filled(evidence.autoencoder(x, y), PANELS[reconstructed])
        for a, b in _walk(evidence):
            cells[walked] = between(evidence, a, b, PANELS[walked])
    return cells


def _filled(images: Tensor, count: int) -> Tensor:
    """Returns images (N, C, h, w) and white ones after them, as many as fill a row; a split may have fewer."""
    return torch.cat([images.cpu(), torch.ones(count - len(images), *images.shape[1:])])


def _beside(panels: list[Picture]) -> Picture:
    margin = np.full((len(panels[0]), MARGIN, 3), PAPER, np.uint8)
    parts = [part for panel in panels for part in (panel, margin)]
    return np.concatenate(parts[:-1], axis=1)


def rate_distortion(systems: Mapping[str, Evidence], points: Mapping[str, tuple[float, float]]) -> Picture:
    """Draws the curve along which beta moves systems, and samples along it, from the least rate to the largest.

    Args:
        points: system -> rate and distortion, nats per image.
    """
    names = sorted(systems, key=lambda name: points[name][0])
    rates, costs = zip(*(points[name] for name in names), strict=True)
    samples = torch.stack([systems[name].samples(DRAWN).cpu() for name in names], dim=1)  # (DRAWN, systems, C, h, w)
    titled = Labels("Samples", columns=names, below="from the least rate to the largest")
    grid = sheet(samples.flatten(0, 1), len(names), titled)

    figure, (axes,) = plots(1, 1, grid.shape[1], 420, "Rate and distortion")
    axes.plot(rates, costs, color="tab:blue", marker="o", markersize=5)
    least = min(rate + cost for rate, cost in zip(rates, costs, strict=True))
    line = np.geomspace(min(rates), max(rates), 200)
    line = line[least - line > min(costs) - 0.1 * (max(costs) - min(costs))]  # only as much as the curve needs
    bound = f"rate + distortion = {least:.1f}, the least of these"
    axes.plot(line, least - line, color="0.6", linestyle="--", linewidth=1, label=bound)
    for i, point in enumerate(zip(rates, costs, strict=True)):  # neighbours' names do not run into each other
        axes.annotate(names[i], point, xytext=(6, -12 if i % 2 else 6), textcoords="offset points", fontsize=FONT)
    axes.margins(0.1)
    axes.set_xscale("log")
    axes.set_xlabel("rate, nats per image, on a logarithmic scale", fontsize=FONT)
    axes.set_ylabel("distortion, nats per image", fontsize=FONT)
    axes.legend(fontsize=FONT, frameon=False, loc="upper right")
    return np.concatenate([drawn(figure), grid])


# ---------------------------------------------------------------- the table


COMPARISON_FIGURES = {  # picture -> its name on the page, heading and caption
    SIDE_BY_SIDE: (
        "side-by-side",
        "Side by side",
        "A row for each system: what it makes of the held-out images on top, images that it draws with the same seed, "
        "and what lies between the codes of two of those images. Where samples are from a prior fitted to codes, those "
        "of codes from N(0, I) stand beside them. What a system cannot do is left empty: without an encoder there are "
        "no codes. All are of the first seed.",
    ),
    CURVE: (
        "rate-distortion",
        "Rate and distortion",
        "Systems that differ in beta alone: how many nats the code of an image takes, and how much is missing in what "
        "it is decoded to. Below, what each draws: on the left too little is told by the codes, on the right they have "
        "left the prior from which samples come.",
    ),
}
