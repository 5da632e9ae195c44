"""Prepares raw images as uint8 arrays on disk, decoded once, with a manifest and a digest of their content.

N images of a split, each (C, H, W), F known factors. A prepared folder holds `train_images.npy` (N, C, H, W),
`train_labels.npy` (N,) where there are labels, `train_factors.npy` (N, F) where the factors are known, the same for val
and test, and `manifest.json`. It gets its name when it is whole, and its arrays are read-only from then on. What the
manifest says of files beside the images is written anew where that has changed. Evaluations keep features there.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from aemodels.config import Config, OwnWarning, UserError
from aemodels.data.decoding import Decoder, Skipped
from aemodels.data.notes import contradiction, sentences, some, too_dark, understood, unreadable
from aemodels.data.own_images import fetched
from aemodels.data.source import Beside, Factors, Images, Pixels, Rows, Source, SourceConfig, digest_of
from aemodels.data.split_arrays import SplitArrays, Written
from aemodels.data.splits import SPLITS, Draw
from aemodels.data.stored_arrays import ArrayRecord, StoredArray, damaged, stored_array
from aemodels.runtime.environment import cache_folder
from aemodels.runtime.files import at_path, write_whole
from aemodels.runtime.locks import locked, wait_for
from aemodels.runtime.progress import Progress, Steps

FORMAT = 1  # version of the folder's format; goes up when older ones cannot be read any more
MANIFEST = "manifest.json"


class Split(NamedTuple):
    """Holds one split's images and labels."""

    images: Pixels  # (N, C, H, W), memory-mapped, read-only
    labels: Rows | None  # (N,), in memory; None without labels


class StoredSplit(NamedTuple):
    """Holds one split's images, on disk, and what is known of them."""

    images: StoredArray  # (N, C, H, W)
    labels: Rows | None  # (N,), in memory; None without labels
    factors: Factors | None = None  # (N, F), in memory; None where they are not known


class PreparedData(Config):
    """Tells where the prepared arrays of a data set are and what they hold; it takes a few hundred bytes."""

    name: str
    path: Path
    """Names the folder of the arrays."""
    digest: str
    """Identifies the data by a hash, 32 hexadecimal digits, that is the same wherever the raw images lay.

    It covers pixels, labels, factors, splits, classes and settings."""
    image_shape: tuple[int, int, int]
    """Gives the shape of an image, (C, H, W)."""
    classes: tuple[str, ...]
    """Names the classes by label; it is empty without labels."""
    factors: tuple[str, ...] = ()
    """Names the known factors by column; it is empty where they are not known."""
    sizes: dict[str, int]
    """Counts the images by split: train, val, test."""
    binarize: str
    """Repeats `data.binarize`, which the batches apply; it is no part of the digest."""

    def __hash__(self) -> int:
        return hash((self.path, self.digest, self.binarize))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> Split:
        """Returns the arrays of train, val or test, checked once per process.

        Raises:
            UserError: they are damaged.
        """
        stored = self.stored(name)
        return Split(stored.images.mapped(), stored.labels)

    def stored(self, name: str) -> StoredSplit:
        """Returns the same arrays for a caller that reads the images piece by piece.

        Raises:
            UserError: they are damaged.
        """
        arrays = self.manifest()["arrays"]
        images = _stored_array(self.path, f"{name}_images.npy", arrays)
        labels = _stored_array(self.path, f"{name}_labels.npy", arrays).read() if self.classes else None
        factors = _stored_array(self.path, f"{name}_factors.npy", arrays).read() if self.factors else None
        return StoredSplit(images, labels, factors)

    def manifest(self) -> dict[str, Any]:
        """Returns where the data came from, images by split and class, what was skipped, and who prepared them."""
        return _read_manifest(self.path)

    def notes(self) -> list[str]:
        """Returns sentences that say what was understood of a person's images."""
        return sentences(self.manifest())


def prepare(config: SourceConfig) -> Steps[PreparedData]:
    """Decodes the images once; the same settings of the same files are found prepared.

    Raises:
        UserError: the raw images or the prepared arrays are missing, damaged, too few or do not fit together.
    """
    work = f"preparing {config.name}"
    yield Progress(work, 0, 1, "looking for the images")
    source = fetched(config)
    folder = cache_folder() / "prepared" / _key(config, source)
    if not folder.exists():
        yield from prepare_alone(folder, work, partial(_write, config, source, work))
    return (yield from opened(folder, config, work, source.beside))


def opened(folder: Path, config: SourceConfig, work: str, beside: Beside) -> Steps[PreparedData]:
    """Returns what is prepared in a folder, checked, and says what was understood.

    Args:
        beside: what lies beside the images now.
    """
    data = _open(folder, config)
    for split in SPLITS:
        data.stored(split)  # damage is found now, not after the training
    total = sum(data.sizes.values())
    manifest, doubts = _of_now(folder, data.manifest(), beside), []
    if getattr(config, "levels", 0) is None:  # a source of files whose white was not told
        doubts.append(too_dark(manifest.get("brightest", 255), "all", "set data.levels to that value"))
    for told in filter(None, [*doubts, manifest.get("doubt")]):
        warnings.warn(told, OwnWarning, stacklevel=2)
    yield Progress(work, total, total, ". ".join(sentences(manifest)))
    return data


def prepared_before(config: SourceConfig, digest: str) -> PreparedData | None:
    """Returns what was prepared under that digest, also when the raw images have changed since; None if nothing was."""
    for folder in sorted((cache_folder() / "prepared").glob(f"{config.name}-*")):
        with suppress(UserError, OSError):  # another folder may be damaged, which does not matter here
            if (folder / MANIFEST).exists() and (data := _open(folder, config)).digest == digest:
                return data
    return None


def _key(config: SourceConfig, source: Source) -> str:
    settings = config.model_dump(mode="json", exclude={"binarize"})
    return f"{config.name}-{digest_of([FORMAT, settings, source.fingerprint])[:16]}"


def _open(folder: Path, config: SourceConfig) -> PreparedData:
    manifest = _read_manifest(folder)
    kept = {field: manifest[field] for field in ("name", "digest", "image_shape", "classes", "sizes")}
    kept["factors"] = manifest.get("factors", ())
    return PreparedData.model_validate(kept | {"path": folder, "binarize": config.binarize})


# ---- opening


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        if manifest["digest"] != _digest(manifest):
            raise ValueError("it does not fit its own digest")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise damaged(file, str(error)) from None
    return manifest


def _of_now(folder: Path, manifest: dict[str, Any], beside: Beside) -> dict[str, Any]:
    """Returns a manifest with what lies beside the images now, and writes it where the file system allows that."""
    now = {"unused": dict(beside.unused), "notes": list(beside.notes)}
    if "counted" not in manifest or manifest["beside"] == now:
        return manifest
    manifest = manifest | {"beside": now}
    with suppress(UserError, OSError):  # what another user has prepared may only be read
        if lock := locked(folder.with_suffix(".lock")):
            try:
                write_whole(folder / MANIFEST, partial(_write_manifest, manifest))
            finally:
                lock.release()
    return manifest


def _write_manifest(manifest: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(manifest, indent=1))


def _stored_array(folder: Path, name: str, arrays: dict[str, Any]) -> StoredArray:
    record = arrays[name]
    return stored_array(folder / name, ArrayRecord(record["dtype"], tuple(record["shape"]), tuple(record["blocks"])))


def _digest(manifest: dict[str, Any]) -> str:
    content = ["format", "name", "settings", "image_shape", "classes", "sizes", "arrays"]
    content += ["factors"] if "factors" in manifest else []  # so that folders from before there were factors stay valid
    return digest_of({field: manifest[field] for field in content})


# ---- preparing


def prepare_alone(folder: Path, work: str, write: Callable[[Path], Steps[None]]) -> Steps[None]:
    """Lets one process prepare, while others wait and find it done. A killed one leaves a `.partial` folder.

    Args:
        write: what fills a folder.
    """
    root, unfinished = folder.parent, folder.with_suffix(".partial")
    with at_path():
        root.mkdir(parents=True, exist_ok=True)
        waiting = Progress(work, 0, 1, "waiting for another process that prepares the same")
        lock = yield from wait_for(folder.with_suffix(".lock"), waiting)
        try:
            if not folder.exists():
                _sweep(root)
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                yield from write(unfinished)
                unfinished.rename(folder)  # the moment from which it counts as finished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            lock.release()


def _sweep(root: Path) -> None:
    """Deletes what killed processes left; the folder that a living process writes is locked."""
    for unfinished in root.glob("*.partial"):
        if lock := locked(unfinished.with_suffix(".lock")):
            shutil.rmtree(unfinished, ignore_errors=True)
            lock.release()


def _write(config: SourceConfig, source: Source, work: str, folder: Path) -> Steps[None]:
    with closing(Decoder(_read(config, source))) as decoder:
        yield from _write_decoded(config, source, decoder, folder, work)


def _write_decoded(config: SourceConfig, source: Source, decoder: Decoder, folder: Path, work: str) -> Steps[None]:
    images = decoder.images
    draw = Draw(images, config.held_out(), config.split_seed)
    skipped: list[Skipped] = []
    done = 0
    with closing(SplitArrays(folder, images)) as arrays:
        for block in decoder.blocks(draw.order):
            arrays.append(block)
            skipped += block.skipped
            done += block.done
            yield Progress(work, done, images.count, unreadable(skipped) if skipped else "")
        drawn = draw.splits(arrays.rows, arrays.keys)
        written = arrays.finish(drawn.splits)
    _check_all_there(written, skipped)
    factors = images.factor_names if images.factors is not None else None
    hashed = hashed_part(config, written.image_shape, written.classes, written.arrays, factors)
    about = {
        "source": source.origin,
        "images_by_class": written.images_by_class,
        "skipped": sorted(file for file, _ in skipped),
        "brightest": written.brightest,
        "doubt": contradiction(drawn.two_labels),
        "beside": source.beside._asdict(),
    }
    finish_folder(folder, hashed | about | understood(images, written, draw.shares, sorted(skipped), drawn))


def _check_all_there(written: Written, skipped: list[Skipped]) -> None:
    for split, size in written.sizes.items():
        if size == 0 and skipped and not written.unknown:
            raise UserError(
                f"data.on_error=skip: no image that belongs to {split} can be used ({unreadable(skipped)}); "
                "repair or remove these files, and other images are drawn"
            )
        if size == 0:
            known = (
                f"the classes of training are {some(written.classes)}" if written.classes else "there are no classes"
            )
            raise UserError(
                f"data: no image is left for {split}, without copies of given images and without classes that have no "
                f"training images ({some(written.unknown) or 'none'}; {known}); add images, or name the folders alike"
            )


def _read(config: SourceConfig, source: Source) -> Images:
    try:
        return source.read()
    except PermissionError as error:
        raise UserError(
            f"data.name={config.name}: {', '.join(source.origin)} cannot be read ({error}); give read permission, "
            "or delete it, so that it is fetched again"
        ) from None


def hashed_part(
    config: SourceConfig,
    image_shape: tuple[int, int, int],
    classes: tuple[str, ...],
    arrays: Mapping[str, ArrayRecord],
    factors: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Returns the part of a manifest that the digest covers."""
    return {
        "format": FORMAT,
        "name": config.name,
        "settings": config.model_dump(mode="json", exclude=set(config.not_in_digest)),
        "image_shape": image_shape,
        "classes": classes,
        "sizes": {split: arrays[f"{split}_images.npy"].shape[0] for split in SPLITS},
        "arrays": {name: record._asdict() for name, record in arrays.items()},
    } | ({"factors": factors} if factors is not None else {})


def finish_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, after which the folder only waits for its name."""
    # It is written without fsync, as the checks at opening notice what a power cut took.
    own = {"digest": _digest(manifest), "created_by": f"aemodels {own_version()}"}
    _write_manifest(manifest | own, folder / MANIFEST)
    for file in folder.iterdir():
        if file.stat().st_mode & 0o222:  # another user's file that is linked here is read-only already
            file.chmod(0o444)


def own_version() -> str:
    """Returns the release of this project that runs."""
    try:
        return version("aemodels")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "from a checkout"
