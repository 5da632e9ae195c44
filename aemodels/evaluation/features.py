"""Makes the features in which images are compared (Frechet distance and others), the same for every data set.

They are the means and the spreads of three maps of a network that has learned a thousand kinds of photos. They order
sets of digits and drawings too (benchmarks/judge). Nothing is trained for them, so they are the same on every machine.
Images with labels also get a classifier: a logistic regression from the features to the classes, fitted once and kept
beside the prepared images.

N images, F features, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from aemodels.config import UserError
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.nn.efficientnet import STAGES, EfficientNetLite0, efficientnet, pooled, weights_hash
from aemodels.runtime.files import write_whole
from aemodels.runtime.locks import wait_for
from aemodels.runtime.progress import Progress, Steps

RECIPE = 2  # goes up with any change of the features or of the classifier; files of older recipes are not read
SIDE = 48  # pixels, to which images are brought
FIRST, LAST = 3, 5  # the maps of the network whose means and spreads are taken
DIMENSIONS = 2 * sum(stage.outputs for stage in STAGES[FIRST - 1 : LAST])  # F
EMBEDDED_NUMBERS = 2**22  # pixels that are embedded between two reports of progress, at most

FITTED_IMAGES = 5_000  # training images that the classifier is fitted to, at most
TESTED_IMAGES = 1_000  # test images that its accuracy is measured on, at most
STRENGTH = 0.1  # inverse of the penalty of its weights; 0.01 to 1 classify as well
ITERATIONS = 200  # at most, which takes a minute with a thousand classes
NEVER = -1e4  # logit of a class of which no training image was seen


class Features:
    """Maps images to features, and the features of labelled images to probabilities of their classes."""

    dimensions = DIMENSIONS

    def __init__(self, hash: str, head: nn.Linear | None = None, accuracy: float | None = None) -> None:
        self.hash = hash
        self.head = head  # from features to logits; None for data without labels
        self.accuracy = accuracy  # on test images
        self._real: dict[tuple[str, str, int], Tensor] = {}

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to features (N, F), on the images' device.

        They are divided by the root of F, so a squared distance is a mean over the features.
        """
        return pooled(_network(images.device), images, SIDE, FIRST, LAST) / math.sqrt(DIMENSIONS)

    @torch.no_grad()
    def classify(self, embedded: Tensor) -> Tensor | None:
        """Maps features (N, F) to the classes' probabilities (N, classes); None for data without labels."""
        if self.head is None:
            return None
        logits: Tensor = self.head.to(embedded.device)(embedded)
        return logits.softmax(-1)

    def probabilities(self, images: Tensor) -> Tensor | None:
        """Maps images (N, C, H, W) to the classes' probabilities (N, classes); None for data without labels."""
        return self.classify(self.embed(images))

    def of_split(self, data: PreparedData, split: str, count: int, device: torch.device) -> Tensor:
        """Returns the features (count, F) of a split's first images, never binarised, computed once and kept."""
        key = (data.digest, split, count)
        if key not in self._real:
            self._real[key] = self._of_split(data, split, count, device)
        return self._real[key]

    def _of_split(self, data: PreparedData, split: str, count: int, device: torch.device) -> Tensor:
        """Reads the features from beside the prepared images, or makes them, and keeps them there if it can."""
        path = data.path / f"features_{_recipe_hash()}_{split}_{count}.npy"
        with suppress(OSError, ValueError, EOFError):
            kept = torch.from_numpy(np.load(path))
            if kept.shape == (count, DIMENSIONS):
                return kept
        batches = Batches(_grey(data), split, device, count)
        found = torch.cat([self.embed(batch.x).cpu() for batch in batches.in_order(batches.at_once)])
        with suppress(OSError, UserError), FileLock(path.with_suffix(".lock")):
            write_whole(path, partial(_write, found))
        return found


def features_of(data: PreparedData, device: torch.device) -> Steps[Features]:
    """Returns the features, with the classifier of a data set that has labels.

    It is fitted once, on the device. Later runs on any device read the same file; a damaged one is made again.
    """
    if data.num_classes < 2:
        return Features(features_hash(data))
    if (known := _load(data)) is not None:
        return known
    work = "fitting the classifier"
    waiting = Progress(work, 0, 1, "waiting for another process that fits the same")
    try:
        lock = yield from wait_for(data.path / "classifier.lock", waiting)
    except OSError:  # the cache may only be read, so nothing is kept
        return (yield from _fit(data, device, work))
    try:
        features = _load(data)
        if features is None:
            features = yield from _fit(data, device, work)
            _save(data, features)
    finally:
        lock.release()
    return features


@lru_cache(maxsize=2)
def _network(device: torch.device) -> EfficientNetLite0:
    return efficientnet().to(device)


def features_hash(data: PreparedData) -> str:
    """Identifies the features, and the classifier of labelled data, by what they are made from.

    So it is known before they are made, and the same on processors whose last bits differ.
    """
    return _hash((_recipe_hash() + data.digest).encode()) if data.num_classes > 1 else _recipe_hash()


def _recipe_hash() -> str:
    """Identifies the features themselves, which are the same for all data sets."""
    return _hash(f"{RECIPE} {SIDE} {FIRST} {LAST} {weights_hash()}".encode())


def _grey(data: PreparedData) -> PreparedData:
    """Returns the same data with the pixels as they are, whatever the models see."""
    return data.model_copy(update={"binarize": "none"})


def _write(array: Tensor, path: Path) -> None:
    with path.open("wb") as file:  # to a name, numpy may add an ending
        np.save(file, array.numpy())


# ---------------------------------------------------------------- the classifier


def _fit(data: PreparedData, device: torch.device, work: str) -> Steps[Features]:
    """Fits the classifier to the features of training images, and measures it on test images.

    It is done in one thread, since the last bits of features differ with the number of threads.
    """
    features = Features(features_hash(data))
    known, labels = yield from _embedded(features, data, "train", FITTED_IMAGES, device, work)
    yield Progress(work, 0, 1, f"{len(known):,} images of {data.num_classes:,} classes")
    features.head = _logistic_regression(known, labels, data.num_classes)
    unseen, truth = yield from _embedded(features, data, "test", TESTED_IMAGES, device, work)
    probabilities = features.classify(unseen)
    assert probabilities is not None
    features.accuracy = float((probabilities.argmax(1) == truth).double().mean())
    yield Progress(work, 1, 1, f"accuracy {features.accuracy:.3f}")
    return features


def _embedded(
    features: Features, data: PreparedData, split: str, most: int, device: torch.device, work: str
) -> Steps[tuple[Tensor, Tensor]]:
    """Returns features (N, F) and labels (N,) of the first images of a split, on the CPU."""
    batches = Batches(_grey(data), split, device, most)
    assert batches.labels is not None
    size = max(1, min(batches.at_once, EMBEDDED_NUMBERS // SIDE**2))
    found: list[Tensor] = []
    for batch in batches.in_order(size):
        yield Progress(work, size * len(found), len(batches), f"{split} images")
        with _one_thread():
            found.append(features.embed(batch.x).cpu())
    return torch.cat(found), batches.labels.cpu()


def _logistic_regression(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """Fits a logistic regression on features (N, F), each brought to mean 0 and spread 1, as one linear layer."""
    from sklearn.linear_model import LogisticRegression

    x = features.double()
    mean, spread = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    head = nn.Linear(x.shape[1], classes)
    weight = torch.zeros(classes, x.shape[1], dtype=torch.double)
    bias = torch.full((classes,), NEVER, dtype=torch.double)
    there = labels.unique()
    bias[there] = 0
    if len(there) > 1:
        with _one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it stopped at `max_iter`, which is meant
            fitted = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS).fit(
                ((x - mean) / spread).numpy(), labels.numpy()
            )
        found, constant = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
        rows = there if len(there) > 2 else there[1:]  # of two classes the first has logit 0
        weight[rows] = found / spread
        bias[rows] = constant - weight[rows] @ mean
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head.requires_grad_(False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes in one thread within the block, where others would give other last bits."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------- the file


def _load(data: PreparedData) -> Features | None:
    """Returns the saved classifier, on the CPU; None where there is none, or a damaged one."""
    weights, card = _files(data.path)
    try:
        meta, content = json.loads(card.read_text()), weights.read_bytes()
        if (meta["hash"], meta["content"]) != (features_hash(data), _hash(content)):
            return None
        head = nn.Linear(DIMENSIONS, data.num_classes).requires_grad_(False)
        head.load_state_dict(load(content))
        return Features(meta["hash"], head, meta["accuracy"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None


def _save(data: PreparedData, features: Features) -> None:
    """Writes each file whole or not at all; the card holds the hash of the weights, so they cannot be mixed up."""
    assert features.head is not None
    weights, card = _files(data.path)
    content = save(features.head.cpu().state_dict())
    meta = {"hash": features.hash, "content": _hash(content), "accuracy": features.accuracy}
    for path, written in ((weights, content), (card, json.dumps(meta, indent=1).encode())):
        write_whole(path, partial(Path.write_bytes, data=written))


def _files(folder: Path) -> tuple[Path, Path]:
    """Returns the paths of the weights and of their card."""
    return folder / f"classifier_{RECIPE}.safetensors", folder / f"classifier_{RECIPE}.json"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
