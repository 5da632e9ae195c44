"""Decodes an image file into pixels: 8 bits, grey or colour, upright, with white paper behind what is transparent."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from aemodels.config import OutageError
from aemodels.data.deep_images import (
    NotReadError,
    Samples,
    is_tiff,
    on_paper,
    png_samples,
    tiff_samples,
    too_large,
    with_key,
)
from aemodels.data.image_bytes import ImageBytes, opened
from aemodels.data.resizing import Fit, Flat, Size, as_it_is, fitted, laid_out
from aemodels.data.source import Pixels, UnreadableError
from aemodels.runtime.files import in_words

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # the only ones, as Pillow would start Ghostscript for others
MEGAPIXELS = 179.0  # where Pillow suspects that a small file is made to fill the memory
PNG_DEPTH = 24  # place of the byte of a PNG file that holds the bits of a sample
# What Pillow raises on EXIF that is empty, cut off, or of other kinds than it should be.
DAMAGED_EXIF = (
    SyntaxError,
    struct.error,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
)
# EXIF's numbers for how a camera was held -> how the image is turned upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS, MEANING, KIND = 258, 262, 339  # tags of TIFF files: of each sample, of the pixels, of numbers


class Reading(NamedTuple):
    """Says how image files are read."""

    size: Size | None = None  # (height, width) in pixels; None keeps the file's own
    fit: Fit = "resize"
    levels: int | None = None  # the value of white, where it is lower than the format's
    largest_megapixels: float = MEGAPIXELS

    @property
    def most(self) -> float:
        """Returns how many pixels a file may have."""
        return self.largest_megapixels * 1e6


def decode(path: Path | str | ImageBytes, how: Reading, remedy: str = "mend or remove it") -> tuple[Pixels, int]:
    """Returns the pixels (C, H, W) of a file, and its area before it was resized.

    Raises:
        UnreadableError: it is damaged, of another format, or larger than is allowed.
        MemoryError: memory ran out.
    """
    try:
        with opened(path) as file:  # opened here, as Pillow takes longer to open and to close a file
            image, area = _decoded(file, how)
        pixels = np.frombuffer(image.tobytes(), dtype=np.uint8)
    except NotReadError as error:
        raise UnreadableError(str(path), error.reason, error.remedy, error.needed_megapixels) from None
    except Exception as error:  # Pillow's readers raise anything on damaged files: OSError, SyntaxError, IndexError ...
        if isinstance(told := in_words(error), OutageError):  # not the image's fault
            raise told from error
        if isinstance(error, MemoryError):  # nor is this
            raise MemoryError(f"memory ran out while image {path} was decoded") from error
        unknown = f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        reason = unknown if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableError(str(path), reason, remedy) from None
    return pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1), area


def _decoded(file: IO[bytes], how: Reading) -> tuple[Image.Image, int]:
    """Returns the image in mode L or RGB, in the size that is asked for, and its area in the file."""
    with _UNLIMITED:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            if not is_tiff(file) or (samples := tiff_samples(file, how.levels, how.most)) is None:
                raise
            return _sized(_upright(samples, how), how), samples.values[..., 0].size
        area = image.width * image.height
        if area > how.most:
            raise too_large(area, how.most)
        return _on_paper(image, file, how), area


def _on_paper(image: Image.Image, file: IO[bytes], how: Reading) -> Image.Image:
    """Returns the image upright, in mode L or RGB, in the size that is asked for."""
    samples = _deep_samples(image, file, how)
    if samples is not None:
        return _sized(_upright(samples, how), how)
    if how.size is not None:
        side = 2 * max(how.size)
        image.draft(None, (side, side))  # a JPEG is decoded at a fraction of its size: 4 times faster
    bits = _bits(image, file)
    image.load()
    # The orientation is read after loading, as a PNG may hold it behind its pixels.
    image = _turned(image, _orientation(image))
    if image.mode in ("L", "RGB") and not image.has_transparency_data and how.levels is None:
        return _sized(image, how)
    return _sized(image, how, partial(_grey_or_colour, bits=bits, levels=how.levels))


def _upright(samples: Samples, how: Reading) -> Image.Image:
    """Returns samples of more than 8 bits as an image that is upright, in mode L or RGB."""
    return _turned(on_paper(samples, how.levels), samples.orientation)


def _sized(image: Image.Image, how: Reading, flat: Flat = as_it_is) -> Image.Image:
    if how.size is None or image.size == how.size[::-1]:
        return laid_out(image, flat)
    return fitted(image, how.size, how.fit, flat)


class _Unlimited:
    """Lifts Pillow's limit of pixels, which it keeps for all of a process, while any thread decodes.

    `Reading.largest_megapixels` takes its place. Pillow would warn from half of it on.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.limit = Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                Image.MAX_IMAGE_PIXELS = self.limit


_UNLIMITED = _Unlimited()


def _orientation(image: Image.Image) -> int:
    """Returns how the camera was held; 1, which is upright, where what is written about the image is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1)) if image.info else 1
    except DAMAGED_EXIF:  # the pixels may be sound
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    # Pillow's `exif_transpose` writes all that is said about the image anew, and fails where any of it is damaged.
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


# ---------------------------------------------------------------- more than 8 bits


def _deep_samples(image: Any, file: IO[bytes], how: Reading) -> Samples | None:
    """Returns the samples of an image with more than 8 bits; None where Pillow gives all that there is."""
    if image.format == "PNG" and _png_depth(file) == 16:
        if image.mode.startswith("I"):
            return _grey_samples(image, 16)
        image.load()  # the file may name its orientation behind the pixels
        return png_samples(file, image.info.get("transparency"), _orientation(image))
    if image.format != "TIFF":
        return None
    bits, kinds = image.tag_v2.get(BITS, (1,)), image.tag_v2.get(KIND, (1,))
    if image.mode.startswith("I;16") and max(kinds) == 1:
        grey = _grey_samples(image, max(bits))
        inverted = image.tag_v2.get(MEANING) == 0  # white is 0
        return grey._replace(values=int(grey.white) - grey.values) if inverted else grey
    if max(bits) <= 8 and max(kinds) == 1:
        return None
    samples = tiff_samples(file, how.levels, how.most)
    if samples is None and (image.mode in ("I", "F") or how.levels is not None):
        compression = image.info.get("compression", "its compression")
        raise NotReadError(f"{compression} with such pixels", "save it without compression, or as PNG")
    return samples


def _grey_samples(image: Image.Image, bits: int) -> Samples:
    """Returns the samples of a grey image for which Pillow has a mode, and which it turns upright itself if TIFF."""
    image.load()
    values = np.asarray(image)[..., None].astype(np.uint16)
    orientation = _orientation(image)
    key = image.info.get("transparency")
    return with_key(Samples(values, 2**bits - 1, 0, orientation), None if key is None else (key,))


def _png_depth(file: IO[bytes]) -> int:
    """Returns the bits of a sample of a PNG file; what reads from the file after that starts where it did."""
    place = file.tell()
    file.seek(0)
    depth = file.read(32)[PNG_DEPTH]
    file.seek(place)
    return depth


# ---------------------------------------------------------------- up to 8 bits


def _bits(image: Any, file: IO[bytes]) -> int:
    """Returns the bits of a sample, which Pillow spreads over 0 to 255 where they are fewer than 8."""
    if image.format == "PNG" and image.mode in ("1", "L"):
        return _png_depth(file)
    return max(image.tag_v2.get(BITS, (1,))) if image.format == "TIFF" else 8


def _grey_or_colour(image: Image.Image, bits: int, levels: int | None) -> Image.Image:
    """Returns the image in mode L or RGB with 8 bits; what is transparent becomes white, as it is on paper."""
    if image.mode in ("1", "L") and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2**bits - 1)  # the file names the colour in its own bits
        image = image.convert("L").convert("LA")
    if levels is not None and levels < 2**bits - 1:
        image = _brightened(image, (2**bits - 1) / levels)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    mode = "L" if image.mode in ("1", "L", "LA") or _grey_palette(image) else "RGB"
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _brightened(image: Image.Image, factor: float) -> Image.Image:
    """Multiplies grey or colour; alpha and the colours of a palette stay what they are."""
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        return image
    image = image.convert("RGBA") if "transparency" in image.info else image
    brighter = [min(255, round(value * factor)) for value in range(256)]
    bands = [
        band if name == "A" else band.point(brighter)
        for name, band in zip(image.getbands(), image.split(), strict=True)
    ]
    return Image.merge(image.mode, bands)


def _grey_palette(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    return palette is not None and palette[0::3] == palette[1::3] == palette[2::3]
