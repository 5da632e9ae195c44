"""Tests commands on registered models: they are listed, promoted, rolled back or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Shop, call, refused


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


# ---------------------------------------------------------------- which models are refused


MODELS = {
    "name": ("digit@champion", ["digit: no such registered model", "did you mean digits?"]),
    "alias": ("digits@best", ["digits@best: not registered", "digits@champion"]),
    "version": ("digits/9", ["digits/9: not registered", "digits/2"]),
    "which": ("digits", ["digits: the version is missing", "digits@champion"]),
    "path": ("no/such/folder", ["no/such/folder: neither a finished run's folder", "digits@champion"]),
    "folder": (".", ["the folder . is not a finished run's, with config.json and weights.safetensors"]),
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
