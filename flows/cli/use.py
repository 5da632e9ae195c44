"""Does what the command line does with a trained model: generate, reconstruct, denoise, embed and score."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aemodels.config import UserError
from aemodels.data.encoded import reading_later
from aemodels.data.image_files import ImageFiles, Looked, image_files, read_in_blocks
from aemodels.runtime.devices import serving_device
from aemodels.runtime.files import write_whole
from aemodels.runtime.progress import Progress
from aemodels.serving.forms import shown
from aemodels.serving.model import Model
from aemodels.tracking.catalog import find
from flows.cli.session import check_file, check_folder, note
from flows.terminal import bars

ACROSS = 8  # images in a row of a grid
MOST_DRAWN = 64  # reconstructions in one picture: more would be too tall to look at
ASSUMED = "assumed class"  # of the images that a conditional model is shown; the one of its best bound
LONGEST_STEM = 240  # bytes: with number and ending it is still a name that file systems take
BLOCK = 256  # images in memory at a time
LEAST_SIDE = 64  # pixels of an image in a grid: small ones are magnified by whole numbers


class Given(NamedTuple):
    """Holds a model and the files of the images that it is asked about."""

    model: Model
    found: ImageFiles
    where: str  # what a person gave

    def blocks(self) -> Iterator[Block]:
        """Reads the images some at a time, shows how far that is, and at the end says which files are not used.

        Raises:
            UserError: none can be read.
        """
        card, total = self.model.card, len(self.found.files)
        how = reading_later(card.experiment.data)
        looked, read = Looked(how.levels), 0
        with bars() as drawn:
            for done, block in enumerate(read_in_blocks(self.found, card.image_shape, how, looked, BLOCK), 1):
                if block.files:
                    # The pixels of files are bytes, also where all are 0 or 1.
                    yield Block(block.files, block.images.astype(np.float32) / np.float32(255))
                read += len(block.files)
                if total > BLOCK:
                    drawn.show(Progress("looking at images", min(done * BLOCK, total), total))
        if not read:
            told = f"{self.where}: none of the images can be read, such as {looked.unfit[0]}"
            raise UserError(f"{told}; mend them, or give others")
        for told in filter(None, (self.found.told_of(read), *looked.notes)):
            note(told)


class Block(NamedTuple):
    """Holds some of the images that a model is asked about."""

    files: list[Path]
    images: NDArray[np.float32]  # (N, C, H, W), from 0 to 1


def open_model(reference: str) -> Model:
    """Opens a model by its reference, on the best device."""
    return Model.open(find(reference), reference)


def open_to_serve(reference: str) -> Model:
    """Opens a model to be served, on the device for that."""
    return Model.open(find(reference), reference, str(serving_device()))


def open_with_images(reference: str, paths: Sequence[Path]) -> Given:
    """Returns a model and the files of images; it first checks that there are images.

    Raises:
        UserError: there are no such images or no such model, or it cannot look at images.
    """
    found = image_files(paths)
    model = open_model(reference)
    model.require_encoder()
    return Given(model, found, ", ".join(map(str, paths)))


class Wanted(NamedTuple):
    """Says what is to be generated."""

    n: int
    seed: int
    label: str | None = None  # a class, by its name or number
    prior: str | None = None  # one of PRIORS, fitted to the codes of training images
    like: Sequence[Path] = ()  # images whose kind is wanted


def generate(reference: str, wanted: Wanted, out: Path) -> dict[str, object]:
    """Draws new images into one picture: as the model draws them, from another prior, of a class, or like others."""
    check_file(out, ".png")
    n, seed = wanted.n, wanted.seed
    told: dict[str, object] = {}
    if wanted.like:
        given = open_with_images(reference, wanted.like)
        examples = np.concatenate([block.images for block in given.blocks()])
        images = given.model.like(examples, n, seed)
        told = {"like": len(examples)}
    elif wanted.prior is not None:
        images = _from_prior(open_model(reference), wanted.prior, n, seed)
        told = {"prior": wanted.prior}
    else:
        model = open_model(reference)
        images = model.sample(n, wanted.label, seed=seed)
        told = {} if wanted.label is None else {"label": model.classes[model.class_number(wanted.label)]}
    _save_grid(images, min(n, ACROSS), out)
    return {"model": reference, "images": n, "seed": seed, **told, "out": str(out)}


def _from_prior(model: Model, name: str, n: int, seed: int) -> NDArray[np.float32]:
    model.require_prior(name)
    if name == "flow":
        note(f"fitting the prior {name} to {len(model.codes()):,} codes, which takes up to a minute")
    return model.sample(n, prior=name, seed=seed)


def denoise(reference: str, paths: Sequence[Path], out: Path) -> dict[str, object]:
    """Writes a file for each image into a folder: what the model takes for the clean image."""
    check_folder(out)
    given = open_with_images(reference, paths)
    assumed: list[str] = []
    written = 0
    for files, images in given.blocks():
        out.mkdir(parents=True, exist_ok=True)
        for file, image in zip(files, _pixels(given.model.denoise(images)), strict=True):
            stem = os.fsencode(file.stem)[:LONGEST_STEM].decode("utf-8", "ignore")
            _save(image, out / f"{written:05d}-{stem}.png")  # folders may hold the same names
            written += 1
        assumed += given.model.classify(images)
    corruption = given.model.card.experiment.training.corruption.name
    told = _counted(assumed)
    return {"model": reference, "images": written, "trained on noise": corruption, **told, "out": str(out)}


def reconstruct(reference: str, paths: Sequence[Path], out: Path) -> dict[str, object]:
    """Draws rows of reconstructions, each above the row of its originals; the first MOST_DRAWN images."""
    check_file(out, ".png")
    given = open_with_images(reference, paths)
    originals, errors = np.empty((0, *given.model.card.image_shape), np.float32), []
    assumed: list[str] = []
    for _, images in given.blocks():
        originals = np.concatenate([originals, images[: MOST_DRAWN - len(originals)]])
        errors.append(given.model.score(images))
        assumed += given.model.classify(images)
    _save_pairs(originals, given.model, out)
    found = np.concatenate(errors)
    return {
        "model": reference,
        "images": len(found),
        "drawn": len(originals),
        "mse": float(found.mean()),
        **_counted(assumed),
        "out": str(out),
    }


def _save_pairs(images: NDArray[np.float32], model: Model, out: Path) -> None:
    """Writes a picture of rows of reconstructions, each above the row of its originals."""
    originals, drawn = shown(images), model.reconstruct(images)
    across = min(len(drawn), ACROSS)
    rows = [part for i in range(0, len(drawn), across) for part in (drawn[i : i + across], originals[i : i + across])]
    filled = [np.concatenate([row, np.ones((across - len(row), *row.shape[1:]), np.float32)]) for row in rows]
    _save_grid(np.concatenate(filled), across, out)


def embed(reference: str, paths: Sequence[Path], out: Path) -> dict[str, object]:
    """Writes the codes (N, D), the files' names and, of a conditional model, the classes that it assumed."""
    check_file(out, ".npz")
    given = open_with_images(reference, paths)
    codes = []
    names: list[str] = []
    assumed: list[str] = []
    for files, images in given.blocks():
        codes.append(given.model.encode(images))
        names += map(str, files)
        assumed += given.model.classify(images)
    columns: dict[str, Any] = {"codes": np.concatenate(codes), "files": names} | (
        {"classes": assumed} if assumed else {}
    )

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # to a name, numpy may add an ending
            np.savez(file, **columns)

    write_whole(out, write)
    count, size = columns["codes"].shape
    return {"model": reference, "images": count, "latent_dim": size, **_counted(assumed), "out": str(out)}


def score(reference: str, paths: Sequence[Path]) -> list[dict[str, object]]:
    """Returns each file with the mean squared error of its reconstruction on pixels in [0, 1], largest first."""
    given = open_with_images(reference, paths)
    scores: list[dict[str, object]] = []
    for files, images in given.blocks():
        errors = given.model.score(images).tolist()
        # A conditional model says which class it assumed of each image before it answered.
        classes = [{ASSUMED: name} for name in given.model.classify(images)] or [{}] * len(files)
        for file, error, assumed in zip(files, errors, classes, strict=True):
            scores.append({"file": str(file), "mse": error, **assumed})
    return sorted(scores, key=lambda score: -float(str(score["mse"])))


def _counted(assumed: list[str]) -> dict[str, object]:
    """Counts the classes that were assumed, for the result; it is empty for other models."""
    counts = Counter(assumed).most_common()
    return {ASSUMED: ", ".join(f"{name} ({count})" for name, count in counts)} if assumed else {}


def _save_grid(images: NDArray[np.floating], across: int, out: Path) -> None:
    """Writes images (N, H, W) or (N, H, W, C) in [0, 1] as one PNG.

    There are `across` in a row, with thin white lines between them.
    """
    scale = max(1, -(-LEAST_SIDE // images.shape[2]))
    pixels = _pixels(images).repeat(scale, 1).repeat(scale, 2)
    missing = -len(pixels) % across
    pixels = np.concatenate([pixels, np.full((missing, *pixels.shape[1:]), 255, np.uint8)])
    pixels = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    rows, (_, height, width, channels) = len(pixels) // across, pixels.shape
    grid = pixels.reshape(rows, across, height, width, channels).transpose(0, 2, 1, 3, 4)
    _save(grid.reshape(rows * height, across * width, channels), out)


def _pixels(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Returns images (N, H, W) or (N, H, W, C) in [0, 1] as bytes (N, H, W, C)."""
    pixels: NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return pixels if pixels.ndim == 4 else pixels[..., None]


def _save(pixels: NDArray[np.uint8], out: Path) -> None:
    """Writes an image (H, W, C) as PNG."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    write_whole(out, lambda partial: image.save(partial, "PNG"))
