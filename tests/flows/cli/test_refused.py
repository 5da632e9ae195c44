"""Tests what is refused before any work: settings, comparisons, searches, images, data sets and servers."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Answer, call, picture_folder, refused, save, shell


def closed_port() -> str:
    """Returns an address at which nothing answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def untouched(store, tmp_path: Path) -> Iterator[None]:
    """Checks afterwards that the store has no run, no version and no run folder."""
    yield
    assert store.client.search_registered_models() == []
    assert store.client.search_runs([e.experiment_id for e in store.client.search_experiments()]) == []
    assert not (tmp_path / "store" / "runs").exists()


# ---------------------------------------------------------------- settings


DEEP = ["model.trunk=conv", "model.trunk.channels=[4,4,4,4,4,4]"]
SETTINGS = {
    "unknown": (["model.latent_dm=3"], ["model.latent_dm=3", "did you mean model.latent_dim?"]),
    "unknown section": (["modle.beta=2"], ["modle.beta=2", "did you mean model?"]),
    "of another model": (["model=ae", "model.beta=2"], ["model.beta=2", "no such setting of model.name=ae"]),
    "range": (["training.epochs=0"], ["training.epochs=0", "at least 1; see `aemodels settings training`"]),
    "type": (["training.epochs=many"], ["training.epochs=many", "a whole number"]),
    "no value": (["training.epochs"], ["'training.epochs' is not a setting", "key=value"]),
    "json": (["model.trunk.widths=[4"], ["model.trunk.widths=[4", "[400, 200]"]),
    "model": (["model.name=vea"], ["model.name=vea", "did you mean vae?", "ae, vae"]),
    "data": (["data.name=mnits"], ["data.name=mnits", "did you mean mnist?", "digits, "]),
    "preset": (["--preset", "article-vea"], ["--preset article-vea", "did you mean article-vae?", "article-mlp"]),
    "file": (["--config", "no.json"], ["--config no.json", "no such file"]),
    "metric": (["evaluation.primary=accuracy"], ["evaluation.primary=accuracy", "frechet_samples"]),
    "likelihood": (
        ["model.likelihood=bernoulli", "evaluation.nll_samples=5"],
        ["evaluation.nll_samples=5", "no likelihood of grey pixels"],
    ),
    "limit": (['registry.limits={"accuracy": 1}'], ["registry.limits", "accuracy", "choose"]),
    "name": (["registry.name=a/b"], ["registry.name=a/b"]),
    "fractions": (["data.val_fraction=0.6", "data.test_fraction=0.6"], ["val_fraction=0.6", "below 1"]),
    "images": (["data.image_size=4"], ["data.image_size=4", "at least 8"]),
    "path": (["data=folder", "registry.name=own"], ["data.path: required"]),
    "no folder": (["data.path=/no/images", "data.name=folder", "registry.name=own"], ["/no/images", "no such folder"]),
    "no name": (["data.name=folder", "data.path=/no/images"], ["registry.name", "registry.name=NAME"]),
    "trunk": (DEEP, ["model.trunk.channels=[4, 4, 4, 4, 4, 4]", "images of side 28", "at most 4"]),
    "article": (
        ["--preset", "article-conv", "data=digits", "data.image_size=32"],
        ["model.trunk.name=article_conv", "(1, 32, 32)", "data.image_size=28"],
    ),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", SETTINGS)
def test_wrong_settings_are_refused(case: str) -> None:
    arguments, pieces = SETTINGS[case]
    refused(call("train", "--json", *TINY[3:], *arguments), *pieces)


COMPARISONS = {
    "nothing": ([], ["at least two systems", "name more"]),
    "one": (["digits"], ["at least two systems, here is digits"]),
    "preset": (["article-vea", "digits"], ["article-vea: unknown", "did you mean article-vae?"]),
    "preset of all": (["--preset", "artcle"], ["--preset artcle: unknown", "did you mean article"]),
    "file": (["no.json", "digits"], ["no.json: there is no such file"]),
    "setting": (["--preset", "article", "model.btea=2"], ["system mlp-ae: model.btea=2", "no such setting"]),
    "twice": (["digits", "digits"], ["digits: two systems"]),
    "data": (["digits", "conv-vae"], ["data: not the same", "data.name=... for all"]),
    "budget": (["article-vae", "article-mlp"], ["training.epochs: not the same", "training.epochs=... for all"]),
    "fit": (["--preset", "article", "data=digits", "data.image_size=32"], ["article_conv", "data.image_size=28"]),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", COMPARISONS)
def test_what_cannot_be_compared_is_refused(case: str) -> None:
    arguments, pieces = COMPARISONS[case]
    refused(call("compare", "--json", *arguments), *pieces)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["tune", "pipeline", "prepare"])
def test_every_command_refuses_them(command: str) -> None:
    refused(call(command, "model.latent_dm=3"), "did you mean model.latent_dim?")
    if command != "pipeline":  # which starts Prefect first
        refused(call(command, "data=folder", "data.path=/no/images", "registry.name=x"), "data.path=/no/images")


@pytest.mark.usefixtures("untouched")
def test_a_model_that_does_not_fit_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    for command in ("prepare", "tune", "train"):
        answer = call(command, *DEEP)
        refused(answer, "model.trunk.channels")
        assert "classifier" not in answer.err


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("space", "piece"),
    [
        ('{"model.latent_dm": {"low": 1, "high": 3}}', "did you mean model.latent_dim?"),
        ('{"model.latent_dim": {"low": 0, "high": 3}}', "at least 1"),
        ('{"model.latent_dim": {"low": 9, "high": 3}}', "low=9, high=3: low <= high"),
        ('{"seed": {"low": 0, "high": 3}}', "seed cannot vary"),
        ('{"model.beta": 3}', '"choices"'),
        ('{"model.beta": {"low": 1, "high": 3, "step": 1}}', 'model.beta.step: unknown; give {"low": NUMBER'),
        ('{"model.latent_dm": null}', "model.latent_dm=null: does not vary by itself"),
        ("foo", "'foo': give {KEY: {\"low\": NUMBER"),
    ],
)
def test_a_wrong_search_space_is_refused(space: str, piece: str) -> None:
    refused(call("tune", *TINY, f"tuning.space={space}"), "tuning.space", piece)


def test_no_setting_of_that_name_is_told() -> None:
    refused(call("settings", "trianing"), "trianing", "aemodels settings")


def test_a_wrong_command_as_a_person_starts_it(tmp_path: Path) -> None:
    answer = shell("train", "--json", "training.epochs=0", cwd=tmp_path, AEMODELS_STORE=str(tmp_path / "store"))
    refused(answer, "training.epochs=0")
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- images and data sets


def _train_on(folder: Path, *settings: str) -> Answer:
    return call("train", "--json", *TINY, "data=folder", f"data.path={folder}", "registry.name=own", *settings)


@pytest.mark.usefixtures("untouched")
def test_wrong_image_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder(tmp_path / "grey", 20)
    (tmp_path / "empty").mkdir()
    refused(_train_on(tmp_path / "empty"), f"data.path={tmp_path / 'empty'}", "no images in it", "give the folder")
    refused(_train_on(folder / "000.png"), "000.png", "is a file", "give the folder")
    few = picture_folder(tmp_path / "few", 4)
    refused(_train_on(few), "4 images are too few", "data.val_fraction=0.15", "at least 7")
    small = picture_folder(tmp_path / "small", 20, side=6)
    refused(_train_on(small), "6x6", "data.image_size")
    save(tmp_path / "sizes" / "a.png", np.zeros((16, 16)))
    refused(_train_on(picture_folder(tmp_path / "sizes", 20, side=12)), "12x12", "16x16", "set data.image_size")

    def closed(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", closed)  # the tests may run as root, who reads all
    refused(_train_on(folder), str(folder), "Permission denied", "give read permission")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("damage", ["truncated", "no image"])
def test_a_damaged_image_is_named(tmp_path: Path, damage: str) -> None:
    folder = picture_folder(tmp_path / "images", 20)
    file = folder / "007.png"
    file.write_bytes(file.read_bytes()[:150] if damage == "truncated" else b"hello")
    refused(_train_on(folder), str(file), "cannot be read", "data.on_error=skip")
    prepared = call("prepare", "data=folder", f"data.path={folder}", "data.on_error=skip", "--json", *TINY)
    assert sum(prepared.json["sizes"].values()) == 19
    assert "1 unreadable image skipped" in prepared.err
    assert "007.png" in prepared.err


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_data_that_are_nowhere_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AEMODELS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would remember the proxy in tests that follow
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, closed_port())
        monkeypatch.setenv(variable.upper(), closed_port())
    answer = call("train", f"data.name={name}")
    refused(answer, f"data.name={name}", "neither on disk nor downloadable", "AEMODELS_DATA", str(tmp_path / "data"))
    assert not [path for path in (tmp_path / "data").rglob("*") if path.suffix != ".lock"]


@pytest.mark.usefixtures("untouched")
def test_a_damaged_prepared_array_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    settings = ["data=folder", f"data.path={picture_folder(tmp_path / 'images', 20)}", "registry.name=own", *TINY]
    folder = Path(call("prepare", "--json", *settings).json["path"])
    file = folder / "train_images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    for command in ("train", "tune"):
        refused(call(command, *settings), str(file), "damaged", f"delete the folder {folder}")


# ---------------------------------------------------------------- servers


@pytest.mark.parametrize(
    "command",
    [
        ["train", *TINY],
        ["tune", *TINY],
        ["pipeline", *TINY],
        ["evaluate", "digits@champion"],
        ["generate", "digits@champion"],
        ["serve", "digits@champion", "--port", "0"],
        ["models"],
        ["promote", "digits", "1"],
        ["rollback", "digits"],
        ["history", "digits"],
    ],
    ids=lambda command: command[0],
)
def test_a_server_that_is_not_there_is_told_before_any_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = closed_port()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("AEMODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))
    answer = call(*command)
    refused(answer, f"MLFLOW_TRACKING_URI={address}", "does not answer", "Start it", "unset MLFLOW_TRACKING_URI")
    assert answer.err.startswith("error: ")
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "store").exists()


def test_a_server_that_is_silent_is_given_up_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        refused(call("train", *TINY), "MLFLOW_TRACKING_URI", "does not answer")
        assert time.monotonic() - started < 5
