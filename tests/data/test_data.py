"""Tests the settings of sources, the splits, and that images are prepared once, whole and checked."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from aemodels.config import SettingsError, UserError
from aemodels.data import DataConfig, PreparedData, prepare, stored_arrays
from aemodels.data.arrays import ArraysConfig
from aemodels.data.digits import DigitsConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.mnist import Cifar10Config, MnistConfig
from aemodels.data.parquet import ParquetConfig
from aemodels.data.source import Images, SourceConfig, split_rows
from aemodels.data.sprites import SpritesConfig
from aemodels.runtime.progress import finish


def contents(data: PreparedData) -> dict[str, Any]:
    return {name: [None if a is None else np.array(a) for a in data.split(name)] for name in ("train", "val", "test")}


# ---- the union and its settings


def test_union_reads_every_source_by_name() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(DataConfig)
    for name in ("digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "sprites"):
        assert adapter.validate_python({"name": name}).name == name
    for name in ("folder", "arrays", "parquet"):
        assert adapter.validate_python({"name": name, "path": "/a/../x"}).path == (Path("/x"),)
    assert adapter.validate_python({"name": "folder", "path": "~/x"}).path == (Path.home() / "x",)


def test_settings_are_explained() -> None:
    for config in (DigitsConfig, MnistConfig, Cifar10Config, FolderConfig, ArraysConfig, ParquetConfig, SpritesConfig):
        assert all(f.description for name, f in config.model_fields.items() if name != "name")


def test_each_source_says_which_settings_split_and_read() -> None:
    for config in (DigitsConfig, MnistConfig, Cifar10Config, FolderConfig, ArraysConfig, ParquetConfig, SpritesConfig):
        draws = {name for name in config.model_fields if name.endswith(("_fraction", "_seed"))}
        assert draws <= config.in_splits <= config.model_fields.keys()
        assert config.in_reading <= config.model_fields.keys() - config.in_splits
    assert FolderConfig.in_splits - ParquetConfig.in_splits == {"val_path", "test_path"}
    assert (FolderConfig.in_reading, ArraysConfig.in_reading) == ({"fit", "levels", "channels", "labels"}, set())


def test_paths_survive_flat_and_json(tmp_path: Path) -> None:
    config = FolderConfig(path=(tmp_path / "a", tmp_path / "b"))
    assert FolderConfig.parse(config.flat()) == config
    assert FolderConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 7}, "image_size=7"),
        ({"val_fraction": 0}, "val_fraction=0"),
        ({"val_fraction": 0.5, "test_fraction": 0.6}, "leave nothing to train on"),
        ({"binarize": "sometimes"}, "binarize=sometimes"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DigitsConfig.parse(settings)


def test_importing_the_settings_imports_no_torch() -> None:
    code = "import sys, aemodels.data; sys.exit(any(m in sys.modules for m in ('torch', 'torchvision', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- splits


def test_splits_are_disjoint_complete_seeded_and_stratified() -> None:
    labels = np.repeat([0, 1, 2], [200, 70, 30])
    images = Images(300, (1, 8, 8), lambda row: np.zeros((1, 8, 8), np.uint8), labels, ("a", "b", "c"))
    splits = split_rows(images, {"test": 0.1, "val": 0.2}, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 210, "val": 60, "test": 30}
    assert sorted(np.concatenate(list(splits.values()))) == list(range(300))
    for name, share in (("test", 0.1), ("val", 0.2)):
        assert np.abs(np.bincount(labels[splits[name]]) - share * np.array([200, 70, 30])).max() <= 1
    first = labels[splits["train"]][:30]
    assert len(set(first)) == 3, "a split's first images have to be a random draw"
    again, other = (split_rows(images, {"test": 0.1, "val": 0.2}, seed=seed) for seed in (0, 1))
    assert all(np.array_equal(splits[name], again[name]) for name in splits)
    assert not np.array_equal(splits["test"], other["test"])


def test_own_test_split_is_kept_in_order() -> None:
    images = Images(100, (1, 8, 8), lambda row: np.zeros((1, 8, 8), np.uint8), own_test=40)
    splits = split_rows(images, {"val": 0.1}, seed=0)
    assert splits["test"].tolist() == list(range(60, 100))
    assert sorted([*splits["train"], *splits["val"]]) == list(range(60))


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"val": range(10, 30)}, {"train": 64, "val": 20, "test": 16}),
        ({"test": range(70, 100)}, {"train": 56, "val": 14, "test": 30}),
        ({"val": [3, 1], "test": [2]}, {"train": 97, "val": 2, "test": 1}),
    ],
)
def test_given_splits_are_kept_and_the_others_are_drawn(given: dict[str, Any], sizes: dict[str, int]) -> None:
    rows = {split: np.array(several) for split, several in given.items()}
    images = Images(100, (1, 8, 8), lambda row: np.zeros((1, 8, 8), np.uint8), np.arange(100) % 3, given=rows)
    splits = split_rows(images, {"test": 0.2, "val": 0.2}, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == sizes
    assert sorted(np.concatenate(list(splits.values()))) == list(range(100))
    assert all(splits[split].tolist() == rows[split].tolist() for split in rows)
    with pytest.raises(UserError, match="0 images are too few"):
        split_rows(replace(images, given={"val": np.arange(50), "test": np.arange(50, 100)}), {"val": 0.1}, seed=0)


# ---- arrays


def test_arrays_with_splits_of_their_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 12), dtype=np.uint8)
    parts = {"images": pixels[:40], "val_images": pixels[40:50], "test_images": pixels[50:]}
    for labels in (None, np.arange(60) % 3):
        if labels is not None:
            parts |= {"labels": labels[:40], "val_labels": labels[40:50], "test_labels": labels[50:]}
        np.savez(tmp_path / "own.npz", **parts)
        data = finish(prepare(ArraysConfig(path=(tmp_path / "own.npz",))))
        assert data.sizes == {"train": 40, "val": 10, "test": 10}
        for split, rows in (("val", slice(40, 50)), ("test", slice(50, 60))):
            assert np.array_equal(data.split(split).images[:, 0], pixels[rows])
            if labels is not None:
                assert np.array_equal(data.split(split).labels, labels[rows])
    np.savez(tmp_path / "val.npz", images=pixels[:40], val_images=pixels[40:])
    sizes = finish(prepare(ArraysConfig(path=(tmp_path / "val.npz",)))).sizes
    assert (sizes["val"], sizes["train"] + sizes["test"]) == (20, 40)
    assert 0 < sizes["test"] < 20
    np.savez(tmp_path / "bad.npz", images=pixels, val_images=pixels, val_labels=np.zeros(60, int))
    with pytest.raises(UserError, match="give val_labels exactly if there are both val_images and labels"):
        finish(prepare(ArraysConfig(path=(tmp_path / "bad.npz",))))


# ---- preparing


def test_digits() -> None:
    data = finish(prepare(DigitsConfig()))
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    assert sum(data.sizes.values()) == 1797
    images, labels = data.split("train")
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    assert labels is not None
    assert images.dtype == np.uint8
    assert (len(images), labels.dtype) == (len(labels), np.int64)
    assert images.max() == 255
    assert PreparedData.model_validate_json(data.model_dump_json()) == data
    assert pickle.loads(pickle.dumps(data)) == data
    assert finish(prepare(DigitsConfig(image_size=None))).image_shape == (1, 8, 8)


# ---- the same data is prepared once


def test_second_time_nothing_is_decoded(
    animals: Path, monkeypatch: pytest.MonkeyPatch, prepared_folders: Callable[[], list[Path]]
) -> None:
    first = finish(prepare(FolderConfig(path=animals)))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    second = finish(prepare(FolderConfig(path=animals, binarize="dynamic")))
    assert second == first.model_copy(update={"binarize": "dynamic"})
    assert len(prepared_folders()) == 1


@pytest.mark.parametrize("change", ["pixels", "added", "removed", "renamed", "touched"])
def test_changed_source_is_noticed(animals: Path, change: str, prepared_folders: Callable[[], list[Path]]) -> None:
    first = finish(prepare(FolderConfig(path=animals)))
    file = animals / "cat" / "003.png"
    if change == "pixels":
        Image.new("RGB", (20, 20)).save(file)
    elif change == "added":
        Image.new("RGB", (20, 20)).save(file.with_name("new.png"))
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(animals / "dog" / "new.png")
    else:
        os.utime(file)
    second = finish(prepare(FolderConfig(path=animals)))
    assert len(prepared_folders()) == 2
    assert (second.digest == first.digest) == (change == "touched")


def test_copied_folder_has_the_same_digest(animals: Path, tmp_path: Path) -> None:
    first = finish(prepare(FolderConfig(path=animals)))
    shutil.copytree(animals, tmp_path / "elsewhere", copy_function=shutil.copy)  # with new times
    second = finish(prepare(FolderConfig(path=tmp_path / "elsewhere", on_error="skip")))
    assert second.path != first.path
    assert second.digest == first.digest
    np.testing.assert_equal(contents(second), contents(first))


def test_digest_covers_labels_and_settings(animals: Path) -> None:
    configs = [FolderConfig(path=animals, **x) for x in ({}, {"split_seed": 1}, {"image_size": 16}, {"image_size": 20})]
    digests = [finish(prepare(config)).digest for config in configs]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]  # the files' own size, said or unsaid
    (animals / "cat").rename(animals / "lion")
    assert finish(prepare(configs[0])).digest not in digests


# ---- killed, interrupted, two at once

SLOW = """
import sys, time
from aemodels.data import decoding, prepare
from aemodels.data.folder import FolderConfig
from aemodels.runtime.progress import finish
decoding.BLOCK_SECONDS = 0  # a block of each image, so that it takes long enough for the other to come
data = finish(prepare(FolderConfig(path=sys.argv[1])), lambda p: (print(p.done, p.note, flush=True), time.sleep(0.1)))
print(data.digest, flush=True)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(folder)], stdout=subprocess.PIPE, text=True)


def test_killed_preparation_leaves_nothing_that_passes_for_finished(
    animals: Path, prepared_folders: Callable[[], list[Path]]
) -> None:
    process = start(animals)
    assert process.stdout is not None
    next(line for line in process.stdout if int(line.split()[0]) > 0)  # it is writing
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = prepared_folders()
    assert left.suffix == ".partial"
    data = finish(prepare(FolderConfig(path=animals)))
    assert prepared_folders() == [data.path]  # the remains were swept
    assert sum(data.sizes.values()) == 40


def test_remains_of_other_data_are_swept_but_not_what_is_being_written(tmp_path: Path, animals: Path) -> None:
    running = prepare(DigitsConfig())
    while next(running).done == 0:
        pass
    dead = tmp_path / "cache" / "prepared" / "mnist-0123.partial"
    dead.mkdir()
    finish(prepare(FolderConfig(path=animals)))
    assert not dead.exists()
    assert finish(running).sizes["test"] == 269


def test_interrupt_cleans_up(prepared_folders: Callable[[], list[Path]]) -> None:
    running = prepare(DigitsConfig())
    while next(running).done == 0:
        pass
    running.close()  # as Ctrl-C does
    assert prepared_folders() == []
    finish(prepare(DigitsConfig()))


def test_two_processes_at_once(animals: Path) -> None:
    outputs = [process.communicate()[0].splitlines() for process in [start(animals), start(animals)]]
    assert outputs[0][-1] == outputs[1][-1]  # the digest
    decoding = [sum(line.split()[0] == "40" for line in lines) for lines in outputs]
    assert sorted(decoding) == [1, 2]  # one decoded, the other found it done
    assert sum(any("waiting for another process" in line for line in lines) for lines in outputs) == 1


# ---- damage


def test_damaged_array_is_named(animals: Path) -> None:
    data = finish(prepare(FolderConfig(path=animals)))
    assert (data.path / "val_images.npy").stat().st_mode & 0o222 == 0
    for name in ("test_images.npy", "train_labels.npy", "manifest.json"):
        file = data.path / name
        content = file.read_bytes()
        file.chmod(0o644)
        middle = len(content) // 2
        for wrong in (
            content[:-30],
            content[:40],
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        ):
            file.write_bytes(wrong)
            with pytest.raises(UserError, match=rf"{name} is damaged .* delete the folder {data.path}"):
                finish(prepare(FolderConfig(path=animals)))
        file.unlink()
        with pytest.raises(UserError, match=f"{name} is damaged"):
            finish(prepare(FolderConfig(path=animals)))
        file.write_bytes(content)
    finish(prepare(FolderConfig(path=animals)))


def test_arrays_of_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_arrays, "HASHED_BLOCK", 1000)
    array = np.random.default_rng(0).integers(0, 255, (2440, 2), np.uint8)  # 4,880 bytes
    file = tmp_path / "a.npy"
    with stored_arrays.ArrayWriter(file, array.dtype, (10**9, 2)) as writer:  # planned longer than it gets
        for start in range(0, len(array), 333):
            writer.append(array[start : start + 333])
        record = writer.finish()
    assert len(record.blocks) == 5
    np.testing.assert_array_equal(stored_arrays.stored_array(file, record).mapped(), array)
    content = file.read_bytes()
    file.write_bytes(content[:-1900] + bytes([content[-1900] ^ 1]) + content[-1899:])  # in the third block
    with pytest.raises(UserError, match=r"a\.npy is damaged \(its content was changed\)"):
        stored_arrays.stored_array(file, record)
    monkeypatch.setattr(stored_arrays, "CHECKED", 2500)  # of a large file every second block
    with pytest.raises(UserError, match="content was changed"):
        stored_arrays.stored_array(file, record)


# ---- a new source


def test_a_new_source_is_one_class_with_fetch() -> None:
    from typing import Literal

    from aemodels.data.source import Source, array_images, digest_of

    class NoiseConfig(SourceConfig):
        name: Literal["noise"] = "noise"

        def fetch(self) -> Source:
            pixels = np.random.default_rng(0).integers(0, 255, (50, 3, 16, 16), np.uint8)
            return Source(("noise",), digest_of("noise 1"), lambda: array_images(pixels, self.image_size, None, (), 10))

    data = finish(prepare(NoiseConfig(image_size=8)))
    assert (data.image_shape, data.sizes) == ((3, 8, 8), {"train": 36, "val": 4, "test": 10})
    assert json.loads((data.path / "manifest.json").read_text())["created_by"].startswith("aemodels")
