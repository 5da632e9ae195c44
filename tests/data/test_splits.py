"""Tests that an image's split follows from its content: nothing that is added or moved changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aemodels.config import OwnWarning, UserError
from aemodels.data import PreparedData, prepare
from aemodels.data.arrays import ArraysConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.parquet import ParquetConfig
from aemodels.runtime.progress import finish


def contents(data: PreparedData, split: str) -> set[bytes]:
    return {image.tobytes() for image in data.split(split).images}


def prepared(*folders: Path, **settings: object) -> PreparedData:
    return finish(prepare(FolderConfig.parse({"path": [str(folder) for folder in folders], **settings})))


def test_images_that_are_added_move_no_other_one(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    a, b = (make_images(tmp_path / name, 150, (8, 8), seed) for seed, name in enumerate("ab"))
    before = prepared(a)
    for after in (prepared(a, b), prepared(b, a)):
        for split in before.sizes:
            assert contents(before, split) <= contents(after, split)
    for file in b.iterdir():
        shutil.move(file, a / f"000-{file.name}")  # before the others
    again = prepared(a)
    assert all(contents(before, split) <= contents(again, split) for split in before.sizes)
    assert contents(prepared(a, split_seed=1), "test") != contents(again, "test")


def test_shares_are_about_as_asked(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    folder = make_images(tmp_path / "many", 1000, (8, 8))
    data = prepared(folder, val_fraction=0.1, test_fraction=0.3)
    assert data.sizes["val"] == pytest.approx(100, abs=40)  # four standard deviations
    assert data.sizes["test"] == pytest.approx(300, abs=60)


def test_copies_lie_in_one_split(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    for name in ("cat", "dog"):
        folder = make_images(tmp_path / "pets" / name, 40, (8, 8), seed=len(name) + ord(name[0]))
        for file in list(folder.iterdir())[:20]:
            shutil.copy(file, folder / f"copy of {file.name}")
    data = prepared(tmp_path / "pets")
    splits = [contents(data, split) for split in data.sizes]
    assert sum(map(len, splits)) == len(set().union(*splits)) == 80
    assert sum(data.sizes.values()) == 120
    assert "40 images are copies of others, in the same split" in data.notes()


@pytest.mark.parametrize("seed", range(8))
def test_few_images_give_each_split_one_and_each_class_a_training_image(
    tmp_path: Path, make_images: Callable[..., Path], seed: int
) -> None:
    make_images(tmp_path / "few" / "cat", 1, (8, 8), 10)
    make_images(tmp_path / "few" / "dog", 6, (8, 8), 11)
    data = prepared(tmp_path / "few", split_seed=seed)
    assert min(data.sizes.values()) >= 1
    assert min(data.manifest()["images_by_class"]["train"].values()) >= 1


def test_each_of_many_classes_keeps_a_training_image(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    for number in range(100):
        make_images(tmp_path / "faces" / f"{number:03}", 2, (8, 8), number)
    data = prepared(tmp_path / "faces")
    assert data.num_classes == 100
    assert min(data.manifest()["images_by_class"]["train"].values()) >= 1
    assert sum(data.sizes.values()) == 200


@pytest.mark.parametrize("different", [1, 2])
def test_images_that_are_nearly_all_the_same_are_refused(tmp_path: Path, different: int) -> None:
    for i in range(20):
        save(tmp_path / "same" / f"{i}.png", np.full((8, 8), i % different, np.uint8))
    with pytest.raises(UserError, match=r"too few different images for test and val, .*copies of an image are one"):
        prepared(tmp_path / "same")


def save(file: Path, pixels: Sequence[float]) -> None:
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(file)


# ---- arrays


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def arrays(file: Path, **parts: np.ndarray) -> PreparedData:
    np.savez(file, **parts)
    return finish(prepare(ArraysConfig(path=(file,))))


def apart(data: PreparedData) -> bool:
    splits = [contents(data, split) for split in data.sizes]
    return sum(map(len, splits)) == len(set().union(*splits))


def test_given_test_arrays_are_left_out_of_the_others(tmp_path: Path) -> None:
    pixels = noise(70)
    data = arrays(tmp_path / "a.npz", images=pixels, test_images=pixels[:10])
    assert (data.sizes["test"], data.sizes["train"] + data.sizes["val"], apart(data)) == (10, 60, True)
    assert "80 images, 70 used; 10 copies of given test images left out of the other splits" in data.notes()
    data = arrays(tmp_path / "b.npz", images=pixels, test_images=pixels[:10], val_images=pixels[5:20])
    assert (data.sizes, apart(data)) == ({"train": 50, "val": 10, "test": 10}, True)


def test_arrays_are_drawn_by_content(tmp_path: Path) -> None:
    pixels = noise(150)
    before = arrays(tmp_path / "a.npz", images=pixels)
    more = np.concatenate([noise(100, 1), pixels[::-1], pixels[:30]])
    after = arrays(tmp_path / "b.npz", images=more)
    assert all(contents(before, split) <= contents(after, split) for split in before.sizes)
    assert apart(after)
    assert "30 images are copies of others, in the same split" in after.notes()


# ---- copies in other files


def test_the_same_pixels_in_another_format_are_a_copy(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(noise(40)):
        file = tmp_path / "photos" / f"{i}.jpg"
        Image.fromarray(pixels).save(file)
        Image.open(file).save(file.with_suffix(".png"))
    data = prepared(tmp_path / "photos", image_size=8)
    assert (sum(data.sizes.values()), apart(data)) == (80, True)
    assert "40 images are copies of others, in the same split" in data.notes()


def test_a_file_that_differs_only_outside_of_what_is_kept_is_a_copy_of_a_test_image(tmp_path: Path) -> None:
    for i, pixels in enumerate(noise(30)):
        for folder in ("train", "test") if i < 5 else ("train",):
            pixels[0, 0] = len(folder)
            (tmp_path / folder).mkdir(exist_ok=True)
            save(tmp_path / folder / f"{i}.png", np.pad(pixels, ((0, 0), (8, 8), (0, 0)), constant_values=i))
    for file in (tmp_path / "test").iterdir():
        Image.open(file).save(tmp_path / "train" / file.with_suffix(".bmp").name)
    data = prepared(tmp_path, image_size=16, fit="crop")
    assert (data.sizes["test"], apart(data)) == (5, True)
    assert any("5 copies of given test images left out of the other splits" in note for note in data.notes())


# ---- classes


@pytest.mark.parametrize("seed", range(5))
def test_each_class_of_seven_images_is_in_each_split(tmp_path: Path, seed: int) -> None:
    labels = np.repeat(np.arange(40), 7)
    np.savez(tmp_path / "a.npz", images=noise(280, seed), labels=labels)
    data = finish(prepare(ArraysConfig(path=(tmp_path / "a.npz",), split_seed=seed)))
    assert min(min(of.values()) for of in data.manifest()["images_by_class"].values()) >= 1
    assert data.sizes["train"] > 150


def test_no_training_image_becomes_another_when_classes_grow(tmp_path: Path) -> None:
    """A class of few images lends its nearest ones to test and val; better ones replace those, no trained one does."""
    pixels, labels = noise(600), np.arange(600) % 30
    before = arrays(tmp_path / "0.npz", images=pixels[:210], labels=labels[:210])
    for count in (300, 450, 600):
        after = arrays(tmp_path / f"{count}.npz", images=pixels[:count], labels=labels[:count])
        assert contents(before, "train") <= contents(after, "train")
        assert not contents(before, "val") & contents(after, "test")
        assert len(contents(before, "test") - contents(after, "test")) < 15
        before = after


def test_the_same_image_in_two_classes_is_a_warning(tmp_path: Path) -> None:
    for i, pixels in enumerate(noise(60)):
        for label in ("cat", "dog") if i < 9 else ("dog", "gnu") if i < 10 else ("cat", "dog", "gnu")[i % 3 :][:1]:
            (tmp_path / "pets" / label).mkdir(parents=True, exist_ok=True)
            save(tmp_path / "pets" / label / f"{i}.png", pixels)
    expected = "two labels: 9 images are in cat and in dog, 1 image is in dog and in gnu; keep each image in its right"
    for _ in range(2):  # also when they are prepared already
        with pytest.warns(OwnWarning, match=expected):
            assert apart(prepared(tmp_path / "pets"))


def test_copies_in_parquet_files_and_in_folders_with_a_table_are_left_out(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    (tmp_path / "hub").mkdir()
    for name, some in (("train", noise(40)), ("test", noise(40)[:10])):
        for i, pixels in enumerate(some):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            save(tmp_path / "photos" / name / f"{i}.{'png' if name == 'train' else 'bmp'}", pixels)
        files = [file.read_bytes() for file in sorted((tmp_path / "photos" / name).iterdir())]
        parquet.write_table(arrow.table({"image": files}), tmp_path / "hub" / f"{name}-0.parquet")
    rows = [f"{file.relative_to(tmp_path)},{file.stem[-1]}" for file in (tmp_path / "photos").rglob("*.*")]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    table = str(tmp_path / "labels.csv")
    for data in (
        finish(prepare(ParquetConfig(path=(tmp_path / "hub",)))),
        prepared(tmp_path / "photos", labels=table),
    ):
        assert (data.sizes["test"], data.sizes["train"] + data.sizes["val"], apart(data)) == (10, 30, True)
        assert "50 files, 40 used; 10 copies of given test images left out of the other splits" in data.notes()
