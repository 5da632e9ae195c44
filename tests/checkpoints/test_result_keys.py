"""Tests that a key names all that a kept result depends on."""

from __future__ import annotations

import pytest

from aemodels.checkpoints.result_keys import result_key
from aemodels.data import PreparedData


def test_a_key_names_settings_images_and_release(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    key = result_key({"a": 1, "b": 2}, digits)
    assert key == result_key({"b": 2, "a": 1}, digits.override({"path": digits.path / "elsewhere"}))
    assert key != result_key({"a": 1, "b": 3}, digits)
    assert key != result_key({"a": 1, "b": 2}, digits.override({"digest": "f" * 32}))
    monkeypatch.setattr("aemodels.checkpoints.result_keys.own_version", lambda: "9.9")
    assert key != result_key({"a": 1, "b": 2}, digits)
