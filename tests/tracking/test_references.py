"""Tests how references to models are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aemodels
from aemodels.tracking.references import is_folder, registered_name


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("digits@champion", "digits"),
        ("my photos/3", "my photos"),
        ("models:/digits/3", "digits"),
        ("~/runs/abc", None),
        ("runs/abc", None),
        ("/data/photos@home", None),
    ],
)
def test_a_registered_model_is_known_by_its_name(reference: str, name: str | None) -> None:
    assert registered_name(reference) == name
    assert is_folder(reference) == (name is None)


def test_a_folder_of_such_a_name_counts_if_it_holds_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: object
) -> None:
    del store
    monkeypatch.chdir(tmp_path)
    Path("photos/3").mkdir(parents=True)
    assert registered_name("photos/3") == "photos"
    aemodels.fit(np.random.default_rng(0).random((20, 8, 8)), "ae", latent_dim=2, training__epochs=1, trunk="mlp").save(
        "photos/3"
    )
    assert registered_name("photos/3") is None
