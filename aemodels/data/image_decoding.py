"""Decodes an image file into pixels: 8 bits, grey or colour, upright, with white paper behind what is transparent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from aemodels.config import OutageError
from aemodels.data.image_bytes import ImageBytes, opened
from aemodels.data.source import Pixels, UnreadableError, square
from aemodels.runtime.files import in_words

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # the only formats that are read, as Pillow would start Ghostscript for others


def decode(
    path: Path | str | ImageBytes, size: int | None, crop: bool, remedy: str = "mend or remove it"
) -> tuple[Pixels, int]:
    """Returns the pixels (C, H, W) of a file, size x size if a size is given, and its area before it was resized.

    Raises:
        UnreadableError: it is damaged, or no PNG or JPEG.
    """
    try:
        with opened(path) as file:  # opened here, as Pillow takes longer to open and to close a file
            image: Image.Image = Image.open(file, formats=FORMATS)
            area = image.width * image.height
            if size is not None:
                image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size: 4 times faster
            image.load()
            # The orientation is read after loading, as a PNG may hold it behind its pixels.
            if image.info and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(image)
            image = _grey_or_colour(image)
            if size is not None and image.size != (size, size):
                image = square(image, size, crop=crop)
        pixels = np.frombuffer(image.tobytes(), dtype=np.uint8)
    except Exception as error:  # Pillow's readers raise anything on damaged files: OSError, SyntaxError, IndexError ...
        if isinstance(told := in_words(error), OutageError):  # not the image's fault
            raise told from error
        reason = "no PNG or JPEG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableError(str(path), reason, remedy) from None
    return pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1), area


def _grey_or_colour(image: Image.Image) -> Image.Image:
    """Returns the image in mode L or RGB with 8 bits; what is transparent becomes white, as it is on paper."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA") or _grey_palette(image) else "RGB"
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _grey_palette(image: Image.Image) -> bool:
    palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    return palette is not None and palette[0::3] == palette[1::3] == palette[2::3]
