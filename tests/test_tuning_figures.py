"""Figures of a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from searches import CONFIG, EXPERIMENT, run

from aemodels.data import PreparedData
from aemodels.tuning import SearchResult, Trial, TuningConfig, search_space
from aemodels.tuning_figures import draw_search_figures


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"history", "importances", "contour"}),
        ({"pareto": ["mse", "frechet_samples"]}, {"history", "importances", "front"}),
        ({"space.model.beta": {"choices": [1.0]}}, {"history", "contour"}),
        ({"trials": 1}, {"history", "contour"}),
        (
            {"trials": 2, "space.training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
            {"history", "contour"},
        ),
    ],
)
def test_figures(digits: PreparedData, settings: dict[str, Any], names: set[str]) -> None:
    _, result = run(digits, TuningConfig().override(settings))
    figures, left_out = draw_search_figures(result)
    assert not left_out
    assert figures.keys() >= names
    for picture in figures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[-1] == 3
        assert picture.std() > 5


def test_figure_of_one_parameter() -> None:
    space = search_space(EXPERIMENT.override({"model": "ae"}), CONFIG)
    trials = [
        Trial(0, {"model.latent_dim": 8}, "complete", (1.0,)),
        Trial(1, {"model.latent_dim": 16}, "complete", (20.0,)),
        Trial(2, {"model.latent_dim": 32}, "failed", error="nan"),
    ]
    result = SearchResult("x", space, ("mse",), ("minimize",), trials, trials[:1], trials[0], {})
    assert draw_search_figures(result).found.keys() == {"history", "slice"}
