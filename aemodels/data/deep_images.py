"""Reads the samples of files that Pillow reduces to 8 bits or does not read: PNG and TIFF with more bits a sample.

(H, W, S): S samples a pixel, which are 1 of grey, 3 of colour or 4 of CMYK, and one more where there is alpha.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aemodels.data.resizing import STRIP

if TYPE_CHECKING:  # a tenth of a second that only such files have to wait for
    from tifffile import TiffPage

TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PREMULTIPLIED, STRAIGHT = 1, 2  # kinds of alpha, by TIFF's numbers: the colour holds it already, or does not
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, SEPARATED = 0, 1, 2, 5  # TIFF's numbers of what samples mean


class NotReadError(Exception):
    """The file has a format that is read, but not with such pixels."""

    def __init__(self, reason: str, remedy: str, needed_megapixels: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy
        self.needed_megapixels = needed_megapixels  # the data.largest_megapixels that reads it, if it is only too large


class Samples(NamedTuple):
    """Holds the samples of an image as its file has them."""

    values: NDArray[Any]  # (H, W, S)
    white: float  # what the format has for white
    alpha: int = 0  # PREMULTIPLIED or STRAIGHT, of the last sample; 0 where there is no alpha
    orientation: int = 1  # EXIF's number


def on_paper(samples: Samples, levels: int | None) -> Image.Image:
    """Returns the image in mode L or RGB with 8 bits; what is transparent becomes white, as it is on paper.

    Args:
        levels: the value of white, where it is lower than the format's.
    """
    rows = max(1, STRIP // samples.values.shape[1])  # as floats a large image would be in memory five times
    strips = [
        _on_paper(strip, samples, levels) for strip in np.split(samples.values, range(rows, len(samples.values), rows))
    ]
    pixels = np.concatenate(strips)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _on_paper(values: NDArray[Any], samples: Samples, levels: int | None) -> NDArray[np.uint8]:
    """Does so with some rows."""
    values, full = values.astype(np.float32), samples.white
    white = full if levels is None else min(levels, full)
    colour, alpha = values, None
    if samples.alpha:
        colour, alpha = values[..., :-1], np.clip(values[..., -1:] / full, 0, 1)
    colour = np.clip(colour / white, 0, 1)
    if colour.shape[-1] == 4:
        colour = (1 - colour[..., :3]) * (1 - colour[..., 3:])
    if alpha is not None:
        colour = (colour if samples.alpha == PREMULTIPLIED else colour * alpha) + (1 - alpha)
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------- PNG


def png_samples(file: IO[bytes], transparent: tuple[int, ...] | None, orientation: int) -> Samples:
    """Reads a PNG file of 16 bits a sample, for which Pillow has no mode where there is more than one.

    Args:
        transparent: the one colour that is transparent, if there is one.
    """
    import torch  # takes seconds, as torchvision does
    from torchvision.io import decode_png

    file.seek(0)
    values = decode_png(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    return with_key(Samples(values, 2**16 - 1, STRAIGHT if values.shape[-1] in (2, 4) else 0, orientation), transparent)


def with_key(samples: Samples, transparent: tuple[int, ...] | None) -> Samples:
    """Adds alpha to samples of which one colour is transparent."""
    if transparent is None or samples.alpha:
        return samples
    opaque = (samples.values != np.asarray(transparent, samples.values.dtype)).any(-1, keepdims=True)
    alpha = opaque.astype(samples.values.dtype) * samples.values.dtype.type(samples.white)
    return samples._replace(values=np.concatenate([samples.values, alpha], -1), alpha=STRAIGHT)


# ---------------------------------------------------------------- TIFF


def is_tiff(file: IO[bytes]) -> bool:
    """Tells whether a file begins as TIFF files do."""
    file.seek(0)
    return file.read(4) in TIFF_BEGINNINGS


def tiff_samples(file: IO[bytes], levels: int | None, most_pixels: float) -> Samples | None:
    """Reads the first image of a TIFF file; returns None where its compression needs another library.

    Raises:
        NotReadError: its pixels are of a kind that no image for a screen has, or there are too many.
    """
    from tifffile import TiffFile

    file.seek(0)
    with TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        if page.imagelength * page.imagewidth > most_pixels:
            raise too_large(page.imagelength * page.imagewidth, most_pixels)
        try:
            values = page.asarray()
        except (KeyError, ValueError) as error:
            if "imagecodecs" in str(error):
                return None
            raise
        return _meant(page, values, levels)


def _meant(page: TiffPage, values: NDArray[Any], levels: int | None) -> Samples:
    """Returns the samples of a TIFF file in our order, without those that mean nothing here."""
    kind = int(page.photometric)
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, SEPARATED: 4}.get(kind)
    if colours is None or page.axes not in ("YX", "YXS", "SYX"):
        raise NotReadError(f"a TIFF file of the kind {kind}, {page.axes}", "save it as RGB or as PNG")
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values.reshape(*values.shape[:2], -1)
    white = _white(values, page.bitspersample, levels)
    extra = tuple(map(int, page.extrasamples))[:1]
    alpha = extra[0] if extra in ((PREMULTIPLIED,), (STRAIGHT,)) and values.shape[-1] > colours else 0
    values = values[..., : colours + (alpha > 0)]
    if kind == WHITE_IS_ZERO:
        values = np.concatenate([white - values[..., :1], values[..., 1:]], -1)
    tag = page.tags.get("Orientation")
    return Samples(values, white, alpha, 1 if tag is None else int(tag.value))


def _white(values: NDArray[Any], bits: int, levels: int | None) -> float:
    """Returns what a format has for white.

    Raises:
        NotReadError: the format does not say it, and nobody else does.
    """
    low, high = values.min(), values.max()
    remedy = "save it with 16 bits, or set data.levels to the value of white"
    if not np.isfinite(values).all() or low < 0:
        raise NotReadError(f"pixels from {low:g} to {high:g}", "shift and scale them, and save it with 16 bits")
    if values.dtype.kind == "f":
        if levels is None and high > 1:
            raise NotReadError(f"{values.dtype} pixels up to {high:g}, where white would be 1", remedy)
        return 1.0 if levels is None else float(levels)
    if values.dtype.kind == "b":
        return 1.0
    if bits > 16:
        if levels is None:
            raise NotReadError(f"pixels of {bits} bits", remedy)
        return float(levels)
    return float(2 ** (bits - (values.dtype.kind == "i")) - 1)


def too_large(pixels: float, most: float) -> NotReadError:
    """Says that an image has more pixels than may be read, and what to do."""
    needed = int(pixels // 1e6) + 1
    return NotReadError(
        f"it has {pixels / 1e6:,.0f} megapixels, data.largest_megapixels={most / 1e6:g} allows fewer",
        f"make it smaller, or set data.largest_megapixels={needed} if you trust the file",
        needed,
    )
