"""Tests the estimate of the memory that a stack of trials takes."""

from __future__ import annotations

import pytest
from searches import SMALL

from aemodels.data.prepared import PreparedData
from aemodels.tuning.costs import stack_bytes


@pytest.mark.parametrize("model", ["vae", "gan", "vae_gan"])
def test_the_estimate_grows_with_what_takes_memory(digits: PreparedData, model: str) -> None:
    small = SMALL.override({"model": {"name": model, "latent_dim": 4, "trunk": {"name": "mlp", "widths": [16]}}})
    base = stack_bytes(small, digits)
    weights = sum(t.numel() for t in small.model.build(digits.image_shape, 10).parameters()) * 4
    assert 9 * weights < base < 100 * weights
    for changes in ({"training.batch_size": 300}, {"model.trunk.widths": [160]}, {"model.trunk": "conv"}):
        assert stack_bytes(small.override(changes), digits) > 1.5 * base


def test_the_estimate_holds_the_validation(digits: PreparedData) -> None:
    """It counts what is held at a time: the largest layer and the result of its activation."""
    small = SMALL.override({"model.trunk": "conv", "training.batch_size": 1})

    def validated(images: int) -> int:
        return stack_bytes(small, digits.model_copy(update={"sizes": digits.sizes | {"val": images}}))

    layer = 32 * 14 * 14 * 4  # bytes, of an image
    assert 2 * 100 * layer <= validated(200) - validated(100) < 2.5 * 100 * layer
    assert validated(500) == validated(10_000)
