"""Tests what is understood of a person's folders: splits, classes, kinds, what is left out, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aemodels.config import OwnWarning, SettingsError, UserError
from aemodels.data import PreparedData, prepare
from aemodels.data.channels import in_channels
from aemodels.data.evaluation_images import Expected, with_test_images
from aemodels.data.folder import FolderConfig
from aemodels.data.image_decoding import Reading
from aemodels.data.image_files import image_files, read_images
from aemodels.runtime.progress import Progress, finish
from aemodels.settings import read_changes


def fill(folder: Path, count: int, seed: int = 0, kind: str = "colour") -> Path:
    """Writes images of noise: colour, grey, or grey that is saved as RGB."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *os.fsencode(folder.parent.name + folder.name)])
    for i in range(count):
        pixels = rng.integers(0, 255, (12, 12, 3 if kind == "colour" else 1), dtype=np.uint8)
        saved = pixels[..., 0] if kind == "grey" else pixels if kind == "colour" else pixels.repeat(3, 2)
        Image.fromarray(saved).save(folder / f"{seed}-{i:03}.png")
    return folder


def told(folder: Path, **settings: Any) -> tuple[PreparedData, str]:
    """Returns the prepared images, and what a person reads when that is done."""
    notes: list[Progress] = []
    data = finish(prepare(FolderConfig(path=(folder,), **settings)), notes.append)
    assert notes[-1].note == ". ".join(data.notes())
    return data, notes[-1].note


def pixels_of(folder: Path) -> set[bytes]:
    return {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in folder.rglob("*.png")}


def prepared_pixels(data: PreparedData, split: str) -> set[bytes]:
    return {image.tobytes() for image in data.split(split).images}


# ---- given splits


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "val": "val", "test": "test"},
        {"train": "Training", "val": "VALID", "test": "Testing"},
        {"train": "TRAIN", "val": "validation", "test": "test"},
    ],
)
@pytest.mark.parametrize("classes", [("cat", "dog"), ("",)])
def test_given_splits(tmp_path: Path, names: dict[str, str], classes: tuple[str, ...]) -> None:
    for split, count in {"train": 9, "val": 4, "test": 5}.items():
        for seed, name in enumerate(classes):
            fill(tmp_path / "photos" / names[split] / name, count, seed)
    data, note = told(tmp_path / "photos")
    many = len(classes)
    assert data.sizes == {"train": 9 * many, "val": 4 * many, "test": 5 * many}
    assert data.classes == (classes if many > 1 else ())
    for split, name in names.items():
        assert prepared_pixels(data, split) == pixels_of(tmp_path / "photos" / name)
    assert note.startswith(f"train {9 * many} images, val {4 * many} (given), test {5 * many} (given)")


def test_what_is_not_given_is_drawn_from_train_alone(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "cat", 60)
    fill(tmp_path / "train" / "dog", 60)
    fill(tmp_path / "test" / "cat", 10, seed=1)
    fill(tmp_path / "test" / "dog", 10, seed=1)
    data, note = told(tmp_path)
    assert data.sizes["train"] + data.sizes["val"] == 120
    assert prepared_pixels(data, "test") == pixels_of(tmp_path / "test")
    assert f"val {data.sizes['val']} (drawn by content, 15 % asked for), test 20 (given). 2 classes: cat, dog" in note


def test_paths_of_given_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "mine", 30)
    fill(tmp_path / "mine" / "kept", 6, seed=1)
    fill(tmp_path / "others", 7, seed=2)
    monkeypatch.chdir(tmp_path)
    given = read_changes(["data.path=mine", "data.test_path=mine/kept", "data.val_path=others"])
    config = FolderConfig.parse({key.removeprefix("data."): value for key, value in given.items()})
    data = finish(prepare(config))
    assert data.sizes == {"train": 30, "val": 7, "test": 6}  # a given folder may lie in the other one
    assert FolderConfig.parse(config.flat()) == config
    with pytest.raises(SettingsError, match=r"test_path.* is a relative path"):
        FolderConfig.parse({"path": str(tmp_path), "test_path": "kept"})


def test_one_class_folder_and_test_images_without_any(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "cat", 20)
    fill(tmp_path / "others", 5)
    data = told(tmp_path / "photos", test_path=(tmp_path / "others",))[0]
    assert (data.classes, data.sizes["test"]) == ((), 5)
    fill(tmp_path / "photos" / "dog", 20)
    data, note = told(tmp_path / "photos", test_path=(tmp_path / "others",))
    assert (data.classes, data.sizes["test"]) == ((), 5)
    assert (
        "the test images are in no class folders, so the class folders of train (cat, dog) give no labels; to" in note
    )
    assert told(tmp_path / "photos")[0].classes == ("cat", "dog")


def test_classes_that_differ_in_capital_letters_are_noted(tmp_path: Path) -> None:
    for seed, name in enumerate(("Cats", "cats", "dogs")):
        fill(tmp_path / "photos" / name, 8, seed)
    data, note = told(tmp_path / "photos")
    assert data.classes == ("Cats", "cats", "dogs")
    assert "Cats and cats are 2 classes; give them one name if they are meant as one" in note


def test_no_class_of_given_images_is_one_of_training(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "train" / name, 20)
    for name in ("beach", "city"):
        fill(tmp_path / "holiday" / name, 5)
    (tmp_path / "holiday" / "city" / "broken.png").write_bytes(b"no image")
    for on_error in ("skip", "raise"):
        with pytest.raises(UserError, match=r"training images \(beach, city; the classes of training are cat, dog\)"):
            told(tmp_path / "train", test_path=(tmp_path / "holiday",), on_error=on_error)
        (tmp_path / "holiday" / "city" / "broken.png").unlink(missing_ok=True)


def test_class_folders_of_given_images_alone_give_no_labels(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "good", 20)
    for seed, name in enumerate(("good", "crack", "hole", "dent"), 1):
        fill(tmp_path / "test" / name, 4, seed)
    data, note = told(tmp_path / "train" / "good", test_path=(tmp_path / "test",))
    assert (data.classes, data.sizes["test"]) == ((), 16)
    assert "are in no class folders, so the class folders of test (crack, dent, good, ...) give no labels" in note


def test_a_class_folder_given_as_a_split_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("0", "1", "2"):
        fill(tmp_path / "hands" / name, 8)
    refused = r"data\.val_path=.*hands/1: lies inside data\.path=.*hands, among its class folders; give a folder beside"
    with pytest.raises(UserError, match=refused):
        told(tmp_path / "hands", val_path=(tmp_path / "hands" / "1",))
    shutil.rmtree(tmp_path / "hands" / "2")
    with pytest.raises(UserError, match=refused):
        told(tmp_path / "hands", val_path=(tmp_path / "hands" / "1",))


def test_a_split_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    for name in ("photos/train", "photos/test", "more"):
        fill(tmp_path / name, 3)
    with pytest.raises(UserError, match=r"data\.test_path=.*more: .*photos has a folder for test too; give one"):
        told(tmp_path / "photos", test_path=(tmp_path / "more",))
    with pytest.raises(UserError, match=r"data\.val_path: .*more is given twice"):
        told(tmp_path / "photos", val_path=(tmp_path / "more",), test_path=(tmp_path / "more",))


def test_copies_of_given_images_are_left_out_of_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", 20)
    fill(tmp_path / "test", 5, seed=1)
    for file in sorted((tmp_path / "test").iterdir())[:2]:
        shutil.copy(file, tmp_path / "train" / f"copy of {file.name}")
    data, note = told(tmp_path)
    assert data.sizes["test"] == 5
    assert data.sizes["train"] + data.sizes["val"] == 20
    assert "27 files, 25 used; 2 copies of given test images left out of the other splits" in note


def test_validation_and_test_without_train_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "val", 3)
    fill(tmp_path / "test", 3)
    with pytest.raises(UserError, match=r"has test and val and no folder train; move .* into a folder train"):
        told(tmp_path)


# ---- folders that are no classes


def test_wrapper_is_entered(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "photos" / "photos" / name, 12)
    (tmp_path / "photos" / "readme.txt").touch()
    data, note = told(tmp_path / "photos")
    assert data.classes == ("cat", "dog")
    assert "photos is the only folder and was entered" in note
    (tmp_path / "photos" / "photos" / "dog").rename(tmp_path / "photos" / "dog")
    assert told(tmp_path / "photos")[0].classes == ("dog", "photos")


def test_a_class_that_is_the_only_one_of_its_folder_stays_one(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "cat", 12)
    fill(tmp_path / "b" / "dog", 12)
    data = finish(prepare(FolderConfig(path=(tmp_path / "a", tmp_path / "b"))))
    assert data.classes == ("cat", "dog")


def test_deeper_folders_belong_to_their_class_and_are_said_once(tmp_path: Path) -> None:
    fill(tmp_path / "cat" / "2020", 8)
    fill(tmp_path / "cat" / "2021" / "may", 8)
    fill(tmp_path / "dog", 8)
    data, note = told(tmp_path)
    assert data.classes == ("cat", "dog")
    assert note.count("deeper folders") == 1
    assert "2 deeper folders belong to their classes, such as cat/2020" in note


def test_a_class_with_the_name_of_a_split_is_said(tmp_path: Path) -> None:
    for name in ("car", "bus", "train"):
        fill(tmp_path / name, 10)
    data, note = told(tmp_path)
    assert data.classes == ("bus", "car", "train")
    assert "train lies beside other class folders and was taken for a class; if it is a split, move" in note


def test_what_lies_beside_splits_is_left_out_and_counted(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "good", 30)
    fill(tmp_path / "test" / "good", 4, seed=1)
    fill(tmp_path / "test" / "crack", 3)
    fill(tmp_path / "ground_truth" / "crack", 3)
    data, note = told(tmp_path)
    assert (data.classes, data.sizes["test"]) == ((), 4)  # one class would tell nothing
    assert "40 files, 34 used; 3 in ground_truth (beside the splits) not read" in note
    assert "3 of classes without training images left out: crack (3)" in note


def test_tool_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", "cat/@eaDir", "dog/@eaDir", "__MACOSX", ".thumbnails"):
        fill(tmp_path / name, 12)
    data, note = told(tmp_path)
    assert (data.classes, sum(data.sizes.values())) == (("cat", "dog"), 24)
    assert "1 folder .thumbnails left out. 2 folders @eaDir left out. 1 folder __MACOSX left out" in note


# ---- names


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    for seed, form in enumerate(("NFC", "NFD")):
        fill(tmp_path / str(seed) / unicodedata.normalize(form, "café"), 10, seed)
        fill(tmp_path / str(seed) / "tea", 10, seed)
    data = finish(prepare(FolderConfig(path=(tmp_path / "0", tmp_path / "1"))))
    assert data.classes == (unicodedata.normalize("NFC", "café"), "tea")


def test_class_folder_that_is_no_utf8_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 10)
    os.rename(tmp_path / "cat", os.fsencode(tmp_path) + b"/caf\xe9")
    fill(tmp_path / "dog", 10)
    with pytest.raises(UserError, match=r"the name of the class folder caf\\udce9 is no UTF-8; rename the folder"):
        told(tmp_path)


# ---- kinds


def test_grey_that_is_saved_as_colour_is_grey(tmp_path: Path) -> None:
    fill(tmp_path, 10, kind="grey as colour")
    fill(tmp_path, 10, seed=1, kind="grey")
    data, note = told(tmp_path)
    assert data.image_shape == (1, 12, 12)
    assert "grey" not in note


@pytest.mark.parametrize("kind", ["grey", "grey as colour"])
def test_one_grey_image_among_colour_ones(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, 19)
    fill(tmp_path, 1, seed=1, kind=kind)
    data, note = told(tmp_path)
    assert (data.image_shape, sum(data.sizes.values())) == ((3, 12, 12), 20)
    assert "1 of 20 images is grey; all are read as colour" in note


def test_one_colour_image_among_grey_ones_makes_all_colour(tmp_path: Path) -> None:
    fill(tmp_path, 39, kind="grey")
    fill(tmp_path, 1, seed=1)
    data, note = told(tmp_path)
    assert data.image_shape == (3, 12, 12)
    assert "39 of 40 images are grey; all are read as colour" in note


def test_kind_that_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path / "colour", 12)
    fill(tmp_path / "grey", 12, kind="grey")
    assert told(tmp_path / "grey", channels="colour")[0].image_shape == (3, 12, 12)
    data, _ = told(tmp_path / "colour", channels="grey")
    greys = {np.asarray(Image.open(file).convert("L")).tobytes() for file in (tmp_path / "colour").iterdir()}
    assert set().union(*(prepared_pixels(data, split) for split in data.sizes)) == greys


def test_colour_is_weighed_as_pillow_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40), dtype=np.uint8)
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    assert np.array_equal(in_channels(pixels, 1)[0], np.asarray(image.convert("L")))


def test_class_whose_images_are_all_unreadable_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog", "gnu"):
        fill(tmp_path / name, 12)
    for file in (tmp_path / "gnu").iterdir():
        file.write_bytes(b"no image")
    data, note = told(tmp_path, on_error="skip")
    assert data.classes == ("cat", "dog")
    assert set(data.manifest()["images_by_class"]["train"]) == {"cat", "dog"}
    assert "there is no readable image of gnu, so there is no such class" in note
    shutil.rmtree(tmp_path / "dog")
    data, note = told(tmp_path, on_error="skip")
    assert data.classes == ()
    assert "there is no readable image of gnu, so there are no labels" in note
    shutil.rmtree(tmp_path / "gnu")
    assert "readable" not in told(tmp_path)[1]


# ---- counting


def test_files_that_are_not_used_are_counted_by_kind(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 40)
    for name in [*(f"{i}.HEIC" for i in range(19)), "x.heic", "notes.txt", "README", ".hidden.png"]:
        (folder / name).touch()
    expected = "63 files, 40 used; 20 .heic, 1 .txt, 1 hidden and 1 without ending not read"
    assert expected in told(folder)[1]
    found = image_files([folder])
    assert (len(found.files), found.told_of(40)) == (40, expected)
    assert found.told == expected.replace("used", "images")
    assert image_files(found.files).told == ""


def test_what_lies_beside_prepared_images_is_told_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "photos" / "train", 20)
    fill(tmp_path / "photos" / "test", 5, seed=1)
    before, note = told(tmp_path / "photos")
    assert "files" not in note
    fill(tmp_path / "photos" / "more" / ".cache", 2)
    fill(tmp_path / "photos" / "more", 3)
    (tmp_path / "photos" / "x.heic").touch()
    monkeypatch.setattr("aemodels.data.prepared.prepare_alone", None)  # nothing is decoded again
    after, note = told(tmp_path / "photos")
    assert "29 files, 25 used; 3 in more (beside the splits) and 1 .heic not read. 1 folder .cache left out" in note
    assert (after, after.manifest()["digest"]) == (before, before.digest)
    assert (after.path / "manifest.json").stat().st_mode & 0o777 == 0o444
    shutil.rmtree(tmp_path / "photos" / "more")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("aemodels.data.prepared.write_whole", refuse)  # as where another user has prepared them
    notes: list[Progress] = []
    finish(prepare(FolderConfig(path=(tmp_path / "photos",))), notes.append)
    assert "26 files, 25 used; 1 .heic not read" in notes[-1].note


def test_a_manifest_of_before_keeps_its_notes(tmp_path: Path) -> None:
    data, note = told(fill(tmp_path / "photos", 20))
    manifest = data.manifest()
    file = data.path / "manifest.json"
    file.unlink()
    del manifest["counted"], manifest["beside"]
    file.write_text(json.dumps(manifest))
    (tmp_path / "photos" / "x.heic").touch()
    assert told(tmp_path / "photos") == (data, note)


def test_files_for_a_model_are_brought_to_its_kind(tmp_path: Path) -> None:
    grey, colour = fill(tmp_path / "grey", 1, kind="grey"), fill(tmp_path / "colour", 1)
    read, looked = read_images(image_files([grey]), (3, 12, 12), Reading())
    assert (read.images.shape, looked.notes) == ((1, 3, 12, 12), ())
    read, looked = read_images(image_files([colour, grey]), (1, 12, 12), Reading())
    assert read.images.shape == (2, 1, 12, 12)
    assert looked.notes == ("1 image is colour and is read as grey, as the model's own images are",)
    (file,) = colour.glob("*.png")
    assert np.array_equal(read.images[0, 0], np.asarray(Image.open(file).convert("L")))  # by luminance


def test_files_for_a_model_that_cannot_be_read_are_left_out_below_a_folder_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", 3, kind="grey")
    for i in range(12):
        (folder / f"broken{i:02}.png").write_bytes(b"no image")
    read, looked = read_images(image_files([folder]), (1, 12, 12), Reading())
    assert (len(read.images), len(read.files), len(looked.unfit)) == (3, 3, 12)
    (told,) = looked.notes
    assert told.startswith(f"12 files cannot be read and are left out: {folder / 'broken00.png'} (no JPEG, PNG,")
    assert told.endswith("broken09.png (no JPEG, PNG, WEBP, BMP, TIFF or GIF) and 2 more")
    with pytest.raises(UserError, match=r"broken00\.png cannot be read"):
        read_images(image_files([folder, folder / "broken00.png"]), (1, 12, 12), Reading())


@pytest.mark.parametrize(("levels", "told"), [(None, True), (4095, False)])
def test_dark_files_for_a_model_are_noted_unless_its_white_is_known(
    tmp_path: Path, levels: int | None, told: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (12, 12)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    _, looked = read_images(image_files([tmp_path]), (1, 12, 12), Reading(levels=levels))
    assert bool(looked.notes) == told
    assert not told or "is 16 of 255; if white has a lower value in the files" in looked.notes[0]


# ---- all images of a folder, for a model of others


@pytest.fixture
def own(tmp_path: Path) -> PreparedData:
    for name in ("cat", "dog"):
        fill(tmp_path / "own" / name, 30)
    return finish(prepare(FolderConfig(path=(tmp_path / "own",))))


def expected(own: PreparedData, conditional: bool) -> Expected:
    return Expected(own.image_shape, own.classes, conditional, own)


def test_all_images_of_a_folder_are_test_images(tmp_path: Path, own: PreparedData) -> None:
    fill(tmp_path / "new" / "train" / "dog", 5, seed=7)
    fill(tmp_path / "new" / "test" / "dog", 3, seed=8)
    data = finish(with_test_images(expected(own, True), FolderConfig(path=(tmp_path / "new",))))
    assert data.sizes == own.sizes | {"test": 8}
    assert prepared_pixels(data, "test") == pixels_of(tmp_path / "new")
    assert prepared_pixels(data, "train") == prepared_pixels(own, "train")
    assert data.split("test").labels is not None
    assert set(data.split("test").labels) == {1}  # the model's number of dogs
    assert data.notes() == ["8 images of new are evaluated; train and val are the model's own"]
    (tmp_path / "new" / "photo.heic").touch()
    again = finish(with_test_images(expected(own, True), FolderConfig(path=(tmp_path / "new",))))
    assert (again.path, again.notes()[1:]) == (data.path, ["9 files, 8 used; 1 .heic not read"])


@pytest.mark.parametrize("conditional", [True, False])
def test_images_of_unknown_classes(
    tmp_path: Path, own: PreparedData, conditional: bool, make_images: Callable[..., Path]
) -> None:
    fill(tmp_path / "new" / "dog", 5, seed=7)
    fill(tmp_path / "new" / "gnu", 3)
    data = finish(with_test_images(expected(own, conditional), FolderConfig(path=(tmp_path / "new",))))
    assert data.sizes["test"] == (5 if conditional else 8)
    assert data.classes == (("cat", "dog") if conditional else ())
    assert any("3 of classes that the model does not know: gnu (3)" in note for note in data.notes()) == conditional
    lost = "the model does not know gnu (3), so there are no labels, and what needs labels is left out"
    assert (lost in data.notes()) != conditional
    make_images(tmp_path / "large" / "dog", 3)
    with pytest.raises(UserError, match=r"images of 20x20 pixels, the model takes 12x12; set data\.image_size=12"):
        finish(with_test_images(expected(own, conditional), FolderConfig(path=(tmp_path / "large",))))


def test_arrays_of_the_training_are_copied_where_there_are_no_links(
    tmp_path: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    fill(tmp_path / "new" / "dog", 5, seed=7)
    monkeypatch.setattr(os, "link", refuse)
    data = finish(with_test_images(expected(own, True), FolderConfig(path=(tmp_path / "new",))))
    assert prepared_pixels(data, "val") == prepared_pixels(own, "val")
    assert not (data.path / "val_images.npy").samefile(own.path / "val_images.npy")


def test_dark_images_for_a_model_are_told(tmp_path: Path, own: PreparedData) -> None:
    fill(tmp_path / "new", 5)
    for file in (tmp_path / "new").iterdir():
        Image.open(file).point(lambda value: value // 15).save(file)
    with pytest.warns(OwnWarning, match=r"the brightest pixel of all images is 1[67] of 255; .*set data\.levels"):
        finish(with_test_images(expected(own, False), FolderConfig(path=(tmp_path / "new",))))
