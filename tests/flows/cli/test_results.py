"""Tests that a trained model is evaluated again, and its report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from commands import TINY, Shop, call, refused
from tracked import client, runs

from flows.cli.session import read_evaluation_settings, read_settings, start_for
from flows.leftovers import MARK


@pytest.mark.usefixtures("own_registry")
def test_evaluate_repeats_what_training_measured(shop: Shop) -> None:
    told = call("evaluate", "digits/1", "--json").json
    assert {k: v for k, v in told.items() if k.startswith("test/")} == {
        k: v for k, v in shop.trained[0].items() if k.startswith("test/")
    }
    assert told["run_id"] != shop.trained[0]["run_id"]
    assert "evaluated again" in Path(told["report"]).read_text()
    assert call("evaluate", "digits/1", "evaluation.samples=100", "--json").json["test/frechet_images"] == 100


def test_a_training_that_was_too_short_is_told_of_it(shop: Shop) -> None:
    """Two epochs of two updates are too few."""
    (line,) = shop.trained[0]["advice"]
    assert line.endswith("so all reconstructions are alike: give training.epochs=4.")
    assert line in Path(shop.trained[0]["report"]).read_text()
    run = client(shop.folder).get_run(shop.trained[0]["run_id"])
    assert run.data.tags["advice"] == line
    assert "all reconstructions are alike" in run.data.tags["mlflow.note.content"]


@pytest.mark.usefixtures("store")
def test_a_training_ends_with_how_to_use_the_model(digits: object) -> None:
    del digits  # they are prepared
    told = call("train", *TINY, "training.epochs=1", "evaluation.level=quick").out.splitlines()
    assert [line.removeprefix("use it").strip() for line in told if line.startswith("use it ")] == [
        "aemodels generate digits/1 -n 64 -o grid.png"
    ]


@pytest.mark.usefixtures("in_shop")
def test_evaluation_changes_neither_the_model_nor_the_shape_of_images() -> None:
    before = len(call("models", "--json").json)
    refused(call("evaluate", "digits/1", "model.beta=2"), "model.beta", "data.* and evaluation.*")
    refused(call("evaluate", "digits/1", "data.image_size=16"), "(1, 28, 28)", "data.image_size=28")
    refused(call("evaluate", "digits/1", "data.split_seed=1"), "data.split_seed", "keeps the splits", "leave it out")
    refused(call("evaluate", "digits/1", "evaluation.samples=1"), "evaluation.samples=1", "at least 2")
    refused(call("evaluate", "digits/1", "evaluation.nll_samples=5"), "evaluation.nll_samples=5", "data.binarize")
    assert len(call("models", "--json").json) == before


def written(file: Path, settings: object) -> Path:
    file.write_text(json.dumps(settings))
    return file


def test_files_say_of_an_evaluation_what_they_give_and_no_defaults(tmp_path: Path) -> None:
    own = written(tmp_path / "own.json", {"evaluation.nll_samples": 100, "data": {"image_size": 32}, "seed": 7})
    both = {"evaluation": {"nll_samples": 100}, "data": {"image_size": 32}}
    assert read_evaluation_settings(None, ["fast"], None) == {}
    assert read_evaluation_settings(None, ["fast"], own) == both
    assert read_evaluation_settings(["evaluation.nll_samples=5"], None, own)["evaluation"] == {"nll_samples": "5"}
    assert read_evaluation_settings(["data=mnist"], None, own)["data"] == {"image_size": 32, "name": "mnist"}
    misspelt = written(tmp_path / "misspelt.json", {"evalution": {"samples": 2}})
    assert read_evaluation_settings(None, None, misspelt) == {"evalution": {"samples": 2}}  # which is then refused


def test_json_asks_for_a_quick_evaluation_where_nothing_gives_a_level(tmp_path: Path) -> None:
    full = written(tmp_path / "full.json", {"evaluation": {"level": "full"}})
    assert read_settings(None, None, full, start_for(json=True)).evaluation.level == "full"
    assert read_settings(["evaluation.level=full"], None, None, start_for(json=True)).evaluation.level == "full"
    assert read_settings(["evaluation.samples=9"], ["fast"], None, start_for(json=True)).evaluation.level == "quick"
    assert read_settings(None, None, None, start_for(json=False)).evaluation.level == "full"
    assert read_evaluation_settings(None, None, full, start_for(json=True)) == {"evaluation": {"level": "full"}}
    assert read_evaluation_settings(None, ["fast"], None, start_for(json=True)) == {"evaluation": {"level": "quick"}}


@pytest.mark.slow
@pytest.mark.usefixtures("own_registry")
def test_a_file_of_settings_keeps_the_data_of_the_model(tmp_path: Path) -> None:
    own = ["data.binarize=static", "evaluation.samples=90", "registry.name=inked"]
    assert call("train", "--json", *TINY, *own).code == 0
    quick = written(tmp_path / "quick.json", {"evaluation": {"level": "quick", "seed": 1}, "model": {"beta": 2}})
    assert call("evaluate", "inked/1", "--preset", "fast", "--config", quick).code == 0
    (run,) = runs(tmp_path / "store", "evaluation")
    asked = {key: run.data.params[key] for key in ("data.binarize", "evaluation.samples", "evaluation.seed")}
    assert asked == {"data.binarize": "static", "evaluation.samples": "90", "evaluation.seed": "1"}
    assert run.data.params["evaluation.level"] == "quick"
    misspelt = written(tmp_path / "misspelt.json", {"evalution": {"samples": 2}})
    refused(call("evaluate", "inked/1", "--config", misspelt), "evalution.samples: ", "evaluation.*")


def test_report_is_found_copied_and_opened(reference: str, in_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def browse(address: str) -> bool:
        assert MARK not in os.environ, "a browser that carries a command's name is ended by the next command"
        opened.append(address)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", browse)
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
    assert (second.code, second.err) == (
        0,
        "no browser was found on this machine; open the report's file in a browser\n",
    )


@pytest.mark.usefixtures("own_registry")
def test_the_report_of_an_evaluation_is_opened_by_its_folder() -> None:
    report = Path(call("evaluate", "digits/1", "--json").json["report"])
    assert call("report", report.parent, "--json").json["report"] == str(report)


def test_a_model_without_a_report_is_told(in_shop: Shop, tmp_path: Path) -> None:
    folder, kept = tmp_path / "model", tmp_path / "kept.html"
    shutil.copytree(in_shop.trained[0]["folder"], folder)
    (folder / "report.html").unlink()
    made = call("report", folder, "--json")  # as of a model that Python has saved
    assert "<!doctype html>" in Path(made.json["report"]).read_text()
    assert not (folder / "report.html").exists()
    (folder / "config.json").rename(tmp_path / "config.json")
    refused(call("report", folder), str(folder), "neither a finished run's folder")
    artifact = Path(call("report", "digits/1", "--json").json["report"])
    artifact.rename(kept)
    try:
        refused(call("report", "digits/1"), "digits/1: its run has no report.html", "aemodels evaluate digits/1")
    finally:
        kept.rename(artifact)
    refused(call("report", "digits/1", "-o", "report.txt"), "-o report.txt", ".html")
    refused(call("report", "digits/1", "-o", "no/report.html"), "-o no/report.html", "no folder", "make it first")
