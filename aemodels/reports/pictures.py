"""Makes pictures of images and plots: uint8 arrays (H, W, 3).

Pixels of small images are magnified by a whole number and never smoothed. Large images are shrunk, so that a sheet of
them can be looked at. It is laid out in screen pixels around its images.

N images, (C, h, w) an image with pixels in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aemodels.reports.lettering import letter

if TYPE_CHECKING:  # half a second that only drawing has to wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]  # (H, W, 3)

WIDTH = 760  # pixels of a figure, about
WIDEST = 1_200  # pixels of a figure's images, across and down, at most
GAP = 2  # pixels between images
PAPER = 255
DPI = 100
FONT, TITLE = 9, 11  # points


def tile(images: Tensor, across: int, factor: int) -> Picture:
    """Puts images (N, C, h, w) row by row into a grid, each pixel magnified to factor x factor."""
    pixels = images.detach().float().nan_to_num(0).clamp(0, 1).mul(255).round().byte().cpu()
    colour = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()  # (N, h, w, 3)
    large = colour.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = large.shape[1] + GAP, large.shape[2] + GAP
    rows = math.ceil(len(large) / across)
    grid = np.full((rows * height - GAP, across * width - GAP, 3), PAPER, dtype=np.uint8)
    for i, image in enumerate(large):
        top, left = height * (i // across), width * (i % across)
        grid[top : top + len(image), left : left + image.shape[1]] = image
    return grid


class Labels(NamedTuple):
    """Holds the texts around a grid of images."""

    title: str
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    below: str = ""


def sheet(images: Tensor, across: int, labels: Labels) -> Picture:
    """Draws a labelled grid; one pixel of the grid is one pixel of the picture."""
    rows, wide = math.ceil(len(images) / across), across * (images.shape[-1] + GAP)
    images = shrunk(images, max(wide, rows * (images.shape[-2] + GAP)) / WIDEST)
    tall = rows * (images.shape[-2] + GAP)
    factor = max(1, min(round(WIDTH / wide), WIDEST // tall))
    columns = _centres(labels.columns, images.shape[-1] * factor)
    return framed(tile(images, across, factor), labels, columns, _centres(labels.rows, images.shape[-2] * factor))


def shrunk(images: Tensor, by: float) -> Tensor:
    """Returns images (N, C, h, w) that are smaller by a whole number, at least by so much; each pixel is a mean."""
    factor = min(math.ceil(by), *images.shape[-2:])
    return F.avg_pool2d(images.detach().float(), factor, ceil_mode=True) if factor > 1 else images


def framed(grid: Picture, labels: Labels, columns: Sequence[float], rows: Sequence[float]) -> Picture:
    """Draws labels around a grid; `columns` and `rows` are the centres of its columns and rows, in pixels of it."""
    height, width = grid.shape[:2]
    left, right = (max(104, _width(labels.rows) + 10) if labels.rows else 12), 12
    top, bottom = 36, 12 + (18 if labels.columns else 0) + (20 if labels.below else 0)
    figure = _figure(width + left + right, height + top + bottom)
    total = figure.get_size_inches() * DPI
    axes = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
    axes.imshow(grid, interpolation="none", aspect="auto")
    axes.tick_params(length=0, labelsize=FONT)
    axes.spines[:].set_visible(False)
    axes.set_xticks(columns, labels.columns)
    axes.set_yticks(rows, labels.rows)
    axes.set_xlabel(labels.below, fontsize=FONT)
    figure.text(0.5, 1 - 10 / total[1], labels.title, fontsize=TITLE, ha="center", va="top")
    return drawn(figure)


def _width(labels: Sequence[str]) -> int:
    """Returns how many pixels the longest of the labels takes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure(1, 1)
    written = [figure.text(0, 0, label, fontsize=FONT) for label in labels]
    letter(figure)
    canvas: Any = FigureCanvasAgg(figure)
    return math.ceil(max(text.get_window_extent(canvas.get_renderer()).width for text in written))


def _centres(labels: Sequence[str], side: int) -> list[float]:
    return [i * (side + GAP) + (side - 1) / 2 for i in range(len(labels))]


def _figure(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure  # not pyplot, which keeps what it draws and chooses a window system

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def plots(rows: int, columns: int, width: int, height: int, title: str) -> tuple[Figure, list[Axes]]:
    figure = _figure(width, height)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, fontsize=TITLE)
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for axes in panels:
        axes.tick_params(labelsize=FONT)
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def drawn(figure: Figure) -> Picture:
    """Returns the pixels of a figure, after making its texts drawable."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    letter(figure)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
