"""Tests that a person is told in words that memory ran out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aemodels.checkpoints import training
from aemodels.config import UserError
from aemodels.data import PreparedData
from aemodels.experiment import Experiment
from aemodels.runtime.memory import memory_in_words


def test_memory_that_ran_out_is_told_with_the_remedy() -> None:
    told = (
        r"does not hold the model \(can't allocate memory: .*\); use a smaller data.image_size, training.batch_size or"
    )
    with pytest.raises(UserError, match=told), memory_in_words():
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="another"), memory_in_words():
        raise RuntimeError("another")


def test_a_training_that_needs_more_memory_says_so(
    digits: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> Iterator[None]:
        yield from [torch.empty(2**60)]

    monkeypatch.setattr(training, "train", too_large)
    with pytest.raises(UserError, match=r"use a smaller data\.image_size"):
        next(training.saved_epochs(tmp_path, Experiment(), digits, None))
