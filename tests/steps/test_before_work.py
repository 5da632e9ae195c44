"""Tests that what does not fit is refused before the work, which begins with the classifier of new data."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aemodels.config import SettingsError
from aemodels.data import PreparedData
from aemodels.runtime.progress import Steps
from aemodels.settings import ComparisonConfig, Settings
from aemodels.steps.compare import compare
from aemodels.steps.train import train
from aemodels.steps.tune import tune


@pytest.fixture
def new_data(digits: PreparedData, tmp_path: Path) -> PreparedData:
    """Returns digits without labels, which nothing was trained on."""
    shutil.copytree(digits.path, tmp_path / "digits", ignore=shutil.ignore_patterns("classifier*"))
    return digits.model_copy(update={"path": tmp_path / "digits", "classes": ()})


WORK = {"train": train, "tune": tune}


def work(kind: str, changes: dict[str, Any], data: PreparedData) -> Steps[Any]:
    if kind == "compare":
        return compare(ComparisonConfig(shared=changes, systems={"new": {}, "other": {"training.batch_size": 9}}), data)
    return WORK[kind](Settings().override(changes), data, "")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        *[(kind, {"model.name": "cvae"}, "needs images of several classes") for kind in (*WORK, "compare")],
        *[(kind, {"evaluation.primary": "knn_accuracy"}, "knn_accuracy: needs labels") for kind in (*WORK, "compare")],
        *[
            (
                kind,
                {"model.likelihood": "bernoulli", "evaluation.nll_samples": 5},
                "nll_samples=5: coin flips are no likelihood",
            )
            for kind in WORK
        ],
        ("tune", {"tuning.pareto": ["mse", "knn_accuracy"]}, "tuning.pareto: knn_accuracy needs labels"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_does_not_fit(kind: str, changes: dict[str, Any], message: str, new_data: PreparedData) -> None:
    with pytest.raises(SettingsError, match=message):
        next(work(kind, changes, new_data))


@pytest.mark.parametrize("kind", [*WORK, "compare"])
@pytest.mark.usefixtures("store")
def test_what_fits_begins_with_the_classifier(kind: str, new_data: PreparedData, digits: PreparedData) -> None:
    labelled = new_data.model_copy(update={"classes": digits.classes})
    with closing(work(kind, {"model.trunk": "mlp", "model.likelihood": "bernoulli"}, labelled)) as steps:
        first = next(step for step in steps if "chosen for these images" not in step.note)
        assert first.work == "fitting the classifier"
