"""Defines three small systems to compare."""

from __future__ import annotations

from typing import Any

from aemodels.settings import ComparisonConfig

SHARED = {
    "model": {"trunk": {"name": "mlp", "widths": [16]}, "latent_dim": 3},
    "training": {"epochs": 2, "images": 200},
    "evaluation.samples": 100,
}
SYSTEMS = {name: {"model.name": name} for name in ("ae", "vae", "gan")}


def comparison(**changes: Any) -> ComparisonConfig:
    return ComparisonConfig.parse({"shared": SHARED, "systems": SYSTEMS, "seeds": 2, **changes})
