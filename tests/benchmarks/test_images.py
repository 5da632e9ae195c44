"""Tests the comparison on own images: it runs, and all systems stand in its table and picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import images


def test_a_collection_is_compared_and_those_that_are_not_there_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    for label in ("a", "b"):
        folder = tmp_path / "data" / "rgb_folder" / label
        folder.mkdir(parents=True)
        for i in range(40):
            Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    monkeypatch.setenv("AEMODELS_DATA", str(tmp_path / "data"))
    assert images.main(["--quick", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "MNIST-28: left out" in told.err
    found = json.loads((tmp_path / "out" / "images.json").read_text())["rgb_folder-32"]
    assert {"commit", "hardware", "quick"} <= found.keys()
    assert found["command"] == ["python", "-m", "benchmarks.images", "--quick", "rgb_folder-32"]
    rows = {row["system"]: row for row in found["rows"]}
    assert {"mean image", "linear code 20", "aemodels ae", "aemodels vae", "plain ae", "plain vae"} <= rows.keys()
    assert rows["linear code 20"]["share of linear code"] == 1
    for kind in ("ae", "vae"):
        assert rows[f"plain {kind}"]["seconds"] >= rows[f"aemodels {kind}"]["seconds"]
    assert told.out == (tmp_path / "out" / "images.md").read_text()
    assert told.out.count("| rgb_folder-32 |") == len(rows)
    Image.open(tmp_path / "out" / "images-rgb_folder-32.png").verify()
    kept = {"other": {**found, "rows": []}, "rgb_folder-32": found}  # what was measured before stays
    (tmp_path / "out" / "images.json").write_text(json.dumps(kept))
    assert images.earlier(tmp_path / "out", quick=True) == kept
    assert images.earlier(tmp_path / "out", quick=False) == {}


@pytest.mark.slow
def test_without_a_collection_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AEMODELS_DATA", str(tmp_path))
    assert images.main(["--quick"]) == 2
    assert "set AEMODELS_DATA" in capsys.readouterr().err
