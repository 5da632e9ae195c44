"""Tests a person's own images: which are read, by several processes too, and what is said of the others."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import COLLECTIONS

from aemodels.config import UserError
from aemodels.data import PreparedData, decoding, prepare
from aemodels.data.digits import DigitsConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.source import UnreadableError
from aemodels.data.sprites import SpritesConfig
from aemodels.runtime.processes import GeneratorProcess, ProcessDiedError, ready
from aemodels.runtime.progress import Progress, Steps, finish


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def test_folder_with_classes(animals: Path) -> None:
    data = finish(prepare(FolderConfig(path=animals)))
    assert (data.image_shape, data.classes) == ((3, 20, 20), ("cat", "dog"))
    assert sum(data.sizes.values()) == 40
    assert min(data.sizes.values()) >= 1  # about as asked, as contents decide
    found = {}
    for split in data.sizes:
        images, labels = data.split(split)
        found |= {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for number, name in enumerate(data.classes):
        for file in (animals / name).iterdir():
            assert found[np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes()] == number
    manifest = data.manifest()
    counts = manifest["images_by_class"]
    assert {name: sum(split[name] for split in counts.values()) for name in data.classes} == {"cat": 24, "dog": 16}
    assert manifest["source"] == [str(animals)]


def test_folders_are_named_for_a_person(tmp_path: Path) -> None:
    assert FolderConfig(path=[tmp_path / "cats", tmp_path / "dogs"]).title == "cats and dogs"
    assert SpritesConfig().title == "sprites"


def test_folder_without_classes_and_hidden_files(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    folder = make_images(tmp_path / "flat", 20, (20, 20))
    (folder / ".hidden.png").write_bytes(b"no image")
    make_images(folder / ".thumbnails", 3)
    (folder / "notes.txt").write_text("not an image either")
    data = finish(prepare(FolderConfig(path=folder)))
    assert (data.image_shape, data.classes, data.num_classes) == ((1, 20, 20), (), 0)
    assert sum(data.sizes.values()) == 20
    assert data.split("val").labels is None


def test_several_folders_unite_classes_by_name(animals: Path, tmp_path: Path, make_images: Callable[..., Path]) -> None:
    make_images(tmp_path / "more" / "dog", 10, seed=2)
    make_images(tmp_path / "more" / "ant", 10, seed=3)
    data = finish(prepare(FolderConfig(path=(animals, tmp_path / "more"))))
    assert data.classes == ("ant", "cat", "dog")
    counts = data.manifest()["images_by_class"]
    assert {name: sum(split[name] for split in counts.values()) for name in data.classes} == {
        "ant": 10,
        "cat": 24,
        "dog": 26,
    }


def test_links_in_circles_end(animals: Path) -> None:
    (animals / "cat" / "again").symlink_to(animals)
    assert sum(finish(prepare(FolderConfig(path=animals))).sizes.values()) == 40


# ---- several processes


@pytest.fixture
def hire(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[GeneratorProcess]]:
    """Returns a function that lists the processes of the next preparation: three, with blocks of one image."""
    peers: list[GeneratorProcess] = []

    def new_peer() -> GeneratorProcess:
        peers.append(GeneratorProcess())
        return peers[-1]

    def wait_for(some: list[GeneratorProcess], _seconds: float) -> list[GeneratorProcess]:
        return ready(some) if some else []

    def hire() -> list[GeneratorProcess]:
        for name, value in {"cores": lambda: 3, "WORTH_A_PROCESS": 1e-9, "BLOCK_SECONDS": 1e-9}.items():
            monkeypatch.setattr(decoding, name, value)
        monkeypatch.setattr(decoding, "GeneratorProcess", new_peer)
        monkeypatch.setattr(decoding, "ready", wait_for)
        return peers

    return hire


def are_gone(peers: list[GeneratorProcess]) -> bool:
    return len(peers) == 3 and all(peer.popen.poll() is not None for peer in peers)


def contents(data: PreparedData) -> dict[str, Any]:
    return {name: data.split(name) for name in data.sizes} | {"manifest": data.manifest()}


@pytest.mark.parametrize("settings", [{}, {"image_size": 9}, {"on_error": "skip"}])
def test_processes_change_nothing(
    animals: Path,
    tmp_path: Path,
    hire: Callable[[], list[GeneratorProcess]],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    if settings.get("on_error") == "skip":
        for name in ("000", "003", "007", "012"):
            damage(animals / "dog" / f"{name}.png")
    alone = contents(finish(prepare(FolderConfig(path=animals, **settings))))
    shutil.rmtree(tmp_path / "cache")
    peers, decode, here = hire(), decoding.decode_block, []

    def decode_here(*args: Any) -> decoding.Block:
        here.append(decode(*args))
        return here[-1]

    monkeypatch.setattr(decoding, "decode_block", decode_here)
    np.testing.assert_equal(contents(finish(prepare(FolderConfig(path=animals, **settings)))), alone)
    assert are_gone(peers)
    assert sum(block.done for block in here) < 10  # of 40; until the peers were there


@pytest.mark.parametrize("seed", range(3))
def test_processes_raise_the_same_error(animals: Path, hire: Callable[[], list[GeneratorProcess]], seed: int) -> None:
    for file in np.random.default_rng(seed + 20).permutation(sorted(animals.rglob("*.png")))[:6]:
        if file.name != "000.png":  # the first, which is read before the others
            damage(file)
    config = FolderConfig(path=animals, split_seed=seed)
    with pytest.raises(UnreadableError) as alone:
        finish(prepare(config))
    peers = hire()
    with pytest.raises(UnreadableError) as together:
        finish(prepare(config))
    assert (str(together.value), together.value.file) == (str(alone.value), alone.value.file)
    assert are_gone(peers)


def until(done: int, running: Steps[PreparedData]) -> None:
    while next(running).done < done:
        pass


def test_interrupt_ends_the_processes(
    animals: Path, hire: Callable[[], list[GeneratorProcess]], prepared_folders: Callable[[], list[Path]]
) -> None:
    peers, running = hire(), prepare(FolderConfig(path=animals))
    until(10, running)
    assert [peer.popen.poll() for peer in peers] == [None] * 3
    running.close()
    assert are_gone(peers)
    assert prepared_folders() == []


def test_killed_process(
    animals: Path, hire: Callable[[], list[GeneratorProcess]], prepared_folders: Callable[[], list[Path]]
) -> None:
    peers, running = hire(), prepare(FolderConfig(path=animals))
    until(10, running)
    peers[1].popen.kill()
    with pytest.raises(ProcessDiedError, match="ended by signal 9"):
        finish(running)
    assert are_gone(peers)
    assert prepared_folders() == []


def test_no_process_where_none_is_worth_it(
    animals: Path, hire: Callable[[], list[GeneratorProcess]], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = hire()
    finish(prepare(DigitsConfig()))  # in memory
    monkeypatch.setattr(decoding, "WORTH_A_PROCESS", 10)
    finish(prepare(FolderConfig(path=animals)))
    assert not peers


# ---- bad images


def test_damaged_image_is_named(animals: Path, prepared_folders: Callable[[], list[Path]]) -> None:
    damage(animals / "dog" / "004.png")
    with pytest.raises(UserError, match=r"dog/004\.png cannot be read .*data.on_error=skip"):
        finish(prepare(FolderConfig(path=animals)))
    assert prepared_folders() == []


def test_large_images_need_a_size(make_images: Callable[..., Path], tmp_path: Path) -> None:
    make_images(tmp_path / "camera", 12, (200, 300, 3))
    with pytest.raises(UserError, match=r"null: \S*000.png is 300x200 pixels, .*=64 .*, or \[200, 300\] if that"):
        finish(prepare(FolderConfig(path=tmp_path / "camera")))
    assert finish(prepare(FolderConfig(path=tmp_path / "camera", image_size=(200, 300)))).image_shape == (3, 200, 300)


def test_a_split_of_few_images_is_told(make_images: Callable[..., Path], tmp_path: Path) -> None:
    make_images(tmp_path / "few", 12)
    notes: list[Progress] = []
    config = FolderConfig(path=tmp_path / "few")
    sizes = finish(prepare(config), notes.append).sizes
    assert sizes["val"] < 5
    assert f"val has only {sizes['val']} image" in notes[-1].note
    assert "which weights are the best: add images, raise data.val_fraction, or draw anew" in notes[-1].note


def test_skip_names_the_setting_that_reads_larger_images(animals: Path) -> None:
    damage(animals / "cat" / "003.png")
    Image.new("L", (1000, 700)).save(animals / "dog" / "004.png")
    Image.new("L", (1000, 100)).save(animals / "dog" / "005.png")
    notes: list[Progress] = []
    config = FolderConfig(path=animals, image_size=8, on_error="skip", largest_megapixels=0.05)
    data = finish(prepare(config), notes.append)
    assert sum(data.sizes.values()) == 37
    assert re.search(r"37 used; 1 unreadable image skipped: \S*003.png, ", notes[-1].note)
    told = r"2 images of too many pixels skipped, which data.largest_megapixels=1 reads: \S*004.png, \S*005.png"
    assert re.search(told, notes[-1].note)


def test_skip_leaves_out_and_reports(animals: Path) -> None:
    damage(animals / "cat" / "000.png")  # the first, from which kind and size are taken
    (animals / "dog" / "004.png").write_bytes(b"no image at all")
    notes: list[Progress] = []
    data = finish(prepare(FolderConfig(path=animals, on_error="skip")), notes.append)
    assert sum(data.sizes.values()) == 38
    assert data.manifest()["skipped"] == [str(animals / "cat" / "000.png"), str(animals / "dog" / "004.png")]
    assert "40 files, 38 used; 2 unreadable images skipped: " in notes[-1].note
    assert sum(sum(split.values()) for split in data.manifest()["images_by_class"].values()) == 38
    assert all(len(images) == len(labels) for images, labels in map(data.split, data.sizes))
    with pytest.raises(UserError, match="cannot be read"):
        finish(prepare(FolderConfig(path=animals)))  # what was skipped once is still an error elsewhere


def mixed_sizes(folder: Path) -> None:
    Image.new("RGB", (20, 30)).save(folder / "tall.png")


def nothing_readable(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"x")


def only_text(folder: Path) -> None:
    for file in folder.iterdir():
        file.rename(file.with_suffix(".txt"))


def partly_in_classes(folder: Path) -> None:
    (folder / "cat").mkdir()
    shutil.copy(folder / "000.png", folder / "cat")


def tiny(folder: Path) -> None:
    for file in folder.iterdir():
        Image.new("RGB", (6, 6)).save(file)


def few(folder: Path) -> None:
    for file in sorted(folder.iterdir())[5:]:
        file.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (mixed_sizes, r"data\.image_size=null: .*000\.png is 20x20 pixels and .*tall\.png 20x30; set data\.image_size"),
        (nothing_readable, r"data\.path: none of the 12 images can be read; the first: .*000\.png"),
        (only_text, r"data\.path=.*: no images in it \(12 other files, such as 000\.txt\); give"),
        (partly_in_classes, r"data\.path: .*\.png has no class folder and .*cat/000\.png has one; move"),
        (tiny, r"data\.image_size=null: .*000\.png is 6x6 pixels, 8x8 is the least; set data\.image_size"),
        (few, r"data: 5 images are too few for data\.test_fraction=0\.15 and .*: at least 7 are needed; add"),
        (shutil.rmtree, r"data\.path=.*: there is no such folder; give"),
    ],
)
def test_unfit_folder(
    tmp_path: Path,
    change: Callable[[Path], None],
    message: str,
    prepared_folders: Callable[[], list[Path]],
    make_images: Callable[..., Path],
) -> None:
    folder = make_images(tmp_path / "images", 12)
    change(folder)
    with pytest.raises(UserError, match=message):
        finish(prepare(FolderConfig(path=folder, on_error="skip")))
    assert prepared_folders() == []


def test_path_that_is_a_file_or_given_twice(animals: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=.*000\.png: is a file; give the folder"):
        finish(prepare(FolderConfig(path=animals / "cat" / "000.png")))
    with pytest.raises(UserError, match=r"data\.path: .*cat is given twice or lies in another"):
        finish(prepare(FolderConfig(path=(animals, animals / "cat"))))


def test_unreadable_folder(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # permissions do not stop root, as whom containers run the tests
    with pytest.raises(UserError, match=r"data\.path=.*cannot be read \(Permission denied\); give read permission"):
        finish(prepare(FolderConfig(path=animals)))


def test_cache_that_cannot_be_written(animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"/file/prepared: Not a directory; .*set AEMODELS_CACHE"):
        finish(prepare(FolderConfig(path=animals)))


@pytest.mark.skipif(not (COLLECTIONS / "rgb_folder").exists(), reason="needs ../shared/data")
def test_real_colour_folder() -> None:
    data = finish(prepare(FolderConfig(path=COLLECTIONS / "rgb_folder")))
    assert (data.image_shape, data.num_classes, sum(data.sizes.values())) == ((3, 32, 32), 10, 800)
    assert data.sizes == {"train": 550, "val": 144, "test": 106}
