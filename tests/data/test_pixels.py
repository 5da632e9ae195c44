"""Tests how an image on disk becomes pixels: modes, transparency, orientation and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aemodels.data.channels import is_grey
from aemodels.data.folder import FolderConfig


def read_one(tmp_path: Path, image: Image.Image, suffix: str = "png", **settings: Any) -> np.ndarray:
    """Returns what an image (H, W) or (H, W, 3) becomes."""
    folder = tmp_path / f"one{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    image.save(folder / f"image.{suffix}", **settings.pop("save", {}))
    pixels = FolderConfig(path=folder, **settings).fetch().read().load(0)
    return (pixels[:1] if is_grey(pixels) else pixels).transpose(1, 2, 0).squeeze()


def test_modes(tmp_path: Path) -> None:
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    assert np.array_equal(read_one(tmp_path, Image.fromarray(ramp * 160)), np.rint(ramp * 160 / 257))  # 16 bit
    colour = Image.fromarray(np.stack([ramp % 256, ramp // 2, ramp[::-1] % 256], -1).astype(np.uint8))
    grey = colour.convert("L")
    assert np.array_equal(read_one(tmp_path, grey.convert("P")), np.asarray(grey))  # a palette of greys
    assert np.array_equal(read_one(tmp_path, colour.quantize(64)), np.asarray(colour.quantize(64).convert("RGB")))
    assert set(np.unique(read_one(tmp_path, grey.convert("1")))) == {0, 255}
    assert read_one(tmp_path, colour.convert("CMYK"), "jpg").shape == (20, 20, 3)


def test_transparent_becomes_white(tmp_path: Path) -> None:
    for mode, ink in (("RGBA", (200, 0, 0, 255)), ("LA", (90, 255))):
        image = Image.new(mode, (16, 16), (*ink[:-1], 0))
        image.paste(ink, (0, 0, 8, 16))
        pixels = read_one(tmp_path, image)
        assert (pixels[:, 8:] == 255).all()
        assert (pixels[:, :8] == ink[:-1]).all()
    palette = Image.new("L", (16, 16), 40).quantize(4)
    assert (read_one(tmp_path, palette, save={"transparency": 0}) == 255).all()


def test_exif_orientation(tmp_path: Path) -> None:
    image = Image.new("L", (24, 16))
    image.paste(255, (0, 0, 12, 16))  # left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for suffix in ("jpg", "png"):
        pixels = read_one(tmp_path, image, suffix, save={"exif": exif})
        assert pixels.shape == (24, 16)
        assert pixels[:10].min() > 240
        assert pixels[-10:].max() < 15


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_crop_and_resize(tmp_path: Path, suffix: str) -> None:
    image = Image.new("L", (300, 100))
    image.paste(255, (100, 0, 200, 100))  # the middle square is white
    assert read_one(tmp_path, image, suffix, image_size=16, fit="crop").min() > 240
    squeezed = read_one(tmp_path, image, suffix, image_size=30)
    assert squeezed.shape == (30, 30)
    assert squeezed[:, :8].max() < 15
    assert squeezed[:, 12:18].min() > 240
