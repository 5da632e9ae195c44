"""Tests the choice of metrics that pages, lists and searches show."""

from __future__ import annotations

from typing import get_args

import pytest

from aemodels.evaluation.key_metrics import KEY, Place, shown_in
from aemodels.evaluation.metrics import METRICS


def test_every_key_metric_exists_and_is_shown_somewhere() -> None:
    assert KEY.keys() <= METRICS.keys()
    assert all(KEY.values())


@pytest.mark.parametrize("place", get_args(Place))
def test_every_place_begins_with_what_defines_better_by_default(place: Place) -> None:
    assert shown_in(place)[0] == "frechet_samples"


@pytest.mark.parametrize("place", ["reports", "lists", "comparisons"])
def test_people_see_at_once_whether_the_network_was_worth_its_training(place: Place) -> None:
    assert "share_of_linear_code" in shown_in(place)[:2]


def test_trials_measure_nothing_that_is_slow() -> None:
    assert not [name for name in shown_in("trials") if METRICS[name].slow]


def test_references_measure_nothing_that_needs_a_rate_or_a_class_request() -> None:
    """The mean image and linear codes have neither."""
    needs = {need for name in shown_in("references") for need in METRICS[name].needs}
    assert not needs & {"rate", "likelihood", "conditional"}
