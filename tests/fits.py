"""Provides images, and settings that are quick to fit, to the tests of what Python programs use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aemodels.checkpoints import training as saving

QUICK = {"training__epochs": 1, "trunk": {"name": "mlp", "widths": [16]}, "latent_dim": 3}
UNSIZED = {key: value for key, value in QUICK.items() if key != "latent_dim"}
IMAGES = np.random.default_rng(0).random((60, 8, 8))
NEW = np.random.default_rng(1).random((30, 8, 8))  # images that no model is fitted to
LABELS = np.array(["cat", "dog"])[np.arange(60) % 2]


class Named(torch.utils.data.Dataset):
    """Holds pairs of an image and the name of its class."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, i: int) -> tuple[np.ndarray, str]:
        return IMAGES[i], LABELS[i]


def starts_of_trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lists after which epoch each training from now on starts."""
    real, states = saving.train, []

    def spied(*arguments: object, **named: object) -> object:
        states.append(named["resume"].epoch if named["resume"] else 0)  # as it is now, since it is trained on
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(saving, "train", spied)
    return states
