"""Holds settings of small flow runs, and a way to let them fail."""

from __future__ import annotations

from typing import Any

import pytest

TINY = {
    "training.epochs": 20,  # enough to be better than the mean image
    "training.learning_rate": 0.01,
    "registry.tolerance": 100,  # but not than a linear code
    "evaluation.samples": 100,
    "training.images": 200,
    "model.trunk.widths": [16],
    "tuning.trials": 2,
    "tuning.generation": 2,
    "tuning.epochs": 1,
    "tuning.images": 100,
}


def once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: BaseException) -> list[str]:
    """Lets the first call of a function end with the error; returns a list that grows with the calls."""
    real, calls = getattr(module, name), []

    def stumbling(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, stumbling)
    return calls
