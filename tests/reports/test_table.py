"""Tests the table of a comparison: what is best, and how numbers are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from aemodels.reports.table import Measured, as_markdown, make_table


def test_the_best_is_marked_by_the_metrics_direction_where_there_is_a_choice() -> None:
    metrics: Mapping[str, dict[str, float]] = {
        "a": {"mse": 0.1, "ssim": 0.5, "frechet_floor": 1.0, "rate": 3.0},
        "b": {"mse": 0.2, "ssim": 0.7, "frechet_floor": 1.0, "rate": 0.0},
        "c": {"mse": math.nan, "ssim": 0.7, "frechet_floor": 1.0},
    }
    found = {name: [Measured(metrics=values, seconds=1)] for name, values in metrics.items()}
    table = make_table(found, "ssim")
    assert table.metrics == ("ssim", "rate", "mse", "frechet_floor")
    assert [table.best(name) for name in table.metrics] == [("b", "c"), (), ("a",), ()]
    told = as_markdown(table, "title")
    assert "| metric | unit | a | b | c |" in told
    assert "| ssim ↑ | at most 1 | 0.5 | **0.7** | **0.7** |" in told
    assert "| rate | nats per image | 3 | 0 | – |" in told  # codes that tell nothing are not the best ones
    assert "| training | seconds | 1 | 1 | 1 |" in told
    assert "One seed" in told
    assert "validation" not in told  # none has such a loss, so there is none to explain


def test_numbers_that_are_not_finite_are_kept_and_shown() -> None:
    measured = Measured(metrics={"mse": math.nan, "psnr": math.inf}, seconds=1)
    kept = Measured.model_validate(json.loads(json.dumps(measured.model_dump(mode="json"))))
    assert math.isnan(kept.metrics["mse"])
    table = make_table({"a": [kept, kept], "b": [kept, kept]}, "mse")
    assert table.best("mse") == ()
    assert "| psnr ↑ | dB | inf ± nan | inf ± nan |" in as_markdown(table, "title")


def test_nats_of_different_likelihoods_are_not_ranked() -> None:
    mixed = make_table(
        {
            "a": [Measured(metrics={"distortion": 1, "mse": 0.2}, seconds=1, likelihood="gaussian")],
            "b": [Measured(metrics={"distortion": 2, "mse": 0.1}, seconds=1, likelihood="bernoulli")],
            "c": [Measured(metrics={}, seconds=1)],
        },
        "mse",
    )
    assert (mixed.best("distortion"), mixed.best("mse")) == ((), ("b",))
