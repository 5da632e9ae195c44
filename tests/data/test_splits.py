"""Tests that an image's split follows from its content: nothing that is added or moved changes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aemodels.config import UserError
from aemodels.data import PreparedData, prepare
from aemodels.data.folder import FolderConfig
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
