"""Tests labels from a CSV file: which rows name an image, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aemodels
from aemodels.config import OwnWarning, SettingsError, UserError
from aemodels.data import PreparedData, prepare
from aemodels.data.folder import FolderConfig
from aemodels.runtime.progress import finish
from aemodels.settings import load_settings, read_changes


@pytest.fixture
def photos(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Makes 24 images in one folder and 16 in a folder inside it."""
    make_images(tmp_path / "photos", 24)
    make_images(tmp_path / "photos" / "more", 16, seed=1)
    return tmp_path / "photos"


def names(photos: Path) -> list[str]:
    return sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))


def write(file: Path, rows: list[str], head: str | None = "file,label") -> Path:
    file.write_text("\n".join([*([head] if head else []), *rows]) + "\n")
    return file


def labels(photos: Path) -> dict[str, str]:
    return {name: "odd" if int(name[-5]) % 2 else "even, so" for name in names(photos)}


def prepared(photos: Path, table: Path, **settings: object) -> PreparedData:
    return finish(prepare(FolderConfig.parse({"path": str(photos), "labels": str(table), **settings})))


def test_a_table_gives_the_classes_of_test_images_inside_the_folder_too(photos: Path) -> None:
    """The folders that they lie in are no classes then."""
    (photos / "older").mkdir()
    for file in photos.glob("*.png"):
        file.rename(photos / "older" / file.name)
    rows = [f'{name},"{label}"' for name, label in labels(photos).items()]
    data = prepared(photos, write(photos / "labels.csv", rows), test_path=[str(photos / "more")])
    assert (data.classes, data.sizes["test"]) == (("even, so", "odd"), 16)


def has_labels(data: PreparedData, photos: Path, told: dict[str, str]) -> None:
    found = {
        image.tobytes(): data.classes[label]
        for split in data.sizes
        for image, label in zip(*data.split(split), strict=True)
    }
    pixels = {name: np.asarray(Image.open(photos / name)).transpose(2, 0, 1).tobytes() for name in told}
    assert found == {pixels[name]: label for name, label in told.items()}


@pytest.mark.parametrize("head", ["file,label", None, " Label , comment,FILE"])
@pytest.mark.parametrize("place", ["photos/labels.csv", "labels.csv"])
def test_labels_come_from_the_file(photos: Path, tmp_path: Path, head: str | None, place: str) -> None:
    """Class folders mean nothing then; files are named from the images' folder or from the table's."""
    told = labels(photos)
    prefix = "" if place.startswith("photos") else "photos/"
    if head and "comment" in head:
        rows = [f'"{label}",,{prefix}{name}' for name, label in told.items()]
    else:
        rows = [f'{prefix}{name},"{label}"' for name, label in told.items()]
    data = prepared(photos, write(tmp_path / place, ["", *rows], head))
    assert data.classes == ("even, so", "odd")
    has_labels(data, photos, told)


def test_names_from_each_of_several_folders(photos: Path, tmp_path: Path) -> None:
    (photos / "more").rename(tmp_path / "other")
    for file in (tmp_path / "other").iterdir():
        file.rename(file.with_name(f"other-{file.name}"))
    rows = [f"{file.name},{file.name[0]}" for folder in (photos, tmp_path / "other") for file in folder.iterdir()]
    table = write(tmp_path / "labels.csv", rows)
    config = FolderConfig(path=(photos, tmp_path / "other"), labels=table)
    assert finish(prepare(config)).classes == ("0", "o")


def test_a_name_that_may_be_two_files_is_refused(photos: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "labels.csv", [f"{name},{label!r}" for name, label in labels(photos).items()])
    (photos / "more").rename(tmp_path / "other")
    with pytest.raises(
        UserError, match=r"line 2: 000.png may be .*/other/000.png or .*photos/000.png; write its whole"
    ):
        finish(prepare(FolderConfig(path=(photos, tmp_path / "other"), labels=table)))
    rows = [f"{file},{file.parent.name}" for folder in (photos, tmp_path / "other") for file in folder.iterdir()]
    config = FolderConfig(path=(photos, tmp_path / "other"), labels=write(table, rows))
    assert finish(prepare(config)).classes == ("other", "photos")


def test_images_without_a_label_are_refused_or_left_out(photos: Path, tmp_path: Path) -> None:
    told = labels(photos)
    rows = [f'{name},"{label}"' for name, label in told.items()]
    rows[0] = rows[0].split(",")[0] + ", "  # an empty label
    table = write(tmp_path / "photos" / "labels.csv", rows[:-4])
    says = (
        r"labels.csv: 5 of 40 images have no label there \(000.png, more/012.png, more/013.png \.\.\.\); add them, or"
    )
    with pytest.raises(UserError, match=says):
        prepared(photos, table)
    with pytest.warns(OwnWarning, match="5 of 40 images have no label .* are left out"):
        data = prepared(photos, table, on_error="skip")
    has_labels(data, photos, dict(list(told.items())[1:-4]))


def test_rows_without_an_image_are_counted(photos: Path) -> None:
    rows = [f'{name},"{label}"' for name, label in labels(photos).items()]
    table = write(photos / "labels.csv", ["x.png,odd", "more/y.png,odd", *rows])
    for _ in range(2):  # also where the images are prepared already
        with pytest.warns(OwnWarning, match=r"2 of its rows name no image \(x.png, more/y.png\) and are not used"):
            assert sum(prepared(photos, table).sizes.values()) == 40


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            ["000,odd", "001,even"],
            r"none of its 2 rows, such as 000 names one of the 40 images, such as 000.png; write",
        ),
        ([], r"none of its 0 rows names one"),
        (["000.png,odd", "000.png,even"], r"line 3: 000.png is 'even' and was 'odd' before; give one"),
        (["000.png;odd"], r"line 2 has 1 columns; give two, file and label, with a comma between"),
        ([f"{i:03}.png," for i in range(24)], r"40 of 40 images have no label there"),
    ],
)
def test_what_is_wrong_is_said(photos: Path, rows: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        prepared(photos, write(photos / "labels.csv", rows))


def test_tables_that_cannot_be_read(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.csv: cannot be read \(No such file or directory\); give a CSV file"):
        prepared(photos, tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("file,label\na.png,Müller\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.csv: is no text in UTF-8 .* save it as CSV in UTF-8"):
        prepared(photos, tmp_path / "latin.csv")
    write(tmp_path / "three.csv", ["000.png,odd,1"], head=None)
    with pytest.raises(UserError, match=r"line 1 has 3 columns; give two"):
        prepared(photos, tmp_path / "three.csv")
    with pytest.raises(SettingsError, match=r"labels=labels.csv: labels.csv is a relative path"):
        FolderConfig.parse({"path": str(photos), "labels": "labels.csv"})


def test_a_changed_label_is_noticed(photos: Path) -> None:
    told = labels(photos)
    table = write(photos / "labels.csv", [f'{name},"{label}"' for name, label in told.items()])
    first = prepared(photos, table)
    told[names(photos)[0]] = "odd"
    write(table, [f'{name},"{label}"' for name, label in told.items()])
    second = prepared(photos, table)
    assert first.digest != second.digest
    has_labels(second, photos, told)
    assert second.manifest()["source"] == [str(photos), str(table)]


def test_added_folders_need_labels_too(photos: Path, tmp_path: Path, make_images: Callable[..., Path]) -> None:
    table = write(photos / "labels.csv", [f'{name},"{label}"' for name, label in labels(photos).items()])
    more = make_images(tmp_path / "incoming", 3, seed=5)
    config = FolderConfig(path=(photos,), labels=table)
    with pytest.raises(UserError, match=r"3 of 43 images have no label there \(000.png, 001.png, 002.png\)"):
        config.with_folders([more])
    write(table, [*table.read_text().splitlines()[1:], *(f"{more}/00{i}.png,new" for i in range(3))])
    assert finish(prepare(config.with_folders([more]))).classes == ("even, so", "new", "odd")


def test_from_where_a_person_is(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(tmp_path / "labels.csv", [f'photos/{name},"{label}"' for name, label in labels(photos).items()])
    monkeypatch.chdir(tmp_path)
    changes = read_changes(["data.name=folder", "data.path=photos", "data.labels=labels.csv"])
    monkeypatch.chdir("/")
    config = load_settings(changes).data
    assert isinstance(config, FolderConfig)
    assert config.labels == table
    assert FolderConfig.parse(config.flat()) == config
    assert FolderConfig.model_validate_json(config.model_dump_json()) == config
    monkeypatch.chdir(tmp_path)
    model = aemodels.fit("photos", "cvae", labels="labels.csv", latent_dim=2, training__epochs=1, data__image_size=8)
    assert model.card.classes == ("even, so", "odd")


def test_folders_of_splits_hold_beside_the_table(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    for split, number in (("train", 30), ("test", 8)):
        make_images(tmp_path / "own" / split / "any", number, (8, 8, 3), seed=number)
    files = sorted((tmp_path / "own").rglob("*.png"))
    lines = [f"{file.relative_to(tmp_path / 'own')},{'ab'[i % 2]}" for i, file in enumerate(files[:-2])]
    table = write(tmp_path / "own" / "labels.csv", lines)
    config = FolderConfig(path=(tmp_path / "own",), labels=table, on_error="skip")
    with pytest.warns(OwnWarning, match="2 of 38 images have no label"):
        data = finish(prepare(config))
    assert data.classes == ("a", "b")
    assert "38 files, 36 used; 2 without a label not read" in "; ".join(data.notes())
    assert not any("class" in note and "classes:" not in note for note in data.notes())
    assert data.manifest()["images_by_class"]["test"] == {"a": 4, "b": 4}
