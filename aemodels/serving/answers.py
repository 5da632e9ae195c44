"""Answers questions to a registered model: reconstruct, embed, decode, generate and score; MLflow is not needed.

A packed model carries its weights, its config and this library's source. It needs the REQUIREMENTS of packing.py and
nothing else, so what is imported here must need nothing else either.

N images or codes, D latent units, (C, H, W) an image.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.config import UserError
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.nn.trunks import ImageShape
from aemodels.priors.fitting import fitted
from aemodels.runtime.randomness import seeded

MOST_GENERATED = 10_000  # images in one answer: 30 MB of grey 28 x 28 ones
MOST_VALUES = 2**28  # pixels in one answer: a GiB
ROUNDING = 1e-4  # beyond [0, 1], as a resize leaves pixels that are black or white
RANGES = ("auto", "unit", "bytes")  # of pixels: 0 to 1, whole numbers from 0 to 255, or what their type says
_NOISE = threading.Lock()  # held while noise is drawn: two threads that draw at once would disturb each other's seed


class Question(NamedTuple):
    """Holds the parameters of a prediction, with their defaults."""

    mode: str = "reconstruct"
    n: int = 16  # images to generate
    seed: int = 0  # of the noise of generated images
    label: int = -1  # number of the class of generated and decoded images; -1: any
    range: str = "auto"  # of the pixels of images that are given, one of RANGES


def answer(model: GenerativeModel, inputs: Any, question: Question) -> NDArray[np.float32]:
    """Returns the model's answer to a question.

    reconstruct  images -> images (N, C, H, W) in [0, 1]
    embed        images -> codes (N, D), the means of the posterior
    decode       codes (N, D) -> images (N, C, H, W)
    generate     nothing -> n new images (n, C, H, W); the same seed draws the same ones
    score        images -> mean squared error (N,) of their reconstruction, on pixels in [0, 1]

    Args:
        inputs: images (N, C, H, W), or (N, H, W) if they are grey. Integers run from 0 to 255, other numbers from 0 to
            1, unless the question's range says otherwise; see `range_of`.

    Raises:
        UserError: the mode, a number, or the shape or range of the inputs is wrong, or the answer is not finite.
    """
    return answer_and_range(model, inputs, question)[0]


def answer_and_range(model: GenerativeModel, inputs: Any, question: Question) -> tuple[NDArray[np.float32], str]:
    """Returns what `answer` does, and the range in which pixels were read; "" where there were none."""
    if question.mode == "generate":
        return _generate(model, question), ""
    if question.mode not in MODES:
        raise UserError(f"mode={question.mode}: unknown; choose one of {', '.join([*MODES, 'generate'])}")
    if not isinstance(model, Autoencoder):
        raise UserError(f"mode={question.mode}: this model has no encoder; it knows mode=generate only")
    if question.mode == "decode":
        x, pixels = read_codes(inputs, model.latent_dim), ""
    else:
        x, pixels = _read_images(inputs, model.image_shape, question.range)
    with torch.inference_mode():
        parts = [MODES[question.mode](model, part.to(model.device), question) for part in x.split(model.at_once)]
        return _plain(torch.cat(parts)), pixels


def _reconstruct(model: Autoencoder, x: Tensor, _: Question) -> Tensor:
    y: Tensor = model(x)
    return y


def _embed(model: Autoencoder, x: Tensor, _: Question) -> Tensor:
    return model.encode(x).mean


def _decode(model: Autoencoder, z: Tensor, question: Question) -> Tensor:
    return model.decode(z, labels(model, question.label, len(z))).mean


def _score(model: Autoencoder, x: Tensor, question: Question) -> Tensor:
    return (_reconstruct(model, x, question) - x).square().flatten(1).mean(1)


MODES: dict[str, Callable[[Autoencoder, Tensor, Question], Tensor]] = {
    "reconstruct": _reconstruct,
    "embed": _embed,
    "decode": _decode,
    "score": _score,
}
# mode -> the parameters beside it that have an effect
USED = dict.fromkeys(MODES, ("range",)) | {"decode": ("label",), "generate": ("n", "seed", "label")}


def _check(model: GenerativeModel, question: Question) -> None:
    """Checks the numbers of a question for new images."""
    most = max(1, min(MOST_GENERATED, MOST_VALUES // math.prod(model.image_shape)))
    if not 1 <= question.n <= most:
        raise UserError(f"n={question.n}: from 1 to {most} images in one call; ask more often for more")
    if not 0 <= question.seed < 2**63:
        raise UserError(f"seed={question.seed}: must be a number from 0 to 2**63 - 1")


def _generate(model: GenerativeModel, question: Question) -> NDArray[np.float32]:
    _check(model, question)
    sizes = [min(model.at_once, question.n - start) for start in range(0, question.n, model.at_once)]
    with _NOISE, torch.inference_mode(), seeded(question.seed):
        return _plain(torch.cat([model.sample(size, labels(model, question.label, size)) for size in sizes]))


def answer_from(model: Autoencoder, prior: str, codes: Tensor, question: Question) -> NDArray[np.float32]:
    """Draws images (n, C, H, W) from another prior, one of PRIORS, which is fitted to codes (N, D).

    Raises:
        UserError: a number is wrong, or there is no such prior.
    """
    _check(model, question)
    p_z = fitted(prior, codes, question.seed)
    with _NOISE, torch.inference_mode(), seeded(question.seed):
        z = p_z().sample((question.n,)).to(model.device)
        return _plain(torch.cat([model.decode(part).mean for part in z.split(model.at_once)]))


def answer_like(model: Autoencoder, inputs: Any, question: Question) -> NDArray[np.float32]:
    """Draws new images (n, C, H, W) like those that are given, from a distribution that is fitted to their codes.

    Raises:
        UserError: a number is wrong, or the images are not of the model's shape.
    """
    _check(model, question)
    x = read_images(inputs, model.image_shape, question.range).to(model.device)
    with _NOISE, torch.no_grad(), seeded(question.seed):
        return _plain(model.sample_like(x, question.n, question.seed))


def assumed_classes(model: Autoencoder, inputs: Any) -> list[int]:
    """Returns the class that a conditional model assumes of each image, that of its best bound; [] for other models."""
    x = read_images(inputs, model.image_shape).to(model.device)
    with torch.inference_mode():
        found = [model.classify(part) for part in x.split(model.at_once)]
    return [label for y in found if y is not None for label in y.tolist()]


def labels(model: GenerativeModel, label: int, n: int) -> Tensor | None:
    """Returns the class of n images as a model takes it, (n,); None for any class.

    Raises:
        UserError: the model knows no classes, or not this one.
    """
    if label == -1:
        return None
    if not model.conditional:
        raise UserError(f"label={label}: this model cannot be asked for a class; train model.name=cvae")
    if not 0 <= label < model.num_classes:
        raise UserError(f"label={label}: this model knows the classes 0 to {model.num_classes - 1}")
    return torch.full((n,), label, device=model.device)


def read_images(inputs: Any, image_shape: ImageShape, pixels: str = "auto") -> Tensor:
    """Reads the images of a request as (N, C, H, W), float32 in [0, 1].

    Args:
        pixels: their range, one of RANGES.

    Raises:
        UserError: their shape, type or range is wrong, or their range is not known.
    """
    return _read_images(inputs, image_shape, pixels)[0]


def _read_images(inputs: Any, image_shape: ImageShape, pixels: str) -> tuple[Tensor, str]:
    """Returns the images, and the range in which their pixels were read."""
    array = as_numbers(inputs, "images")
    if array.ndim == 3 and image_shape[0] == 1:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1:] != image_shape or not len(array):
        channels, *side = image_shape
        or_grey = f" or (N, {side[0]}, {side[1]})" if channels == 1 else ""
        last = array.shape[1:] == (*side, channels)
        hint = "; move the channels to the front" if last else "; resize them, or use a model of such images"
        raise UserError(
            f"images of shape {np.shape(inputs)}: this model takes (N, {channels}, {side[0]}, {side[1]}){or_grey}{hint}"
        )
    read = range_of(array, pixels)
    most, low, high = (1 if read == "unit" else 255), array.min(), array.max()
    allowed = ROUNDING if read == "unit" else 0
    if low < -allowed or high > most + allowed:
        told = f"range={pixels}: pixels run from 0 to {most}"
        if pixels == "auto":
            whole = low >= 0 and not (array % 1).any()
            remedy = "divide by 255, or send range=bytes" if whole else "bring them there"
            told = "integer pixels run from 0 to 255; divide by the value of white, and send numbers from 0 to 1"
            if most == 1:
                told = f"pixels that are no integers run from 0 to 1; {remedy}"
        raise UserError(f"images with pixels from {low:.7g} to {high + 0:.7g}: {told}")
    if most == 255 and array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise UserError("range=bytes: these pixels are no whole numbers; send range=unit, or leave it out")
    x = array.astype(np.float32)  # the rest happens in place, as large images take gigabytes
    x /= np.float32(most)
    return torch.from_numpy(np.clip(x, 0, 1, out=x)), read


def range_of(array: NDArray[Any], asked: str) -> str:
    """Returns the range in which the pixels of images are read: "unit" or "bytes".

    Integers are bytes, and floats and booleans lie in [0, 1]. Integers that are all 0 or 1 could be either, as
    JavaScript writes 1.0 as 1. They are refused: the same image must not be white in one batch and black in another.

    Raises:
        UserError: the range is unknown, or the pixels could be of either.
    """
    if asked not in RANGES:
        raise UserError(f"range={asked}: unknown; choose one of {', '.join(RANGES)}")
    if asked != "auto":
        return asked
    if array.dtype.kind not in "iu":
        return "unit"
    if array.size and array.min() >= 0 and array.max() == 1:
        raise UserError(
            "images whose pixels are all 0 or 1, as integers: is 1 white, or nearly black? "
            "Send range=unit if it is white, range=bytes if white is 255"
        )
    return "bytes"


def read_codes(inputs: Any, latent_dim: int) -> Tensor:
    """Reads the codes of a request as (N, D), float32.

    Raises:
        UserError: they have another shape, or are no finite numbers.
    """
    array = as_numbers(inputs, "codes")
    if array.ndim != 2 or array.shape[1] != latent_dim or not len(array):
        raise UserError(f"codes of shape {array.shape}: send codes of shape (N, {latent_dim})")
    if np.abs(array).max() > np.finfo(np.float32).max:
        raise UserError("codes: a value is too large; send numbers that fit into 32 bits")
    return torch.from_numpy(array.astype(np.float32))


def as_numbers(inputs: Any, what: str) -> NDArray[Any]:
    """Converts lists or arrays of finite numbers to an array.

    Raises:
        UserError: they are something else.
    """
    try:
        array = np.asarray(inputs)
    except ValueError:  # rows of different length
        raise UserError(f"{what}: they are not one array; bring all of them to the same shape") from None
    except OverflowError:  # an integer that no float holds
        raise UserError(f"{what}: a value is too large; send numbers that fit into 64 bits") from None
    if array.dtype.kind not in "biuf":
        raise UserError(f"{what}: {type(inputs).__name__} of {array.dtype} is no array of numbers; send numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{what}: {int((~np.isfinite(array)).sum())} values are NaN or infinite; send finite numbers")
    return array


def _plain(result: Tensor) -> NDArray[np.float32]:
    """Converts an answer to an array, and refuses one with values that are not finite; every answer passes here."""
    array: NDArray[np.float32] = result.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise UserError(
            "the model's answer is not finite: a number became too large on the way. Give values as they occur in "
            "training; if these are such, the weights are of no use: train the model again"
        )
    return array
