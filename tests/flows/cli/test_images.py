"""Tests a trained model on the command line: generate, reconstruct, embed and score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Shop, call, refused, save
from disks import small_disk
from PIL import Image


def test_generate(reference: str) -> None:
    for n, size in ((10, (8, 2)), (3, (3, 1))):
        assert call("generate", reference, "-n", n, "-o", "grid.png", "--json").json["images"] == n
        grid = Image.open("grid.png")
        assert grid.mode == "L"
        assert grid.size == tuple(count * (3 * 28 + 2) for count in size)  # magnified three times, a line around each
    first = np.asarray(grid)
    call("generate", reference, "-n", 3, "-o", "again.png")
    call("generate", reference, "-n", 3, "--seed", 1, "-o", "other.png")
    assert np.array_equal(first, np.asarray(Image.open("again.png")))
    assert not np.array_equal(first, np.asarray(Image.open("other.png")))


def test_reconstruct_draws_reconstructions_above_the_images_as_they_are(reference: str, in_shop: Shop) -> None:
    told = call("reconstruct", reference, *in_shop.images, "-o", "out.png", "--json").json
    assert told["images"] == 10
    cells = _cells(np.asarray(Image.open("out.png")), 28 * 3 + 2)
    assert cells.shape[:2] == (4, 8)  # 8 reconstructions, their originals, 2 reconstructions, theirs
    given = [np.asarray(Image.open(path)) for path in in_shop.images]
    for i, image in enumerate(given):
        row, column = 2 * (i // 8) + 1, i % 8
        assert np.array_equal(cells[row, column], image), "upright, in order, unchanged"
        drawn = cells[row - 1, column] / 255
        assert 0 < np.mean((drawn - image / 255) ** 2) < 0.5
    assert (cells[2:, 2:] == 255).all()  # paper where there is no image


def _cells(grid: np.ndarray, side: int) -> np.ndarray:
    """Splits a grid into (rows, columns, 28, 28), without lines and magnification."""
    rows, columns = grid.shape[0] // side, grid.shape[1] // side
    cells = grid.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
    return cells[:, :, 2:-1:3, 2:-1:3]


def test_embed_writes_codes(reference: str, in_shop: Shop) -> None:
    told = call("embed", reference, in_shop.images[0].parent, "-o", "codes.npz", "--json").json
    assert (told["images"], told["latent_dim"]) == (10, 2)
    with np.load("codes.npz", allow_pickle=False) as saved:
        assert saved["codes"].shape == (10, 2)
        assert saved["codes"].dtype == np.float32
        assert np.isfinite(saved["codes"]).all()
        assert saved["files"].tolist() == sorted(map(str, in_shop.images))


def test_a_full_disk_leaves_no_half_of_a_picture_and_the_one_before(reference: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        grid = disk / "grid.png"
        grid.write_bytes(b"the one before")
        refused(call("generate", reference, "-n", 100, "-o", grid), str(grid), "No space left on device", "make room")
        assert [path.read_bytes() for path in disk.iterdir()] == [b"the one before"]


def test_score_lists_the_worst_first(reference: str, in_shop: Shop) -> None:
    rows = call("score", reference, *in_shop.images, "--json").json
    errors = [row["mse"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 10
    assert sorted(row["file"] for row in rows) == sorted(map(str, in_shop.images))
    told = call("reconstruct", reference, rows[0]["file"], "-o", "out.png", "--json").json
    assert told["mse"] == pytest.approx(errors[0])


def test_images_of_other_kinds_are_brought_to_the_models_shape(in_shop: Shop, tmp_path: Path) -> None:
    digit = np.asarray(Image.open(in_shop.images[0]))
    save(tmp_path / "a.png", digit)
    save(tmp_path / "b.png", np.repeat(digit[..., None], 3, axis=2))
    save(tmp_path / "c.png", digit.repeat(2, 0).repeat(2, 1))
    rows = call("score", "digits@champion", *(tmp_path / f"{name}.png" for name in "abc"), "--json").json
    errors = {Path(row["file"]).stem: row["mse"] for row in rows}
    assert errors["b"] == errors["a"]
    assert errors["c"] == pytest.approx(errors["a"], rel=0.1)


def test_folders_of_images_that_are_called_like_a_version_hide_no_model(in_shop: Shop, tmp_path: Path) -> None:
    image = in_shop.images[0]
    save(tmp_path / "digits" / "1" / "a.png", np.asarray(Image.open(image)))
    for model in ("digits/1", "digits@champion"):
        assert call("score", model, image, "--json").json == call("score", "digits@champion", image, "--json").json
    assert call("generate", "digits/1", "-n", 2, "-o", "grid.png", "--json").json["model"] == "digits/1"
    assert call("report", "digits/1", "-o", "report.html", "--json").code == 0
    assert call("monitor", "digits", "digits", "--json").json["version"] == 1


# ---------------------------------------------------------------- what is refused


def test_wrong_images_and_outputs_are_refused(in_shop: Shop, tmp_path: Path) -> None:
    model, image = "digits@champion", in_shop.images[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:100])
    for command in ("reconstruct", "embed", "score"):
        refused(call(command, model, "missing.png"), "missing.png", "no such file or folder", "give image files")
        refused(call(command, model, "empty"), "empty", "no images")
        refused(call(command, model, image, "broken.png"), "broken.png", "cannot be read", "mend or remove it")
        assert call(command, model).code == 2  # no images at all
    for command in (["generate", model], ["reconstruct", model, image]):
        refused(call(*command, "-o", "no/folder.png"), "-o no/folder.png", "no folder", "make it first")
        refused(call(*command, "-o", "out.txt"), "-o out.txt", ".png")
    refused(call("embed", model, image, "-o", "no/codes.npz"), "-o no/codes.npz", "no folder")
    refused(call("embed", model, image, "-o", "codes.csv"), "-o codes.csv", ".npz")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "broken.png"}


@pytest.mark.parametrize("command", ["reconstruct", "denoise", "embed", "score", "generate"])
def test_a_folder_with_files_that_cannot_be_read_is_used_without_them(
    command: str, in_shop: Shop, tmp_path: Path
) -> None:
    for i in range(3):
        save(tmp_path / "new" / f"{i}.png", np.asarray(Image.open(in_shop.images[i])))
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    arguments = [command, "digits@champion", *(["--like"] if command == "generate" else [])]
    answer = call(*arguments, "new", "--json")
    told = answer.json
    assert (len(told) if command == "score" else told.get("like", told["images"])) == 3
    reason = "(no JPEG, PNG, WEBP, BMP, TIFF or GIF)"
    assert f"note: 1 file cannot be read and is left out: new/broken.png {reason}\n" in answer.err
    refused(call(*arguments, "new/broken.png"), "new/broken.png cannot be read")
    for i in range(3):
        (tmp_path / "new" / f"{i}.png").unlink()
    refused(call(*arguments, "new"), f"new: none of the images can be read, such as new/broken.png {reason}")


def test_images_of_other_channels_are_brought_to_the_models(in_shop: Shop, tmp_path: Path) -> None:
    """Grey pixels in a colour file count as grey. Colours are never dropped silently."""
    grey = Image.open(in_shop.images[0])
    grey.convert("RGB").save(tmp_path / "grey.png")
    Image.new("RGB", (28, 28), "red").save(tmp_path / "red.png")
    same = call("score", in_shop.trained[0]["folder"], tmp_path / "grey.png", "--json").json[0]["mse"]
    assert same == call("score", in_shop.trained[0]["folder"], in_shop.images[0], "--json").json[0]["mse"]
    answer = call("score", in_shop.trained[0]["folder"], tmp_path / "red.png", tmp_path / "grey.png")
    assert answer.code == 0
    told = "note: 1 image is colour and is read as grey, as the model's own images are\n"
    assert answer.err.count(told) == 1
