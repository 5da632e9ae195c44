"""Tests commands that use models: they generate by class, by likeness and from other priors, and denoise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from commands import call, picture_folder, save
from PIL import Image
from quick import first

from aemodels.checkpoints.checkpoint import load_model, save_card, save_weights
from aemodels.config import section_kinds
from aemodels.data import PreparedData
from aemodels.data.digits import DigitsConfig
from aemodels.experiment import Experiment
from aemodels.nn.trunks import MLPConfig
from aemodels.priors import PriorName
from aemodels.serving.answers import MOST_GENERATED, Question, answer
from aemodels.training.config import TrainingConfig

TRUNK = MLPConfig(widths=(16,))
KINDS: dict[str, Any] = {  # every model of the union
    name: kind.model_validate(
        {"latent_dim": 3, "trunk": TRUNK} | ({"likelihood": "bernoulli"} if kind.has_encoder else {})
    )
    for name, kind in section_kinds(Experiment.model_fields["model"]).items()
}
CANNOT_LOOK = "gan: a gan has no encoder and cannot look at images; give an autoencoder, or let it draw without them"
AUTOENCODERS = [name for name, model in KINDS.items() if model.has_encoder]


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that makes untrained models of grey 8 x 8 images, as finished runs leave them."""

    def make(kind: str, noise: str = "gaussian") -> Path:
        folder = tmp_path / kind
        folder.mkdir()
        data = PreparedData(
            name="tiny",
            path=folder,
            digest="d" * 32,
            image_shape=(1, 8, 8),
            classes=("cat", "dog", "7"),
            sizes={"train": 1, "val": 1, "test": 1},
            binarize="none",
        )
        torch.manual_seed(0)
        training = TrainingConfig().override({"corruption": noise if KINDS[kind].has_encoder else "none"})
        digits = DigitsConfig(image_size=None)  # 8 x 8, as the model
        save_card(folder, Experiment(data=digits, model=KINDS[kind], training=training), data)
        codes = None if kind == "gan" else torch.randn(300, 3)
        save_weights(folder, KINDS[kind].build(data.image_shape, data.num_classes), codes)
        return folder

    return make


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def drawn(folder: Path, *options: object) -> np.ndarray:
    out = folder / "out.png"
    told = call("generate", folder, "-n", 8, "-o", out, "--json", *options).json
    assert told["images"] == 8
    return pixels(out)


def test_a_conditional_model_draws_the_class_by_its_name_or_number(model: Callable[[str], Path]) -> None:
    folder = model("cvae")
    by_name = drawn(folder, "--label", "dog")
    assert np.array_equal(by_name, drawn(folder, "--label", 1))
    assert not np.array_equal(by_name, drawn(folder, "--label", "cat"))
    assert np.array_equal(drawn(folder, "--label", "7"), drawn(folder, "--label", 2))


@pytest.mark.parametrize("prior", first(2, ["gaussian", "mixture", "flow"]))
def test_other_priors_draw_other_images(model: Callable[[str], Path], prior: str, monkeypatch) -> None:
    monkeypatch.setattr("aemodels.priors.flow.FLOW_STEPS", 100)
    folder = model("vae")
    assert not np.array_equal(drawn(folder), drawn(folder, "--prior", prior))
    assert np.array_equal(drawn(folder, "--prior", prior), drawn(folder, "--prior", prior))


@pytest.mark.parametrize("kind", AUTOENCODERS)
@pytest.mark.parametrize("count", [2, 40])
def test_more_like_these(model: Callable[[str], Path], tmp_path: Path, kind: str, count: int) -> None:
    folder, images = model(kind), picture_folder(tmp_path / "like", count, side=8)
    assert drawn(folder, "--like", images).shape == drawn(folder).shape


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_more_like_one_image_are_not_one_picture(model: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    folder, image = model(kind), picture_folder(tmp_path / "like", 1, side=8) / "000.png"
    if kind == "ae":  # its code is a point
        answer = call("generate", folder, "--like", image)
        assert answer.code == 2
        assert f"error: one image is one code of {folder} (model.name=ae)" in answer.err
        assert "give at least two images" in answer.err
    else:
        grid = drawn(folder, "--like", image)
        side = grid.shape[0]  # one row of squares
        assert not np.array_equal(grid[:, :side], grid[:, side : 2 * side])


def test_denoise_writes_a_file_for_each_image(model: Callable[[str], Path], tmp_path: Path) -> None:
    folder, images = model("vae"), picture_folder(tmp_path / "noisy", 3, side=8)
    told = call("denoise", folder, images, "-o", tmp_path / "clean", "--json").json
    assert told == {
        "model": str(folder),
        "images": 3,
        "trained on noise": "gaussian",
        "out": str(tmp_path / "clean"),
    }
    files = sorted((tmp_path / "clean").iterdir())
    assert [file.name for file in files] == ["00000-000.png", "00001-001.png", "00002-002.png"]
    assert pixels(files[0]).shape == (8, 8)


@pytest.mark.parametrize(("noise", "told"), [("gaussian", False), ("none", True)])
def test_a_model_that_was_not_trained_to_denoise_says_so(
    model: Callable[..., Path], tmp_path: Path, noise: str, told: bool
) -> None:
    folder, images = model("vae", noise), picture_folder(tmp_path / "noisy", 3, side=8)
    answer = call("denoise", folder, images, "-o", tmp_path / "clean", "--json")
    assert answer.json["trained on noise"] == noise
    assert answer.err.startswith(f"note: {folder} was not trained to denoise") == told
    assert ("training.corruption=gaussian" in answer.err) == told


def test_a_conditional_model_says_which_classes_it_assumed(model: Callable[[str], Path], tmp_path: Path) -> None:
    folder, images = model("cvae"), picture_folder(tmp_path / "images", 5, side=8)
    pixels_of = [torch.from_numpy(pixels(path) / np.float32(255))[None] for path in sorted(images.iterdir())]
    classes = load_model(folder, "cpu").model.classify(torch.stack(pixels_of)).tolist()
    names = [("cat", "dog", "7")[label] for label in classes]
    assert len(set(names)) > 1
    for command in ("reconstruct", "denoise", "embed"):
        out = tmp_path / {"reconstruct": "out.png", "denoise": "clean", "embed": "codes.npz"}[command]
        told = call(command, folder, images, "-o", out, "--json").json["assumed class"]
        assert sorted(told.split(", ")) == sorted(f"{name} ({names.count(name)})" for name in set(names))
    assert np.load(tmp_path / "codes.npz")["classes"].tolist() == names
    scored = call("score", folder, images, "--json").json
    assert [row["assumed class"] for row in sorted(scored, key=lambda row: row["file"])] == names
    assert "assumed class" in call("score", folder, images).out
    assert call("score", model("vae"), images, "--json").json[0].keys() == {"file", "mse"}


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            "vae",
            ["generate", "--label", "7"],
            "(model.name=vae) cannot be asked for a class; leave the label out, or train model.name=cvae",
        ),
        ("cvae", ["generate", "--label", "bird"], "label=bird: unknown; choose one of cat, dog, 7"),
        (
            "cvae",
            ["generate", "--prior", "mixture"],
            "is conditional, with a prior for each class; give a label instead",
        ),
        ("vae", ["generate", "--prior", "mixture", "--seed", f"{2**63}"], "seed=9223372036854775808: must be"),
        ("gan", ["generate", "--prior", "flow"], "has no encoder and so no codes; leave the prior out"),
        ("gan", ["generate", "--like", "{damaged}"], CANNOT_LOOK),
        ("vae", ["generate", "--like", "{empty}"], "no images in it"),
        ("vae", ["generate", "--like", "{images}", "--prior", "flow"], "give only one of them"),
        ("gan", ["reconstruct", "{damaged}"], CANNOT_LOOK),
        ("gan", ["embed", "{damaged}"], CANNOT_LOOK),
        ("gan", ["denoise", "{damaged}"], CANNOT_LOOK),
        ("gan", ["score", "{damaged}"], CANNOT_LOOK),
        ("vae", ["denoise", "{images}", "-o", "{file}"], "is a file; give a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_asked_for(
    model: Callable[[str], Path], tmp_path: Path, kind: str, arguments: list[str], message: str
) -> None:
    images = picture_folder(tmp_path / "images", 2, side=8)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.png").write_bytes(b"no image")
    places = {"images": images, "empty": tmp_path / "empty", "file": images / "000.png"}
    places["damaged"] = tmp_path / "damaged.png"  # not looked at by who cannot
    command, *rest = (argument.format(**places) for argument in arguments)
    answer = call(command, model(kind), *rest)
    assert answer.code == 2
    assert message in answer.err


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--prior", "normal", ["'normal' is not one of", *get_args(PriorName)]),
        ("--prior", "", ["'' is not one of", *get_args(PriorName)]),
        ("-n", 0, ["greater than or equal to 1"]),
        ("-n", MOST_GENERATED + 1, [f"less than or equal to {MOST_GENERATED}"]),
        ("--seed", -1, ["greater than or equal to 0"]),
    ],
)
def test_what_no_model_can_draw_is_refused_before_one_is_looked_for(option: str, value: object, allowed) -> None:
    answer = call("generate", "no-such-model", option, value)
    assert answer.code == 2
    for piece in (f"'{option}'", *allowed):
        assert piece in answer.err
    assert "no-such-model" not in answer.err


def test_a_model_without_codes_says_so(model: Callable[[str], Path]) -> None:
    folder = model("vae")
    (folder / "codes.safetensors").unlink()
    answer = call("generate", folder, "--prior", "flow")
    assert (answer.code, "train the model again" in answer.err) == (2, True)


def test_codes_that_were_exchanged_are_found_out(model: Callable[[str], Path]) -> None:
    folder = model("vae")
    (folder / "codes.safetensors").write_bytes((model("ae") / "codes.safetensors").read_bytes() + b"x")
    answer = call("generate", folder, "--prior", "gaussian")
    assert (answer.code, "damaged codes" in answer.err) == (2, True)


def test_a_conditional_model_is_judged_on_its_own_classes_only(model: Callable[[str], Path], tmp_path: Path) -> None:
    images = picture_folder(tmp_path / "images", 30, side=8)
    answer = call("evaluate", model("cvae"), "data.name=folder", f"data.path={images}", "data.image_size=8")
    assert answer.code == 2
    assert "conditional on the classes cat, dog, 7; these images have no labels; choose" in answer.err


def test_a_conditional_model_needs_classes(tmp_path: Path, store: object) -> None:
    del store
    images = picture_folder(tmp_path / "images", 30, side=8)
    settings = ["data.name=folder", f"data.path={images}", "registry.name=x", "model.name=cvae", "data.image_size=8"]
    answer = call("train", *settings)
    assert answer.code == 2
    assert "model.name=cvae: needs images of several classes, these have no labels" in answer.err


def test_a_nearly_black_file_is_no_black_and_white_one(model: Callable[[str], Path], tmp_path: Path) -> None:
    """The pixels of files are bytes, even where all of them are 0 or 1."""
    folder = model("ae")
    pixels = np.random.default_rng(0).integers(0, 2, (8, 8))
    dark = call("score", folder, save(tmp_path / "dark.png", pixels), "--json").json[0]["mse"]
    expected = answer(load_model(folder).model, pixels[None] / 255, Question("score"))
    assert dark == pytest.approx(float(expected[0]), rel=1e-5)
