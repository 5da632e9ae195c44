"""The command line: what it answers, for people and for machines, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app

TINY = ["model.trunk=mlp", "model.trunk.widths=[16]", "model.latent_dim=2", "training.epochs=2", "training.images=200"]
SMALL_SEARCH = ["tuning.trials=2", "tuning.generation=2", "tuning.epochs=1", "tuning.images=200"]


class Answer(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)  # fails on anything beside the JSON


def call(*arguments: object) -> Answer:
    """A command in this process; what it sets of the environment does not stay."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(app, list(map(str, arguments)))
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, handler)
    return Answer(result.exit_code, result.stdout, result.stderr)


def shell(*arguments: object, cwd: Path, **environment: str) -> Answer:
    """A command as a person starts it."""
    program = Path(sys.executable).with_name("aemodels")
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=180,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def closed_port() -> str:
    """An address at which nothing answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def picture_folder(folder: Path, count: int, side: int = 16, channels: int = 1) -> Path:
    """Images of noise."""
    rng = np.random.default_rng(0)
    shape = (side, side) if channels == 1 else (side, side, channels)
    for i in range(count):
        save(folder / f"{i:03}.png", rng.integers(0, 256, shape))
    return folder


class Shop(NamedTuple):
    """A store with two trained models of digits; the first is the champion."""

    folder: Path
    trained: list[dict[str, Any]]
    images: list[Path]  # some digits as files


@pytest.fixture(scope="session")
def shop(folders: Path, empty_database: Path, digits) -> Shop:
    store = folders / "shop"
    store.mkdir()
    shutil.copy(empty_database, store / "mlflow.db")
    pixels = digits.split("test").images
    images = [save(folders / "pictures" / f"{i}.png", pixels[i, 0]) for i in range(10)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEMODELS_STORE", str(store))
        trained = [call("train", "--json", *TINY, f"seed={seed}").json for seed in (0, 1)]
        assert call("promote", "digits", 1).code == 0
    return Shop(store, trained, images)


@pytest.fixture
def in_shop(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop, from another working directory."""
    monkeypatch.setenv("AEMODELS_STORE", str(shop.folder))
    monkeypatch.chdir(tmp_path)
    return shop


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    code = f"""
import sys
from flows.cli import app
app({arguments}, standalone_mode=False)
print("loaded:", *sorted({{"torch", "mlflow", "prefect", "optuna", "numpy", "rich"}} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in found.stdout
    assert found.stdout.splitlines()[-1] == "loaded:"


def test_every_command_says_what_it_is_for() -> None:
    names = "pipeline prepare tune train evaluate settings models promote rollback history"
    names += " generate reconstruct denoise embed score monitor compare report serve ui"
    listed = call("--help").out
    for name in names.split():
        assert name in listed
        assert "Usage:" in call(name, "--help").out


# ---------------------------------------------------------------- JSON, and tables


def test_train_answers_a_machine(shop: Shop) -> None:
    first, second = shop.trained
    assert (first["model"], first["version"], second["version"]) == ("digits", 1, 2)
    assert first["run_id"] != second["run_id"]
    assert {"test/negative_elbo", "test/mse", "test/frechet_samples", "test/probe_accuracy"} <= first.keys()
    assert all(isinstance(value, float) for key, value in first.items() if key.startswith("test/"))
    assert first["seconds"] > 0
    assert first["images_per_second"] > 0
    folder = Path(first["folder"])
    assert {"config.json", "weights.safetensors", "figures", "report.html"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "state.safetensors").exists()
    assert all(Image.open(path).size[0] > 100 for path in first["figures"])


def test_what_train_answers_is_what_is_tracked(in_shop: Shop) -> None:
    from aemodels.store import open_store

    told = in_shop.trained[0]
    client = open_store().client
    run = client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    tracked = {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    assert tracked == {name: value for name, value in told.items() if name.startswith("test/")}
    assert [m.step for m in client.get_metric_history(told["run_id"], "train/seconds")] == [1, 2]
    assert run.data.params["model.trunk.widths"] == "[16]"


def test_prepare_answers_a_machine(digits) -> None:
    told = call("prepare", "--json").json
    assert told["digest"] == digits.digest
    assert sum(told["sizes"].values()) == 1797


def test_settings_answers_a_machine() -> None:
    rows = {(row["key"], row["kind"]): row for row in call("settings", "--json").json}
    assert rows["training.epochs", ""]["default"] == 20
    assert rows["training.epochs", ""]["type"] == "int, >= 1"
    assert ("model.beta", "vae") in rows
    assert ("model.beta", "ae") not in rows
    assert all(row["description"] for row in rows.values() if row["key"] != "data.name")
    assert {row["key"].split(".")[0] for row in call("settings", "model", "--json").json} == {"model"}


def test_compare_answers_people_and_machines(store, tmp_path: Path) -> None:
    file = tmp_path / "gan.json"
    file.write_text(json.dumps({"model": {"name": "gan", "trunk": {"name": "mlp", "widths": [16]}}}))
    arguments = ["digits", file, "training.epochs=1", "training.images=200", "evaluation.samples=100"]
    told = call("compare", "--json", *arguments).json
    assert [row["system"] for row in told["table"]["rows"]] == ["digits", "gan"]
    assert told["table"]["rows"][0]["scores"]["mse"]["spread"] is None
    asked = "digits gan.json training.epochs=1 training.images=200 evaluation.samples=100"
    assert told["table"]["origin"].startswith(f"Made by `aemodels compare {asked}`: seed 0; digits, digest ")
    children = store.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{told['run_id']}'")
    assert {run.info.run_id for run in children} == set(json.loads(_query(told["compare_url"], "runs")))
    shown = call("compare", *arguments, "--seeds", 2)
    assert shown.code == 0
    assert "frechet_samples" in shown.out
    assert "±" in shown.out
    assert "table.md" in shown.out


def test_the_command_in_a_comparisons_table_names_no_folders() -> None:
    from flows.cli_compare import _command

    arguments = ["/home/me/wide.json", "article-vae", 'data.path=["/my images/b", "c/d"]', "data.path=~/photos"]
    told = """aemodels compare --preset fast wide.json article-vae 'data.path=["b", "d"]' data.path=photos --seeds 3"""
    assert _command(arguments, ["fast"], 3) == told


def test_tune_answers_a_machine(store) -> None:
    told = call("tune", "--json", *TINY, *SMALL_SEARCH).json
    assert [trial["state"] for trial in told["trials"]] == ["complete", "complete"]
    objectives = [trial["values"]["frechet_samples"] for trial in told["trials"]]
    assert objectives == sorted(objectives)
    assert told["best"] == told["trials"][0]["params"]
    assert told["best"].keys() == {"model.latent_dim", "model.beta"}
    assert store.client.search_registered_models() == []
    children = store.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{told['run_id']}'")
    assert {run.info.run_id for run in children} == set(json.loads(_query(told["compare_url"], "runs")))
    assert all(run.info.status == "FINISHED" and "objective" in run.data.metrics for run in children)


def _query(url: str, name: str) -> str:
    from urllib.parse import parse_qs, urlsplit

    return parse_qs(urlsplit(url.replace("#", "")).query)[name][0]


@pytest.mark.usefixtures("in_shop")
def test_people_read_tables() -> None:
    listed = call("models")
    assert listed.code == 0
    assert "champion" in listed.out
    assert "frechet_samples" in listed.out
    assert "training.epochs" in call("settings", "training").out
    prepared = call("prepare")
    assert "1259 train, 269 val, 269 test" in prepared.out
    assert prepared.err.splitlines().count("preparing digits") == 1


@pytest.mark.usefixtures("store")
def test_an_empty_store_says_how_to_fill_it() -> None:
    assert "aemodels train" in call("models").out
    assert call("models", "--json").json == []


def test_a_command_as_a_person_starts_it(shop: Shop, tmp_path: Path) -> None:
    """From a folder of no meaning: JSON alone on standard output, nothing on standard error."""
    folder = {"AEMODELS_STORE": str(shop.folder)}
    told = shell("generate", "digits@champion", "-n", 4, "-o", "four.png", "--json", cwd=tmp_path, **folder)
    assert told.json == {"model": "digits@champion", "images": 4, "seed": 0, "out": "four.png"}
    assert told.err == ""
    assert (tmp_path / "four.png").exists()


# ---------------------------------------------------------------- registered models


@pytest.fixture
def own_registry(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the shop's database: aliases may be moved."""
    (tmp_path / "store").mkdir()
    with (
        closing(sqlite3.connect(shop.folder / "mlflow.db")) as database,
        closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as copy,
    ):
        database.backup(copy)  # with what is in the write-ahead log
    monkeypatch.setenv("AEMODELS_STORE", str(tmp_path / "store"))


def _champion() -> int:
    (row,) = [row for row in call("models", "--json").json if "champion" in row["aliases"]]
    return row["version"]


@pytest.mark.usefixtures("own_registry")
def test_promote_and_rollback() -> None:
    assert _champion() == 1
    told = call("promote", "digits", 2, "--json").json
    assert (told["version"], told["aliases"]) == (2, ["champion"])
    assert _champion() == 2
    assert call("rollback", "digits", "--json").json["version"] == 1
    assert _champion() == 1
    assert "version 2 is the champion now" in call("rollback", "digits", "--reason", "on second thought").out
    assert [row["version"] for row in call("history", "digits", "--json").json] == [1, 2, 1, 2]
    assert "rollback from version 1: on second thought" in call("history", "digits").out
    refused = call("promote", "digits", 7)
    assert (refused.code, _champion()) == (2, 2)
    assert "digits/7: not registered; there is digits/1, digits/2" in refused.err


@pytest.mark.usefixtures("own_registry")
def test_nothing_to_go_back_to_is_told() -> None:
    refused = call("rollback", "digits")
    assert refused.code == 2
    assert "aemodels promote digits VERSION" in refused.err


def test_models_lists_newest_first_with_metrics(in_shop: Shop) -> None:
    rows = call("models", "--json").json
    assert [row["version"] for row in rows] == [2, 1]
    assert [row["aliases"] for row in rows] == [["challenger"], ["champion"]]
    for row, trained in zip(rows, reversed(in_shop.trained), strict=True):
        assert row["run_id"] == trained["run_id"]
        assert row["test/mse"] == pytest.approx(trained["test/mse"])


# ---------------------------------------------------------------- using a model


@pytest.fixture(params=["champion", "folder"])
def reference(request: pytest.FixtureRequest, in_shop: Shop) -> str:
    """The same model by its two names."""
    return "digits@champion" if request.param == "champion" else in_shop.trained[0]["folder"]


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
    """A grid -> (rows, columns, 28, 28), without lines and magnification."""
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


@pytest.mark.usefixtures("own_registry")
def test_evaluate_repeats_what_training_measured(shop: Shop) -> None:
    told = call("evaluate", "digits/1", "--json").json
    assert {k: v for k, v in told.items() if k.startswith("test/")} == {
        k: v for k, v in shop.trained[0].items() if k.startswith("test/")
    }
    assert told["run_id"] != shop.trained[0]["run_id"]
    assert "judged again" in Path(told["report"]).read_text()
    assert call("evaluate", "digits/1", "evaluation.samples=100", "--json").json["test/frechet_images"] == 100


def test_report_is_found_copied_and_opened(reference: str, in_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    content = Path(in_shop.trained[0]["report"]).read_text()
    assert "<h1>digits/1</h1>" in content
    file = Path(call("report", reference, "--json").json["report"])
    assert file.read_text() == content
    assert call("report", reference, "--out", "copy.html").code == 0
    assert Path("copy.html").read_text() == content
    assert opened == []
    first, second = call("report", reference), call("report", reference)
    assert opened == [file.as_uri()] * 2
    assert str(file) in first.out
    assert first.err == ""
    assert (second.code, second.err) == (0, "no browser was found on this machine; open the file in one\n")


@pytest.mark.usefixtures("own_registry")
def test_the_report_of_an_evaluation_is_opened_by_its_folder() -> None:
    report = Path(call("evaluate", "digits/1", "--json").json["report"])
    assert call("report", report.parent, "--json").json["report"] == str(report)


# ---------------------------------------------------------------- what is refused


def refused(answer: Answer, *pieces: str) -> None:
    """Exit code 2 and one message, on standard error, with all the pieces."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("error: ") == 1
    message = answer.err[answer.err.index("error: ") :]
    for piece in pieces:
        assert piece in message


@pytest.fixture
def untouched(store, tmp_path: Path) -> Iterator[None]:
    """Afterwards there is no run, no version and no run folder in the store."""
    yield
    assert store.client.search_registered_models() == []
    assert store.client.search_runs([e.experiment_id for e in store.client.search_experiments()]) == []
    assert not (tmp_path / "store" / "runs").exists()


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
    "likelihood": (["evaluation.nll_samples=5"], ["evaluation.nll_samples=5", "no likelihood of grey pixels"]),
    "limit": (['registry.limits={"accuracy": 1}'], ["registry.limits", "accuracy", "choose"]),
    "name": (["registry.name=a/b"], ["registry.name=a/b"]),
    "fractions": (["data.val_fraction=0.6", "data.test_fraction=0.6"], ["val_fraction=0.6", "below 1"]),
    "images": (["data.image_size=4"], ["data.image_size=4", "at least 8"]),
    "path": (["data=folder", "registry.name=own"], ["data.path: required"]),
    "no folder": (["data.path=/no/images", "data.name=folder", "registry.name=own"], ["/no/images", "no such folder"]),
    "no name": (["data.name=folder", "data.path=/no/images"], ["registry.name", "registry.name=..."]),
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
        assert "feature network" not in answer.err


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("space", "piece"),
    [
        ('{"model.latent_dm": {"low": 1, "high": 3}}', "did you mean model.latent_dim?"),
        ('{"model.latent_dim": {"low": 0, "high": 3}}', "at least 1"),
        ('{"model.latent_dim": {"low": 9, "high": 3}}', "low <= high"),
        ('{"seed": {"low": 0, "high": 3}}', "seed cannot vary"),
        ('{"model.beta": 3}', '"choices"'),
    ],
)
def test_a_wrong_search_space_is_refused(space: str, piece: str) -> None:
    refused(call("tune", *TINY, f"tuning.space={space}"), "tuning.space", piece)


def _train_on(folder: Path, *settings: str) -> Answer:
    return call("train", "--json", *TINY, "data=folder", f"data.path={folder}", "registry.name=own", *settings)


@pytest.mark.usefixtures("untouched")
def test_wrong_image_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = picture_folder(tmp_path / "grey", 20)
    (tmp_path / "empty").mkdir()
    refused(_train_on(tmp_path / "empty"), f"data.path={tmp_path / 'empty'}", "no PNG or JPEG", "give the folder")
    refused(_train_on(folder / "000.png"), "000.png", "is a file", "give the folder")
    few = picture_folder(tmp_path / "few", 4)
    refused(_train_on(few), "4 images are too few", "data.val_fraction=0.15", "at least 7")
    small = picture_folder(tmp_path / "small", 20, side=6)
    refused(_train_on(small), "6x6", "data.image_size")
    save(tmp_path / "sizes" / "a.png", np.zeros((16, 16)))
    refused(_train_on(picture_folder(tmp_path / "sizes", 20, side=12)), "12x12", "16x16", "set data.image_size")
    mixed = picture_folder(tmp_path / "mixed", 20)
    save(mixed / "colour.png", np.eye(16)[..., None] * [255, 0, 0])
    refused(_train_on(mixed), "is grey and", "colour.png is colour", "convert")

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
    assert "1 unreadable images skipped" in prepared.err
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


MODELS = {
    "name": ("digit@champion", ["digit: no such registered model", "did you mean digits?"]),
    "alias": ("digits@best", ["digits@best: not registered", "digits@champion"]),
    "version": ("digits/9", ["digits/9: not registered", "digits/2"]),
    "which": ("digits", ["digits: which version?", "digits@champion"]),
    "path": ("no/such/folder", ["no/such/folder: not a folder", "digits@champion"]),
    "folder": (".", ["not a folder with config.json and weights.safetensors"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_unknown_models_are_refused(case: str, in_shop: Shop, tmp_path: Path) -> None:
    reference, pieces = MODELS[case]
    for command in (
        ["generate", reference],
        ["reconstruct", reference, in_shop.images[0]],
        ["embed", reference, in_shop.images[0]],
        ["score", reference, in_shop.images[0]],
        ["evaluate", reference],
        ["report", reference],
        ["serve", reference, "--port", "0"],
    ):
        refused(call(*command), *pieces)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["weights.safetensors", "config.json"])
def test_a_damaged_model_is_refused(in_shop: Shop, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(in_shop.trained[0]["folder"], folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:-20])
    refused(call("generate", folder), str(folder), "damaged", "train it again")
    refused(call("evaluate", folder), str(folder), "damaged", "train it again")


def test_a_model_without_a_report_is_told(in_shop: Shop, tmp_path: Path) -> None:
    folder, kept = tmp_path / "model", tmp_path / "kept.html"
    shutil.copytree(in_shop.trained[0]["folder"], folder)
    (folder / "report.html").unlink()
    refused(call("report", folder), f"{folder}: has no report.html", f"aemodels evaluate {folder}", "train it again")
    artifact = Path(call("report", "digits/1", "--json").json["report"])
    artifact.rename(kept)
    try:
        refused(call("report", "digits/1"), "digits/1: its run has no report.html", "aemodels evaluate digits/1")
    finally:
        kept.rename(artifact)
    refused(call("report", "digits/1", "-o", "report.txt"), "-o report.txt", ".html")
    refused(call("report", "digits/1", "-o", "no/report.html"), "-o no/report.html", "no folder", "make it first")


def test_wrong_images_and_outputs_are_refused(in_shop: Shop, tmp_path: Path) -> None:
    model, image = "digits@champion", in_shop.images[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:100])
    for command in ("reconstruct", "embed", "score"):
        refused(call(command, model, "missing.png"), "missing.png", "no such file or folder", "give image files")
        refused(call(command, model, "empty"), "empty", "no PNG or JPEG images")
        refused(call(command, model, image, "broken.png"), "broken.png", "cannot be read", "mend or remove it")
        assert call(command, model).code == 2  # no images at all
    for command in (["generate", model], ["reconstruct", model, image]):
        refused(call(*command, "-o", "no/folder.png"), "-o no/folder.png", "no folder", "make it first")
        refused(call(*command, "-o", "out.txt"), "-o out.txt", ".png")
    refused(call("embed", model, image, "-o", "no/codes.npz"), "-o no/codes.npz", "no folder")
    refused(call("embed", model, image, "-o", "codes.csv"), "-o codes.csv", ".npz")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "broken.png"}


@pytest.mark.usefixtures("in_shop")
def test_evaluation_changes_neither_the_model_nor_the_shape_of_images() -> None:
    before = len(call("models", "--json").json)
    refused(call("evaluate", "digits/1", "model.beta=2"), "model.beta", "data.* and evaluation.*")
    refused(call("evaluate", "digits/1", "data.image_size=16"), "(1, 28, 28)", "data.image_size=28")
    refused(call("evaluate", "digits/1", "evaluation.samples=1"), "evaluation.samples=1", "at least 2")
    refused(call("evaluate", "digits/1", "evaluation.nll_samples=5"), "evaluation.nll_samples=5", "data.binarize")
    assert len(call("models", "--json").json) == before


def test_no_setting_of_that_name_is_told() -> None:
    refused(call("settings", "trianing"), "trianing", "aemodels settings")


def test_a_wrong_command_as_a_person_starts_it(tmp_path: Path) -> None:
    answer = shell("train", "--json", "training.epochs=0", cwd=tmp_path, AEMODELS_STORE=str(tmp_path / "store"))
    refused(answer, "training.epochs=0")
    assert answer.err.startswith("error: ")
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_images_of_other_channels_are_refused(in_shop: Shop, tmp_path: Path) -> None:
    """Grey pixels in a colour file are grey; colours are not thrown away silently."""
    grey = Image.open(in_shop.images[0])
    grey.convert("RGB").save(tmp_path / "grey.png")
    Image.new("RGB", (28, 28), "red").save(tmp_path / "red.png")
    same = call("score", in_shop.trained[0]["folder"], tmp_path / "grey.png", "--json").json[0]["mse"]
    assert same == call("score", in_shop.trained[0]["folder"], in_shop.images[0], "--json").json[0]["mse"]
    answer = call("score", in_shop.trained[0]["folder"], tmp_path / "red.png")
    refused(answer, "red.png", "colour", "grey", "convert")
