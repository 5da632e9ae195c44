"""Defines a data source: its settings, the fingerprint of its raw files, and its images, decoded one at a time.

N images, each (C, H, W): C channels (1 grey, 3 colour), H x W pixels. F known factors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator, Field, model_validator

from aemodels.config import NAME, Config, UserError
from aemodels.data.paths import WholePaths
from aemodels.data.resizing import Size, fitted
from aemodels.runtime.hashes import hash_of
from aemodels.texts import Typed

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]  # numbers of images in the source's own order
Factors = NDArray[np.float64]  # (N, F): what each image was made from
DRAWN_BY = "pixels, 1"  # how images are split by content; changes with the rule, so that they are prepared anew
SMALLEST_SIDE = 8  # pixels; the trunks halve the side up to three times


def _checked_size(value: Any) -> Any:
    """Reads a side, or [height, width], also from texts; two equal sides are one."""
    if value is None:
        return None
    try:
        given = json.loads(value) if isinstance(value, str) else value
        read = [int(str(side)) for side in (given if isinstance(given, list | tuple) else [given])]
    except ValueError:
        read = []
    if len(read) not in (1, 2) or min(read) < SMALLEST_SIDE:
        raise ValueError(f"must be at least {SMALLEST_SIDE}: give one side, or [height, width], such as [48, 96]")
    return read[0] if read[0] == read[-1] else tuple(read)


ImageSize = Annotated[int | Size, BeforeValidator(_checked_size), Typed("side or [height, width]")]


def sides_of(size: int | Size) -> Size:
    """Returns the height and width that are meant by one side, or by both."""
    return (size, size) if isinstance(size, int) else size


class SourceConfig(Config):
    """Holds the settings of every source; a new source is a subclass with a `name` and a `fetch`, in the union."""

    name: str
    image_size: ImageSize | None = None
    """Sets the side of square images in pixels, or [height, width]; null keeps the source's own size."""
    binarize: Literal["none", "threshold", "static", "dynamic"] = "none"
    """Chooses how training turns grey into black and white: not at all, or in one of three ways.

    It takes a threshold at 0.5, or coin flips with the grey value as probability, drawn once (static) or at every pass
    (dynamic)."""
    val_fraction: float = Field(0.1, gt=0, lt=1)
    """Sets the share of the images (0 to 1) that is held out for early stopping, the search and the gate.

    The source's own test split does not count."""
    split_seed: int = Field(0, ge=0)
    """Seeds the draw of training, validation and test images."""

    # These fields say nothing about the prepared pixels: they tell where the pixels came from, or what is done to them
    # later. `image_size` is covered by the shape of the images.
    not_in_digest: ClassVar[frozenset[str]] = frozenset({"binarize", "image_size"})
    # These fields draw validation and test images.
    in_splits: ClassVar[frozenset[str]] = frozenset({"val_fraction", "split_seed"})
    # These fields give an image of the same files other pixels, or another class; and so another split, where that
    # follows from them. A trained model has the shape that `image_size` gives.
    in_reading: ClassVar[frozenset[str]] = frozenset()

    @property
    def title(self) -> str:
        """Names the images for a person."""
        return self.name

    @property
    def listed_name(self) -> str:
        """Returns the name under which MLflow lists runs that register no model: the title, as far as it can be one."""
        shown = re.sub(r"[^A-Za-z0-9._-]+", "-", self.title)
        return shown if re.fullmatch(NAME, shown) else self.name

    def fetch(self) -> Source:
        """Finds the raw files (or downloads them) without decoding any.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        raise NotImplementedError

    def held_out(self) -> dict[str, float]:
        """Returns split -> its share of the images that are not in the source's own test split."""
        return {"val": self.val_fraction}


class WithoutTestConfig(SourceConfig):
    """Provides the base of sources that have no test split of their own."""

    val_fraction: float = Field(0.15, gt=0, lt=1)
    """Sets the share of the images (0 to 1) that is held out for early stopping, the search and the gate."""
    test_fraction: float = Field(0.15, gt=0, lt=1)
    """Sets the share of the images (0 to 1) that is held out for the final evaluation."""

    in_splits: ClassVar[frozenset[str]] = SourceConfig.in_splits | {"test_fraction"}

    @model_validator(mode="after")
    def _some_left_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction={self.val_fraction} and test_fraction={self.test_fraction} leave nothing to train on; "
                "their sum has to be below 1"
            )
        return self

    def held_out(self) -> dict[str, float]:
        return {"test": self.test_fraction, "val": self.val_fraction}


class OwnImagesConfig(WithoutTestConfig):
    """Provides the base of sources that read a person's own images; a model of them needs a name."""

    path: WholePaths
    """Names the files or folders of the images."""


class UnreadableError(UserError):
    """One image cannot be decoded."""

    def __init__(self, file: str, reason: str, remedy: str, needed_megapixels: int | None = None) -> None:
        super().__init__(f"data: image {file} cannot be read ({reason}); {remedy}")
        self.file, self.reason, self.remedy = file, reason, remedy
        self.needed_megapixels = needed_megapixels  # the data.largest_megapixels that reads it, if it is only too large


@dataclass(frozen=True)
class Images:
    """Holds the images of a source in its own order.

    `decode` makes an image (C, H, W) of a row or, where the source has `files`, of the row's file. Other processes call
    it too, so it can be pickled. It may raise `UnreadableError`.
    """

    count: int
    shape: tuple[int, int, int]
    decode: Callable[[Any], Pixels]
    labels: Rows | None = None  # (N,), numbers of classes
    classes: tuple[str, ...] = ()
    own_test: int = 0  # the last so many images are the source's own test split
    skip_unreadable: bool = False
    files: Sequence[Any] | None = None  # N, paths or `ImageBytes`
    factors: Factors | None = None  # (N, F), where they are known
    factor_names: tuple[str, ...] = ()  # F
    by_content: bool = False  # an image's split follows from its pixels (C, H, W), else from the source's order
    given: Mapping[str, Rows] = field(default_factory=dict)  # val or test -> the rows that a person gave for it
    grey_if_all: bool = False  # keep one channel if all images turn out grey

    def item(self, row: int) -> Any:
        """Returns what `decode` takes for a row."""
        return row if self.files is None else self.files[row]

    def load(self, row: int) -> Pixels:
        return self.decode(self.item(row))


class Beside(NamedTuple):
    """Holds what is known of raw files before any is read, and may change while the images stay what they are."""

    unused: Mapping[str, int]  # kind of file -> how many files are not read
    notes: tuple[str, ...]  # sentences that say what was understood of the names of files and folders


class Source(NamedTuple):
    """Holds what `fetch` found."""

    origin: tuple[str, ...]  # folders, files or a package, for people to read
    fingerprint: str  # changes with the raw files that are read, and is cheap to compute
    read: Callable[[], Images]  # the work that can be left out where the source is prepared already
    beside: Beside = Beside({}, ())


class FileStamp(NamedTuple):
    """Holds what shows that a file was changed, without reading it."""

    name: str
    bytes: int
    mtime_ns: int


def fingerprint(stamps: Iterable[FileStamp]) -> str:
    return digest_of(sorted(stamps))


def fingerprint_by_content(stamps: Iterable[FileStamp]) -> str:
    """Returns the fingerprint of files whose images are split by their pixels."""
    return digest_of([DRAWN_BY, sorted(stamps)])


def digest_of(content: Any) -> str:
    """Returns a hash of anything that JSON can hold, as 32 hexadecimal digits."""
    return hash_of(content)[:32]


def array_images(
    pixels: Pixels, size: int | Size | None, labels: Rows | None, classes: tuple[str, ...], own_test: int = 0
) -> Images:
    """Returns images that are in memory already, (N, C, H, W), and bring themselves to `size` when they are read."""
    count, channels, *own = pixels.shape
    height, width = (own[0], own[1]) if size is None else sides_of(size)

    def decode(row: int) -> Pixels:
        image: Pixels = pixels[row]
        if image.shape[1:] == (height, width):
            return image
        return np.stack([np.asarray(fitted(Image.fromarray(plane), (height, width))) for plane in image])

    return Images(count, (channels, height, width), decode, labels, classes, own_test)


def split_rows(images: Images, shares: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Returns split -> rows, in a seeded random order, with every class in proportion in each split.

    A source's own test split, and what a person gave for a split, stays as it is and in its order.

    Raises:
        UserError: too few images for a split to have any.
    """
    rng = np.random.default_rng(seed)
    splits = dict(images.given)
    if images.own_test:
        splits["test"] = np.arange(images.count - images.own_test, images.count)
    rows = np.setdiff1d(np.arange(images.count), np.concatenate([np.empty(0, np.int64), *splits.values()]))
    count = len(rows)
    drawn = {split: share for split, share in shares.items() if split not in splits}
    sizes = {split: math.floor(share * count + 1e-9) for split, share in drawn.items()}
    if count == 0 or min(sizes.values(), default=1) == 0:
        raise too_few(count, drawn or shares)
    rows = rng.permutation(rows)
    if images.labels is not None:
        rows = _evenly_mixed(rows, images.labels[rows], rng)
    for split, size in sizes.items():
        splits[split], rows = rng.permutation(rows[:size]), rows[size:]
    splits["train"] = rng.permutation(rows)
    return {split: splits[split] for split in ("train", "val", "test")}


def too_few(count: int, shares: Mapping[str, float]) -> UserError:
    needed = math.ceil(1 / min(shares.values()) - 1e-9)
    asked = " and ".join(f"data.{split}_fraction={share}" for split, share in shares.items())
    return UserError(
        f"data: {count} images are too few for {asked}: at least {needed} are needed; add images or raise the share"
    )


def _evenly_mixed(rows: Rows, labels: Rows, rng: np.random.Generator) -> Rows:
    """Returns the rows in an order of which every stretch holds the classes in proportion.

    The k-th of n images of a class stands at (k + u) / n, with its own u in [0, 1) for each class.
    """
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    sorted_labels = labels[order]
    rank = np.arange(len(rows)) - starts[sorted_labels]
    place = (rank + rng.random(len(sizes))[sorted_labels]) / sizes[sorted_labels]
    return rows[order][np.argsort(place, kind="stable")]
