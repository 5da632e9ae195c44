"""Makes images worse in steps that a person sees, and sets of images poorer.

N images, (C, H, W) an image with pixels in [0, 1]. A pixel here is one of an image of 32 pixels a side: larger images
are degraded as visibly as small ones.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from aemodels.runtime.randomness import seeded

Rows = NDArray[np.int64]

BASE = 32  # pixels a side, for which strengths in pixels are given
KNOTS = 5  # a side, between which a warp is smooth
REMOVED = (0.1, 0.3, 0.6)  # shares of the classes, or of clusters where there are none
CLUSTERS, COMPONENTS = 10, 32
DISTINCT = (1 / 3, 1 / 10, 1 / 30, 1 / 100)  # images of a set that are not copies, as shares
MEMORISED = (0.25, 0.5, 1.0)  # shares of a set that are copies of training images


# ---------------------------------------------------------------- pixels


def blurred(images: Tensor, pixels: float) -> Tensor:
    """Blurs images by a Gaussian of so many pixels."""
    width = pixels * images.shape[-1] / BASE
    reach = max(1, round(3 * width))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width).square())
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]
    for shape, padding in (((1, 1, 1, -1), (reach, reach, 0, 0)), ((1, 1, -1, 1), (0, 0, reach, reach))):
        flat = F.conv2d(F.pad(flat, padding, mode="replicate"), kernel.view(shape))
    return flat[:, 0].view_as(images)


def noisy(images: Tensor, spread: float) -> Tensor:
    """Adds Gaussian noise of that spread to each pixel."""
    return images + spread * torch.randn_like(images)


def as_jpeg(images: Tensor, quality: float) -> Tensor:
    """Writes images as JPEG files of a quality, and reads them again."""
    return torch.stack([_as_jpeg(image, round(quality)) for image in images])


def _as_jpeg(image: Tensor, quality: int) -> Tensor:
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()  # (H, W, C)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "JPEG", quality=quality)
    read = np.array(Image.open(file), dtype=np.float32).reshape(pixels.shape)
    return torch.from_numpy(read).permute(2, 0, 1) / 255


def checkered(images: Tensor, strength: float) -> Tensor:
    """Adds and takes away so much by turns, as transposed convolutions do that are not trained yet."""
    height, width = images.shape[-2:]
    cell = max(1, round(width / BASE))
    turns = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
    return images + strength * (2 * turns - 1)


def pale(images: Tensor, left: float) -> Tensor:
    """Leaves so much of the contrast around the mean of each image."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + left * (images - mean)


def shuffled(images: Tensor, grid: float) -> Tensor:
    """Cuts each image into grid x grid pieces and puts them together in another order; grids divide the side."""
    side = images.shape[-1]
    number = _divisor(side, round(grid))
    piece = side // number
    pieces = F.unfold(images, piece, stride=piece)  # (N, C * piece * piece, grid * grid)
    order = torch.stack([torch.randperm(pieces.shape[-1]) for _ in images])
    mixed = pieces.gather(2, order[:, None].expand_as(pieces))
    return F.fold(mixed, (side, side), piece, stride=piece)


def _divisor(side: int, wanted: int) -> int:
    return min((n for n in range(1, side + 1) if side % n == 0), key=lambda n: abs(n - wanted))


def blended(images: Tensor, share: float) -> Tensor:
    """Puts so much of another image over each, as decoders do with codes between those of images."""
    return (1 - share) * images + share * images.roll(1, 0)


def warped(images: Tensor, pixels: float) -> Tensor:
    """Moves the parts of each image by so many pixels, which leaves what is small as it is, and breaks shapes."""
    count, _, height, width = images.shape
    moves = 2 * pixels / BASE * torch.randn(count, 2, KNOTS, KNOTS)
    smooth = F.interpolate(moves, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    at = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, at + smooth, padding_mode="border", align_corners=False)


class Degradation(NamedTuple):
    """A degradation has strengths that rise from visible to ruinous."""

    apply: Callable[[Tensor, float], Tensor]
    strengths: tuple[float, ...]


DEGRADATIONS = {
    "blur": Degradation(blurred, (0.5, 1, 2, 4)),
    "noise": Degradation(noisy, (0.03, 0.08, 0.2, 0.4)),
    "jpeg": Degradation(as_jpeg, (50, 20, 8, 2)),
    "checkerboard": Degradation(checkered, (0.03, 0.08, 0.16, 0.32)),
    "contrast": Degradation(pale, (0.8, 0.6, 0.4, 0.2)),
    "blend": Degradation(blended, (0.1, 0.2, 0.35, 0.5)),
    "warp": Degradation(warped, (1, 2, 4, 8)),
    "shuffled": Degradation(shuffled, (2, 4, 8, BASE)),
}


def degraded(images: Tensor, name: str, level: int) -> Tensor:
    """Returns the images at a level from 1, with pixels of 256 levels as any image."""
    with seeded(level):
        found = DEGRADATIONS[name].apply(images, DEGRADATIONS[name].strengths[level - 1])
    return (found.clamp(0, 1) * 255).round() / 255


# ---------------------------------------------------------------- sets


def copies(count: int) -> list[Rows]:
    """Returns the rows of sets of so many images, with fewer and fewer that are distinct."""
    return [np.arange(count)] + [np.arange(count) % max(1, round(count * share)) for share in DISTINCT]


def missing(kinds: Rows) -> list[Rows]:
    """Returns the rows of sets in which more and more kinds (N,) are missing, all of the same number of images.

    The smallest kinds go first, so that enough images are left.
    """
    names, sizes = np.unique(kinds, return_counts=True)
    names = names[np.argsort(sizes, kind="stable")]
    gone = sorted({min(len(names) - 1, max(1, round(share * len(names)))) for share in REMOVED})
    left = [np.flatnonzero(~np.isin(kinds, names[:number])) for number in (0, *gone)]
    return [rows[: len(left[-1])] for rows in left]


def clusters(images: NDArray[np.uint8]) -> Rows:
    """Returns the cluster of each image (N,), by its pixels, where nothing else tells what kinds there are."""
    flat = images.reshape(len(images), -1).astype(np.float32) / 255
    components = PCA(COMPONENTS, random_state=0).fit_transform(flat)
    found: Rows = KMeans(CLUSTERS, n_init=3, random_state=0).fit_predict(components).astype(np.int64)
    return found


def memorised(count: int) -> Sequence[Rows]:
    """Returns the rows of sets of which a growing share are training images, whose rows come after all others."""
    found = []
    for share in (0.0, *MEMORISED):
        own = round(count * (1 - share))
        found.append(np.concatenate([np.arange(own), count + np.arange(count - own)]))
    return found
