"""Tests the figures of a search."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from searches import CONFIG, EXPERIMENT, run

from aemodels.config import Choice
from aemodels.data import PreparedData
from aemodels.reports.figures import search as tuning_figures
from aemodels.reports.figures.search import draw_search_figures
from aemodels.reports.pictures import drawn
from aemodels.tuning.config import TuningConfig
from aemodels.tuning.events import SearchResult, Trial
from aemodels.tuning.space import search_space


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


@pytest.mark.parametrize("number", [2, 5, 8, 12])
def test_labels_of_lists_and_sections_do_not_overlap(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[Any] = [[2**power for power in range(4, 5 + i % 5)] + [i] for i in range(1, number + 1)]
    trunks: list[Any] = ["mlp", {"name": "conv", "channels": [4, 8, 16, 32, 64, 128], "activation": "relu"}]
    space = {"model.trunk.widths": Choice(choices=tuple(widths)), "model.trunk": Choice(choices=tuple(trunks))}
    trials = [
        Trial(i, {"model.trunk.widths": value, "model.trunk": trunks[i % 2]}, "complete", (1.0 + i,))
        for i, value in enumerate(widths)
    ]
    figures: list[Any] = []
    monkeypatch.setattr(tuning_figures, "drawn", lambda figure: figures.append(figure) or drawn(figure))
    result = SearchResult("x", space, ("mse",), ("minimize",), trials, trials[:1], trials[0], {})
    draw_search_figures(result)
    contour = figures[-1].axes[0]
    for axis in (contour.xaxis, contour.yaxis):
        labels = [label for label in axis.get_ticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        assert not [a for a, b in pairwise(boxes) if a.overlaps(b)]
        assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    shown = [label.get_text().replace("\n", " ") for label in contour.get_xticklabels()]
    assert shown[:2] == ["[16, 32, 1]", "[16, 32, 64, 2]"]
    assert [label.get_text().split()[0] for label in contour.get_yticklabels()] == ["mlp", "conv"]


def test_figure_of_one_parameter() -> None:
    space = search_space(EXPERIMENT.override({"model": "ae"}), CONFIG)
    trials = [
        Trial(0, {"model.latent_dim": 8}, "complete", (1.0,)),
        Trial(1, {"model.latent_dim": 16}, "complete", (20.0,)),
        Trial(2, {"model.latent_dim": 32}, "failed", error="nan"),
    ]
    result = SearchResult("x", space, ("mse",), ("minimize",), trials, trials[:1], trials[0], {})
    assert draw_search_figures(result).found.keys() == {"history", "slice"}
