"""Tests what commands answer, for people and for machines, and their help."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import TINY, Shop, call, shell
from PIL import Image

from aemodels.config import read_text
from aemodels.steps.tune import Tuned
from flows.cli import results

SMALL_SEARCH = ["tuning.trials=2", "tuning.generation=2", "tuning.epochs=1", "tuning.images=200"]


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    code = f"""
import sys
from flows.cli.main import app
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
    assert {"test/negative_elbo", "test/mse", "test/frechet_samples", "test/share_of_linear_code"} <= first.keys()
    assert not {"test/probe_accuracy", "test/coverage"} & first.keys()  # it is judged quickly
    assert all(isinstance(value, float) for key, value in first.items() if key.startswith("test/"))
    assert first["seconds"] > 0
    assert first["images_per_second"] > 0
    folder = Path(first["folder"])
    assert {"config.json", "weights.safetensors", "figures", "report.html"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "state.safetensors").exists()
    assert all(Image.open(path).size[0] > 100 for path in first["figures"])


def test_what_train_answers_is_what_is_tracked(in_shop: Shop) -> None:
    from aemodels.tracking.store import open_store

    told = in_shop.trained[0]
    client = open_store().client
    run = client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"vae 2, version {told['version']}"
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
    assert rows["training.batch_size", ""]["default"] == 64
    assert rows["training.batch_size", ""]["type"] == "whole number, at least 1"
    assert ("model.beta", "vae") in rows
    assert ("model.beta", "ae") not in rows
    assert all(row["description"] for row in rows.values() if row["key"] != "data.name")
    assert {row["key"].split(".")[0] for row in call("settings", "model", "--json").json} == {"model"}


@pytest.mark.slow
def test_compare_answers_people_and_machines(store, tmp_path: Path) -> None:
    file = tmp_path / "gan.json"
    file.write_text(json.dumps({"model": {"name": "gan", "trunk": {"name": "mlp", "widths": [16]}}}))
    arguments = ["digits", file, "training.epochs=1", "training.images=200", "evaluation.samples=100"]
    told = call("compare", "--json", *arguments).json
    assert [row["system"] for row in told["table"]["rows"]][:2] == ["digits", "gan"]  # references follow
    assert told["table"]["rows"][0]["scores"]["mse"]["spread"] is None
    asked = "digits gan.json training.epochs=1 training.images=200 evaluation.samples=100"
    assert told["table"]["origin"].startswith(f"Made by `aemodels compare {asked}`: seed 0; digits, digest ")
    children = store.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{told['run_id']}'")
    assert len(children) == 2
    view = _query(told["compare_url"], "viewStateShareKey")
    assert any(key.endswith(view) for key in store.client.get_experiment("1").tags)
    shown = call("compare", *arguments, "--seeds", 2)
    assert shown.code == 0
    assert "frechet_samples" in shown.out
    assert "±" in shown.out
    assert "table.md" in shown.out


def test_the_command_in_a_comparisons_table_names_no_folders() -> None:
    from flows.cli.compare import _command

    arguments = ["/home/me/wide.json", "article-vae", 'data.path=["/my images/b", "c/d"]', "data.path=~/photos"]
    told = """aemodels compare --preset fast wide.json article-vae 'data.path=["b", "d"]' data.path=photos --seeds 3"""
    assert _command(arguments, ["fast"], 3) == told


def test_a_person_is_told_why_a_trial_failed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ({"index": 0, "state": "complete"}, {"index": 3, "state": "failed", "error": "ended by signal 9"})
    told = {"run_id": "", "url": "", "compare_url": "", "best": {}, "objectives": [], "front": [0], "figures": []}
    trials = [{"params": {}, "values": {}, "seconds": 1.0, **row} for row in rows]
    results.tuned(Tuned.model_validate({**told, "folder": "search", "trials": trials}), json=False)
    assert "trial 3 failed  ended by signal 9" in capsys.readouterr().out


def test_tune_answers_a_machine(store) -> None:
    told = call("tune", "--json", *TINY, *SMALL_SEARCH).json
    assert [trial["state"] for trial in told["trials"]] == ["complete", "complete"]
    objectives = [trial["values"]["frechet_samples"] for trial in told["trials"]]
    assert objectives == sorted(objectives)
    assert told["best"] == told["trials"][0]["params"]
    assert told["best"].keys() == {"model.beta"}
    assert told["note"] == "model.latent_dim=2 stays as given; tuning.space lets such settings vary"
    assert store.client.search_registered_models() == []
    children = store.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{told['run_id']}'")
    assert {run.info.run_id for run in children} == set(json.loads(_query(told["compare_url"], "runs")))
    assert all(run.info.status == "FINISHED" and "objective" in run.data.metrics for run in children)


@pytest.mark.slow
def test_widths_are_searched_to_the_last_setting(store) -> None:
    """Eight trials find four settings. Each is in MLflow, and the best can be copied into another command."""
    space = 'tuning.space={"model.trunk.widths": {"choices": [[8], [16, 8]]}, "model.latent_dim": {"choices": [2, 3]}, '
    space += '"model.beta": {"choices": [1]}}'
    search = [*TINY, *SMALL_SEARCH, "tuning.trials=8", space]
    told = call("tune", "--json", *search).json
    tried = [trial["params"] for trial in told["trials"]]
    assert sorted((p["model.trunk.widths"], p["model.latent_dim"]) for p in tried) == [
        ([8], 2),
        ([8], 3),
        ([16, 8], 2),
        ([16, 8], 3),
    ]
    assert told["note"] == "4 settings are all there are: 4 trials instead of 8"
    children = store.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{told['run_id']}'")
    assert sorted(run.data.params["model.trunk.widths"] for run in children) == ["[16, 8]"] * 2 + ["[8]"] * 2
    best = told["best"]["model.trunk.widths"]
    assert store.client.get_run(told["run_id"]).data.params["best.model.trunk.widths"] == json.dumps(best)
    answered = call("tune", *search)
    assert "note            4 settings are all there are: 4 trials instead of 8" in answered.out
    (line,) = (line for line in answered.out.splitlines() if line.startswith("best "))
    settings = read_text(shlex.split(line.removeprefix("best")))
    assert settings["model.trunk.widths"] == best


def _query(url: str, name: str) -> str:
    from urllib.parse import parse_qs, urlsplit

    return parse_qs(urlsplit(url.replace("#", "")).query)[name][0]


@pytest.mark.usefixtures("in_shop")
def test_people_read_tables() -> None:
    listed = call("models")
    assert listed.code == 0
    assert "champion" in listed.out
    assert "frechet_samples" in listed.out
    told = call("settings").out
    assert "training.epochs" in told
    assert "\\n" not in told  # line breaks within a description
    prepared = call("prepare")
    assert "1259 train, 269 val, 269 test" in prepared.out
    assert prepared.err.splitlines().count("preparing digits") == 1


def test_settings_that_kinds_share_are_told_once() -> None:
    cells = [[cell.strip() for cell in line.split("│")] for line in call("settings").out.splitlines()]
    rows = {row[1]: row for row in cells if len(row) > 3 and row[1]}
    assert [row[1] for row in cells if len(row) > 3].count("data.binarize") == 1
    assert rows["model.trunk.widths"][2] == "mlp"
    assert "ae | vae | cvae" in rows["model.name"][3]
    assert "none | gaussian" in rows["training.corruption.name"][3]
    of_vae = call("settings", "model.vae").out
    assert "model.beta " in of_vae
    assert "model.latent_dim" in of_vae
    assert "gradient_penalty" not in of_vae
    assert "training." not in of_vae
    assert {row["kind"].split()[0] for row in call("settings", "model.vae", "--json").json} == {"vae"}


@pytest.mark.usefixtures("store")
def test_an_empty_store_says_how_to_fill_it() -> None:
    assert "aemodels train" in call("models").out
    assert call("models", "--json").json == []


def test_a_command_as_a_person_starts_it(shop: Shop, tmp_path: Path) -> None:
    """It starts in an unrelated folder. Standard output has JSON alone, and standard error has nothing."""
    folder = {"AEMODELS_STORE": str(shop.folder)}
    told = shell("generate", "digits@champion", "-n", 4, "-o", "four.png", "--json", cwd=tmp_path, **folder)
    assert told.json == {"model": "digits@champion", "images": 4, "seed": 0, "out": "four.png"}
    assert told.err == ""
    assert (tmp_path / "four.png").exists()


def test_the_versions_are_those_of_the_packages() -> None:
    """A report of a fault quotes them."""
    lines = call("--version").out.splitlines()
    assert dict(line.split() for line in lines)["torch"] == version("torch")
