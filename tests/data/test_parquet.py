"""Tests images in Parquet files, written as the Hugging Face hub writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import aemodels
from aemodels.config import SettingsError, UserError
from aemodels.data import PreparedData, decoding, parquet, prepare
from aemodels.data.folder import FolderConfig
from aemodels.data.parquet import ParquetConfig, Spool
from aemodels.runtime.processes import ready
from aemodels.runtime.progress import finish
from aemodels.settings import Settings

NAMES = ("cat", "dog", "owl")


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def pictures(count: int, seed: int = 0, shape: tuple[int, ...] = (12, 12, 3)) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [encoded(rng.integers(0, 255, shape, dtype=np.uint8)) for _ in range(count)]


def numbers(count: int) -> list[int]:
    return [i % 3 for i in range(count)]


def shard(
    file: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any] | None = None,
    names: Sequence[str] = (),
    column: str = "image",
    plain: bool = False,
    group: int = 7,
) -> Path:
    """Writes a file as `datasets` does: a struct of bytes and path, the classes' names in the schema's metadata."""
    kind = pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = [image if plain else {"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    columns: dict[str, Any] = {column: pa.array(values, kind)}
    features: dict[str, Any] = {column: {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels)
        features["label"] = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def prepared(*paths: Path, **settings: Any) -> PreparedData:
    return finish(prepare(ParquetConfig.parse({"path": list(map(str, paths)), **settings})))


def contents(data: PreparedData, splits: Sequence[str] = ("train", "val", "test")) -> dict[bytes, str | None]:
    """Returns pixels -> name of the class."""
    found: dict[bytes, str | None] = {}
    for split in splits:
        images, labels = data.split(split)
        for i, image in enumerate(images):
            found[image.tobytes()] = None if labels is None else data.classes[labels[i]]
    return found


def pixels(image: bytes) -> bytes:
    return np.asarray(Image.open(BytesIO(image))).transpose(2, 0, 1).tobytes()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("column", ["image", "img"])
def test_images_and_the_names_of_their_classes(tmp_path: Path, plain: bool, column: str) -> None:
    images = pictures(40)
    file = shard(tmp_path / "all.parquet", images, numbers(40), NAMES, column, plain)
    data = prepared(file)
    assert (data.image_shape, data.classes, sum(data.sizes.values())) == ((3, 12, 12), NAMES, 40)
    assert contents(data) == {pixels(image): NAMES[i % 3] for i, image in enumerate(images)}
    assert prepared(tmp_path).digest == data.digest


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(None, ()), (["a", "c", "b", "a"] * 10, ("a", "b", "c")), ([3, 10, 3, 5] * 10, ("3", "5", "10")), ([1] * 40, ())],
)
def test_other_labels(tmp_path: Path, labels: list[Any] | None, classes: tuple[str, ...]) -> None:
    images = pictures(40)
    data = prepared(shard(tmp_path / "all.parquet", images, labels))
    assert data.classes == classes
    if classes and labels:
        assert contents(data) == {pixels(image): str(label) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/validation-00000-of-00001", "data/test-0"),
        ("train/0000", "train/0001", "validation/0000", "test/0000"),
        ("train_0", "train_1", "val_0", "test_0"),
    ],
)
def test_given_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    parts = [pictures(count, seed) for seed, count in enumerate((20, 10, 8, 9))]
    for name, images in zip(names, parts, strict=True):
        shard(tmp_path / f"{name}.parquet", images, numbers(len(images)), NAMES)
    data = prepared(tmp_path)
    assert data.sizes == {"train": 30, "val": 8, "test": 9}
    assert contents(data, ["val"]).keys() == set(map(pixels, parts[2]))
    assert contents(data, ["test"]).keys() == set(map(pixels, parts[3]))
    (tmp_path / f"{names[2]}.parquet").unlink()
    data = prepared(tmp_path)
    assert data.sizes["train"] + data.sizes["val"] == 30  # drawn from those for training alone
    assert contents(data, ["test"]).keys() == set(map(pixels, parts[3]))


def test_files_of_unclear_splits_are_refused(tmp_path: Path) -> None:
    images = pictures(12)
    train, other, test = (shard(tmp_path / f"{n}-0.parquet", images) for n in ("train", "unlabelled", "test"))
    with pytest.raises(UserError, match=r"unlabelled-0.parquet is beside .* has no split in its name; name each file"):
        prepared(train, other)
    with pytest.raises(UserError, match=r"has no split in its name"):
        prepared(other, test)
    validation = shard(tmp_path / "validation-0.parquet", images)
    with pytest.raises(UserError, match=r"no file is named train-..."):
        prepared(validation, test)
    assert contents(prepared(test), ["test"]) == contents(prepared(other), ["test"])


@pytest.mark.parametrize(
    "settings", [{"image_size": 16, "fit": "crop"}, {"image_size": [16, 24], "fit": "pad", "levels": 200}]
)
def test_it_is_what_a_folder_of_the_same_images_is(
    tmp_path: Path, make_images: Callable[..., Path], settings: dict[str, Any]
) -> None:
    folder = make_images(tmp_path / "folder", 30, (40, 28, 3))
    images = [file.read_bytes() for file in sorted(folder.iterdir())]
    file = shard(tmp_path / "all.parquet", images)
    ours, theirs = prepared(file, **settings), finish(prepare(FolderConfig.parse({"path": str(folder), **settings})))
    assert contents(ours) == contents(theirs)
    assert all(contents(ours, [split]).keys() == contents(theirs, [split]).keys() for split in ours.sizes)
    grey = prepared(file, image_size=16, channels="grey")
    assert grey.image_shape == (1, 16, 16)


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shard(tmp_path / "all.parquet", pictures(40), numbers(40), NAMES)
    alone = contents(prepared(file))
    for name, value in {"cores": lambda: 2, "WORTH_A_PROCESS": 1e-9, "BLOCK_SECONDS": 1e-9}.items():
        monkeypatch.setattr(decoding, name, value)
    monkeypatch.setattr(decoding, "ready", lambda some, _seconds: ready(some) if some else [])
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "other"))
    assert contents(prepared(file)) == alone


def test_few_images_are_in_memory_and_nothing_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    append = Spool.append

    def watched(self: Spool, images: Sequence[bytes | None]) -> None:
        taken.append(len(images))
        append(self, images)

    monkeypatch.setattr(Spool, "append", watched)
    monkeypatch.setattr(parquet, "AT_ONCE", 5)
    prepared(shard(tmp_path / "all.parquet", pictures(40), group=40))
    assert (max(taken), sum(taken)) == (5, 40)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"prepared"}


def test_unreadable_images_are_named_or_left_out(tmp_path: Path) -> None:
    images: list[bytes | None] = [*pictures(20), b"no image", None]
    one = shard(tmp_path / "a.parquet", pictures(20, seed=1))
    two = shard(tmp_path / "b.parquet", images)
    with pytest.raises(UserError, match=r"image .*b.parquet, row 2[01] cannot be read .* data.on_error=skip"):
        prepared(one, two)
    data = prepared(one, two, on_error="skip")
    assert sum(data.sizes.values()) == 40
    assert data.manifest()["skipped"] == [f"{two}, row 20", f"{two}, row 21"]


def test_images_of_several_kinds_or_sizes(tmp_path: Path) -> None:
    mixed = shard(tmp_path / "a.parquet", [*pictures(20), *pictures(1, shape=(12, 14, 3))])
    with pytest.raises(UserError, match=r"a.parquet, row \d+ is 1\dx12 pixels and .*; set data.image_size"):
        prepared(mixed)
    assert prepared(mixed, image_size=9).image_shape == (3, 9, 9)


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        (
            [0, 1, 2, None] * 10,
            NAMES,
            r"10 of 40 images have no label, some in .*a.parquet; give only files with labels",
        ),
        ([-1, 1, 2, 0] * 10, NAMES, r"10 of 40 images have no label"),
        ([0, 1, 2, 3] * 10, NAMES, r"labels must be whole numbers from 0 to 2, of 3 classes"),
        ([0.5] * 40, (), r"a label is 0.5; give whole numbers or names"),
        ([[1]] * 40, (), r"a label is \[1\]; give whole numbers or names"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: list[Any], names: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        prepared(shard(tmp_path / "a.parquet", pictures(40), labels, names))


def test_labels_that_nobody_knows_are_none(tmp_path: Path) -> None:
    assert prepared(shard(tmp_path / "a.parquet", pictures(40), [-1] * 40, NAMES)).classes == ()


def test_files_of_other_classes_are_refused(tmp_path: Path) -> None:
    one = shard(tmp_path / "a.parquet", pictures(20), numbers(20), NAMES)
    for two in (
        shard(tmp_path / "b.parquet", pictures(20), numbers(20), NAMES[::-1]),
        shard(tmp_path / "c.parquet", pictures(20)),
    ):
        with pytest.raises(UserError, match=r"a.parquet and .*.parquet have other classes; give files of one kind"):
            prepared(one, two)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none.parquet"):
        with pytest.raises(UserError, match=r"there is no .parquet file; give such a file, or the folder"):
            prepared(path)
    file = shard(tmp_path / "a.parquet", pictures(20))
    with pytest.raises(UserError, match=r"a.parquet is given twice"):
        prepared(file, tmp_path)
    with pytest.raises(UserError, match=r"there are no rows in it"):
        prepared(shard(tmp_path / "rows" / "none.parquet", []))
    with pytest.raises(UserError, match=r"has no column image or img, but photo"):
        prepared(shard(tmp_path / "other" / "a.parquet", pictures(20), column="photo"))
    with pytest.raises(UserError, match=r"its column image holds no contents of images"):
        prepared(shard(tmp_path / "paths" / "a.parquet", [None] * 20))
    pq.write_table(pa.table({"image": [[1, 2], [3, 4]]}), tmp_path / "lists.parquet")
    with pytest.raises(UserError, match=r"its column image is list<.*>; give image files as bytes, or as a struct"):
        prepared(tmp_path / "lists.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"data.path=.*a.parquet: cannot be read .* mend it, or fetch it again"):
        prepared(file)


def test_without_pyarrow_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shard(tmp_path / "a.parquet", pictures(20))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pyarrow reads such files, and is not installed; pip install pyarrow, or"):
        prepared(file)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    first = prepared(shard(tmp_path / "a.parquet", pictures(20)))
    assert prepared(shard(tmp_path / "a.parquet", pictures(20, seed=1))).digest != first.digest


def test_a_model_of_such_images(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.parquet", pictures(30), numbers(30), NAMES)
    with pytest.raises(SettingsError, match=r"registry.name"):
        Settings.parse({"data.name": "parquet", "data.path": str(file)}).require_name()
    assert aemodels.fit(file, "ae", latent_dim=2, training__epochs=1).classes == NAMES
    config = ParquetConfig(path=(file,))
    assert ParquetConfig.parse(config.flat()) == config
    assert config.title == "a.parquet"
