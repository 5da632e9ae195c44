"""Tests what every format and kind of image file becomes, with exact pixels, and what is refused."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from aemodels.config import OwnWarning, SettingsError
from aemodels.data import deep_images, prepare, resizing
from aemodels.data.digits import DigitsConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.image_decoding import SUFFIXES, Reading, decode
from aemodels.data.image_files import image_files, read_images
from aemodels.data.other_kind import images_of_another_kind
from aemodels.data.resizing import fitted
from aemodels.data.source import SourceConfig, UnreadableError
from aemodels.data.sprites import SpritesConfig
from aemodels.runtime.progress import finish

RAMP = np.linspace(0, 1, 8 * 10).reshape(8, 10)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1] ** 2], -1)
ALPHA = np.where(RAMP < 0.2, 0, np.where(RAMP > 0.8, 1, RAMP))[..., None]
PNG_KINDS = {1: 0, 2: 4, 3: 2, 4: 6}  # samples of a pixel -> PNG's number of the kind


def read(path: Path, **how: Any) -> NDArray[np.uint8]:
    """Returns the pixels (H, W) or (H, W, C) of a file."""
    return decode(path, Reading(**how))[0].transpose(1, 2, 0).squeeze()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path: Path, values: NDArray[Any], bits: int = 16, transparent: tuple[int, ...] = (), exif: bytes = b"") -> Path:
    """Writes samples (H, W, S) as a PNG file of so many bits, as Pillow cannot."""
    height, width, samples = values.shape
    rows = values.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        packed = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel() for row in rows]
        lines = [np.packbits(row).tobytes() for row in packed]
    header = struct.pack(">IIBBBBB", width, height, bits, PNG_KINDS[samples], 0, 0, 0)
    parts = [chunk(b"IHDR", header)]
    if transparent:
        parts.append(chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    parts.append(chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))))
    parts += [chunk(b"eXIf", exif)] if exif else []
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def whole(shares: NDArray[np.floating], most: int = 65535) -> NDArray[np.int64]:
    return np.rint(shares * most).astype(np.int64)


def shown(colour: NDArray[np.floating], alpha: NDArray[np.floating] | None = None) -> NDArray[np.uint8]:
    """Returns the bytes of a colour (H, W, C) on white paper."""
    flat = colour if alpha is None else colour * alpha + 1 - alpha
    return np.rint(flat * 255).astype(np.uint8).squeeze()


# ---------------------------------------------------------------- 8 bits and fewer


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "tiff", "gif", "jpg", "jpeg", "jfif"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "CMYK"])
def test_what_pillow_writes_is_read_as_it_shows_it(tmp_path: Path, suffix: str, mode: str) -> None:
    assert f".{suffix}" in SUFFIXES
    colour = Image.fromarray(shown(COLOUR))
    image = colour.quantize(64) if mode == "P" else colour.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(shown(ALPHA)))
    path, kind = tmp_path / f"image.{suffix}", "JPEG" if suffix in ("jpg", "jpeg", "jfif") else None
    try:
        image.save(path, kind, lossless=True) if suffix == "webp" else image.save(path, kind)
    except (OSError, ValueError):
        pytest.skip(f"{suffix} has no {mode}")
    with Image.open(path) as written:
        grey = mode in ("1", "L", "LA") and suffix not in ("webp",)
        on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), written.convert("RGBA"))
    expected = np.asarray(on_white.convert("L" if grey else "RGB"))
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_few_bits(tmp_path: Path, bits: int) -> None:
    most = 2**bits - 1
    values = whole(RAMP, most)[..., None]
    np.testing.assert_array_equal(read(png(tmp_path / "a.png", values, bits)), np.rint(values[..., 0] * 255 / most))
    key = int(values[3, 3, 0])
    expected = np.where(values == key, 255, np.rint(values * 255 / most))[..., 0]
    np.testing.assert_array_equal(read(png(tmp_path / "b.png", values, bits, (key,))), expected)


def test_the_first_frame_of_a_gif(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "two.gif") == 10).all()


def test_transparent_gif_and_palette(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.paste(0, (0, 0, 4, 8))
    for suffix in ("gif", "png"):
        image.save(tmp_path / f"key.{suffix}", transparency=0)
        pixels = read(tmp_path / f"key.{suffix}")
        assert (pixels[:, :4] == 255).all()
        assert (pixels[:, 4:] == (200, 10, 20)).all()


# ---------------------------------------------------------------- 16 bits


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_16_bit_png(tmp_path: Path, samples: int) -> None:
    colour = COLOUR if samples > 2 else RAMP[..., None]
    alpha = ALPHA if samples in (2, 4) else None
    values = colour if alpha is None else np.concatenate([colour, alpha], -1)
    np.testing.assert_array_equal(read(png(tmp_path / "deep.png", whole(values))), shown(colour, alpha))


def test_a_transparent_colour_of_16_bits(tmp_path: Path) -> None:
    values = np.full((8, 8, 3), 1000)
    values[0], values[1] = 2000, 2001  # of one colour in 8 bits
    pixels = read(png(tmp_path / "key.png", values, transparent=(2000, 2000, 2000)))
    assert (pixels[0] == 255).all()
    assert (pixels[1] == round(2001 / 257)).all()
    assert (pixels[2:] == round(1000 / 257)).all()


WRITTEN: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[np.uint8]]] = {
    "grey 16": (whole(RAMP).astype(np.uint16), {}, shown(RAMP)),
    "grey 16, white is 0": (whole(1 - RAMP).astype(np.uint16), {"photometric": "miniswhite"}, shown(RAMP)),
    "colour 16": (whole(COLOUR).astype(np.uint16), {"photometric": "rgb"}, shown(COLOUR)),
    "colour 16, planes": (
        np.moveaxis(whole(COLOUR), -1, 0).astype(np.uint16).copy(),
        {"photometric": "rgb", "planarconfig": "separate"},
        shown(COLOUR),
    ),
    "colour 16, deflated": (whole(COLOUR).astype(np.uint16), {"photometric": "rgb", "compression": 8}, shown(COLOUR)),
    "grey and alpha 16": (
        whole(np.concatenate([RAMP[..., None], ALPHA], -1)).astype(np.uint16),
        {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
        shown(RAMP[..., None], ALPHA),
    ),
    "colour and alpha 16": (
        whole(np.concatenate([COLOUR, ALPHA], -1)).astype(np.uint16),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        shown(COLOUR, ALPHA),
    ),
    "premultiplied 16": (
        whole(np.concatenate([COLOUR * ALPHA, ALPHA], -1)).astype(np.uint16),
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        shown(COLOUR, ALPHA),
    ),
    "colour and a mask 16": (
        whole(np.concatenate([COLOUR, ALPHA], -1)).astype(np.uint16),
        {"photometric": "rgb", "extrasamples": ["unspecified"]},
        shown(COLOUR),
    ),
    "CMYK 16": (
        whole(np.concatenate([1 - COLOUR, np.full((8, 10, 1), 0.25)], -1)).astype(np.uint16),
        {"photometric": "separated"},
        shown(COLOUR * 0.75),
    ),
    "float": (RAMP.astype(np.float32), {}, shown(RAMP)),
    "colour float": (COLOUR.astype(np.float32), {"photometric": "rgb"}, shown(COLOUR)),
    "signed": (whole(RAMP, 32767).astype(np.int16), {}, shown(RAMP)),
    "big TIFF": (whole(RAMP).astype(np.uint16), {"bigtiff": True}, shown(RAMP)),
    "big end first": (whole(RAMP).astype(np.uint16), {"byteorder": ">"}, shown(RAMP)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_tiff(tmp_path: Path, name: str) -> None:
    values, settings, expected = WRITTEN[name]
    tifffile.imwrite(tmp_path / "deep.tif", values, **{"photometric": "minisblack"} | settings)
    found = read(tmp_path / "deep.tif").astype(int)
    near = 1 if "premultiplied" in name else 0  # its colour was rounded before
    assert np.abs(found - expected).max() <= near


def test_compressed_16_bit_tiff(tmp_path: Path) -> None:
    """Without another library the compression LZW is Pillow's to read: grey exactly, colour by its upper 8 bits."""
    image = Image.fromarray(whole(RAMP).astype(np.uint16))
    image.save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read(tmp_path / "lzw.tif"), shown(RAMP))


# ---------------------------------------------------------------- levels


def test_white_may_have_a_lower_value_than_the_format_has(tmp_path: Path) -> None:
    grey, colour = whole(RAMP, 4095), whole(COLOUR, 4095)
    tifffile.imwrite(tmp_path / "a.tif", colour.astype(np.uint16), photometric="rgb")
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "b.png")
    for path, truth in (
        (tmp_path / "a.tif", COLOUR),
        (tmp_path / "b.png", RAMP),
        (png(tmp_path / "c.png", colour), COLOUR),
    ):
        np.testing.assert_array_equal(read(path, levels=4095), shown(whole(truth, 4095) / 4095))
        assert read(path).max() == 16


def test_levels_leave_files_that_have_fewer_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(shown(COLOUR)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", levels=4095), shown(COLOUR))
    half = png(tmp_path / "b.png", whole(RAMP, 15)[..., None], 4)
    np.testing.assert_array_equal(read(half, levels=4095), shown(whole(RAMP, 15) / 15))


def test_masks_of_few_values(tmp_path: Path) -> None:
    mask = (RAMP > 0.5).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png", levels=1), 255 * mask)


def test_alpha_is_not_brightened(tmp_path: Path) -> None:
    image = Image.new("LA", (8, 8), (10, 128))
    image.save(tmp_path / "alpha.png")
    expected = round(10 * 255 / 20 * 128 / 255 + 127)
    assert np.abs(read(tmp_path / "alpha.png", levels=20).astype(int) - expected).max() <= 1


# ---------------------------------------------------------------- orientation


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return exif


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_orientation(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(np.repeat(shown(RAMP), 4, axis=1))
    image.save(tmp_path / f"a.{suffix}", exif=turned_exif(), **({"lossless": True} if suffix == "webp" else {}))
    pixels = read(tmp_path / f"a.{suffix}")
    assert pixels.shape[:2] == (40, 8)
    near = 12 if suffix == "jpg" else 0
    first = pixels.reshape(40, 8, -1)[..., 0].astype(int)
    assert np.abs(first - np.rot90(np.asarray(image), -1)).max() <= near


def test_orientation_of_16_bits(tmp_path: Path) -> None:
    exif = turned_exif().tobytes().removeprefix(b"Exif\0\0")
    for values in (whole(RAMP)[..., None], whole(COLOUR)):
        pixels = read(png(tmp_path / "a.png", values, exif=exif))
        np.testing.assert_array_equal(pixels, np.rot90(shown(values / 65535), -1))
    for values in (whole(RAMP), whole(COLOUR)):
        tag = [("Orientation", "H", 1, 6, True)]
        kind = "rgb" if values.ndim == 3 else "minisblack"
        tifffile.imwrite(tmp_path / "b.tif", values.astype(np.uint16), photometric=kind, extratags=tag)
        np.testing.assert_array_equal(read(tmp_path / "b.tif"), np.rot90(shown(values / 65535), -1))


@pytest.mark.parametrize("exif", [b"Exif\0\0" + bytes(40), b"Exif\0\0MM\0*\0"], ids=["zeros", "cut"])
def test_damaged_exif_leaves_the_pixels_as_they_are(tmp_path: Path, exif: bytes) -> None:
    image = Image.fromarray(shown(RAMP))
    image.save(tmp_path / "a.jpg", exif=exif, dpi=(72, 72))
    image.save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), read(tmp_path / "b.jpg"))


def test_damaged_exif_beside_an_orientation(tmp_path: Path) -> None:
    exif = turned_exif()
    exif[0x0128] = 2
    entry = struct.pack(">HHI", 0x0128, 3, 1)  # the unit of the resolution, a whole number
    content = exif.tobytes()
    assert entry in content
    damaged = content.replace(entry, struct.pack(">HHI", 0x0128, 2, 1))  # a text
    Image.fromarray(shown(RAMP)).save(tmp_path / "a.jpg", exif=damaged, dpi=(72, 72))
    assert read(tmp_path / "a.jpg").shape == (10, 8)


def test_memory_that_ran_out_is_no_damage_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object) -> None:
        raise MemoryError

    Image.fromarray(shown(RAMP)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "tobytes", run_out)
    with pytest.raises(MemoryError, match=r"ran out while image .*a\.png"):
        read(tmp_path / "a.png")


# ---------------------------------------------------------------- refused


def float_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.full((8, 8), 300.0, np.float32))


def signed_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.full((8, 8), -3, np.int16))


def wide_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.full((8, 8, 3), 3, np.uint32), photometric="rgb")


def damaged(path: Path) -> None:
    path.write_bytes(b"II*\0 not a TIFF file")


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (float_tiff, r"float32 pixels up to 300, where white would be 1.*set data\.levels"),
        (signed_tiff, r"pixels from -3 to -3.*shift and scale"),
        (wide_tiff, r"pixels of 32 bits.*set data\.levels to the value of white"),
        (damaged, "cannot be read"),
        (postscript, "no JPEG, PNG, WEBP, BMP, TIFF or GIF"),
    ],
)
def test_refused_by_name_with_a_remedy(tmp_path: Path, write: Callable[[Path], None], said: str) -> None:
    write(tmp_path / "strange.tif")
    with pytest.raises(UnreadableError, match=rf"strange\.tif.*{said}"):
        read(tmp_path / "strange.tif")


def test_levels_make_wide_and_float_tiff_readable(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (RAMP * 300).astype(np.float32))
    tifffile.imwrite(tmp_path / "b.tif", whole(COLOUR, 1000).astype(np.uint32), photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", levels=300), shown(RAMP))
    np.testing.assert_array_equal(read(tmp_path / "b.tif", levels=1000), shown(whole(COLOUR, 1000) / 1000))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_very_large_images_are_read_when_asked_to(tmp_path: Path, kind: str) -> None:
    side = 13_500  # 182 megapixels
    Image.new("1", (side, side), 1).save(
        tmp_path / f"large.{kind}", **({"compression": "packbits"} if kind == "tif" else {})
    )
    with pytest.raises(
        UnreadableError, match=r"large.*182 megapixels, data\.largest_megapixels=179.*=183 if you trust"
    ):
        read(tmp_path / f"large.{kind}", size=(8, 8))
    limit = Image.MAX_IMAGE_PIXELS
    warnings.simplefilter("error")  # Pillow warns of half as many
    assert (read(tmp_path / f"large.{kind}", size=(8, 8), fit="crop", largest_megapixels=183) >= 254).all()
    assert limit == Image.MAX_IMAGE_PIXELS
    Image.new("L", (100, 100)).save(tmp_path / "small.png")
    with pytest.raises(UnreadableError, match=r"0 megapixels|allows fewer"):
        read(tmp_path / "small.png", largest_megapixels=0.001)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "16 bits"])
def test_an_image_of_many_strips_is_the_one_that_is_laid_on_paper_at_once(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(shown(COLOUR)).resize((300, 200))
    image.putalpha(Image.fromarray(shown(ALPHA)).resize(image.size))
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "16 bits":
        png(path, np.asarray(image).astype(np.int64) * 257)
    else:
        (image.convert("RGB") if mode in ("P", "CMYK") else image).convert(mode).save(path)
    asked: list[dict[str, Any]] = [{}, *({"size": (10, 16), "fit": fit} for fit in ("resize", "crop", "pad"))]
    at_once = [read(path, **how) for how in asked]
    for module in (resizing, deep_images):
        monkeypatch.setattr(module, "STRIP", 300 * 33)
    for how, expected in zip(asked, at_once, strict=True):
        np.testing.assert_array_equal(read(path, **how), expected)


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
def test_a_large_opaque_image_is_the_same_with_alpha_and_without(fit: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1700, 2501, 3), np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "colour.png", compress_level=1)
    image.convert("RGBA").save(tmp_path / "alpha.png", compress_level=1)
    found, alike = (read(tmp_path / f"{name}.png", size=(24, 33), fit=fit) for name in ("colour", "alpha"))
    np.testing.assert_array_equal(found, alike)
    if fit == "resize":
        expected = image.resize((33, 24), Image.Resampling.BICUBIC, reducing_gap=3.0)
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_very_large_image_is_in_memory_once(tmp_path: Path) -> None:
    side = 8_000
    Image.new("RGBA", (side, side), (200, 10, 20, 128)).save(tmp_path / "large.png", compress_level=1)
    code = (
        "import re, sys; from aemodels.data.image_decoding import Reading, decode; from PIL import Image\n"
        "def peak(): return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak(); decode(sys.argv[1], Reading(size=(32, 32))); print(peak() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "large.png")], capture_output=True, check=True)
    assert int(ran.stdout) < 1.4 * 4 * side**2


# ---------------------------------------------------------------- shapes


def stripes(height: int, width: int) -> Image.Image:
    """Returns an image that is grey at its edges, with a white middle."""
    pixels = np.full((height, width), 90, np.uint8)
    pixels[height // 3 : -(height // 3), width // 3 : -(width // 3)] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(48, 96), (96, 48), (64, 64), (24, 64)])
@pytest.mark.parametrize("own", [(100, 300), (300, 100), (48, 96), (20, 20)])
def test_fit(size: tuple[int, int], own: tuple[int, int]) -> None:
    image = stripes(*own)
    for fit in ("resize", "crop", "pad"):
        assert fitted(image, size, fit).size == size[::-1]  # type: ignore[arg-type]
    padded = np.asarray(fitted(image, size, "pad"))
    scale = min(size[0] / own[0], size[1] / own[1])
    inner = max(1, round(own[0] * scale)), max(1, round(own[1] * scale))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    middle = np.asarray(fitted(image, inner))
    expected = np.full(size, middle[0, 0], np.uint8)
    expected[top : top + inner[0], left : left + inner[1]] = middle
    np.testing.assert_array_equal(padded, expected)


def test_crop_takes_the_largest_middle_part() -> None:
    pixels = np.arange(40 * 60).reshape(40, 60) % 251
    image = Image.fromarray(pixels.astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(fitted(image, (20, 60), "crop")), pixels[10:30])
    np.testing.assert_array_equal(np.asarray(fitted(image, (40, 20), "crop")), pixels[:, 20:40])


def test_paper_stays_white_where_a_scan_is_padded() -> None:
    image = Image.new("RGB", (60, 20), "white")
    image.paste((0, 0, 0), (20, 5, 40, 15))
    assert (np.asarray(fitted(image, (60, 60), "pad"))[:20] == 255).all()


# ---------------------------------------------------------------- a folder


def folder_of(path: Path, most: int) -> Path:
    """Makes a folder of 16-bit images, of which none is brighter than that."""
    path.mkdir()
    for i in range(20):
        Image.fromarray((whole(RAMP, most) * (i + 1) // 20).astype(np.uint16)).save(path / f"{i}.png")
    return path


def test_a_person_is_told_that_white_may_be_lower(tmp_path: Path) -> None:

    path = folder_of(tmp_path / "scans", 4095)
    for _ in range(2):  # also where they are prepared already
        with pytest.warns(OwnWarning, match=r"is 16 of 255; .*set data\.levels .*4095 for 12 bits"):
            finish(prepare(FolderConfig(path=path)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OwnWarning)
        data = finish(prepare(FolderConfig(path=path, levels=4095)))
        finish(prepare(FolderConfig(path=folder_of(tmp_path / "bright", 65535))))
    assert max(int(data.split(split).images.max()) for split in ("train", "val", "test")) == 255


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
def test_folders_become_rectangles(tmp_path: Path, fit: str) -> None:

    (tmp_path / "photos").mkdir()
    images = [stripes(40 + i, 90 - i) for i in range(20)]
    for i, image in enumerate(images):
        image.save(tmp_path / "photos" / f"{i:02}.png")
    config = FolderConfig.parse({"path": str(tmp_path / "photos"), "image_size": "[48, 96]", "fit": fit})
    data = finish(prepare(config))
    assert data.image_shape == (1, 48, 96)
    expected = np.stack([np.asarray(fitted(image, (48, 96), fit)) for image in images])  # type: ignore[arg-type]
    found = np.concatenate([data.split(split).images[:, 0] for split in ("train", "val", "test")])
    np.testing.assert_array_equal(np.sort(found.reshape(20, -1), 0), np.sort(expected.reshape(20, -1), 0))
    read_again = read_images(image_files([tmp_path / "photos"]), (1, 48, 96), config.reading())[0].images
    np.testing.assert_array_equal(read_again[:, 0], expected)  # as a trained model is given them


SOURCES: list[SourceConfig] = [
    DigitsConfig(image_size=(12, 20)),
    SpritesConfig(image_size=(12, 20), count=40),
    DigitsConfig(image_size=(20, 12)),
    SpritesConfig(image_size=(20, 12), count=40),
]


@pytest.mark.parametrize("config", SOURCES, ids=lambda config: f"{config.name}-{config.image_size}")
def test_sources_make_rectangles(config: SourceConfig) -> None:

    data = finish(prepare(config))
    assert data.image_shape == (1, *config.image_size)  # type: ignore[misc]
    mean = data.split("train").images.mean((0, 1))
    middle, edge = mean[4:-4, 4:-4].mean(), np.concatenate([mean[0], mean[-1]]).mean()
    assert middle > edge  # what is drawn lies in the middle
    assert images_of_another_kind(data).shape[1:] == data.image_shape


@pytest.mark.parametrize("given", [64, "64", [64, 64], "[64, 64]"])
def test_two_equal_sides_are_one(given: Any) -> None:
    assert DigitsConfig.parse({"image_size": given}).image_size == 64


@pytest.mark.parametrize("given", [4, "4", [48, 4], [8, 8, 8], "wide", "[48", 8.5])
def test_what_is_no_size_is_refused(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"image_size=.*must be at least 8: give one side, or \[height, width\]"):
        DigitsConfig.parse({"image_size": given})


def test_a_size_reads_back(tmp_path: Path) -> None:
    config = FolderConfig.parse({"path": str(tmp_path), "image_size": [48, 96]})
    assert FolderConfig.parse(config.flat()) == config
    assert FolderConfig.model_validate_json(config.model_dump_json()) == config
