"""Tests that a training with `training.images`, and what is measured of it, know nothing of the other images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from altered import altered
from torch import Tensor

from aemodels.config import section_kinds
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.evaluate import EvaluationConfig, evaluate
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.evaluation.images import TrainedOn
from aemodels.evaluation.references import MEAN_IMAGE, Size, reference_systems
from aemodels.experiment import Experiment
from aemodels.models import AEConfig
from aemodels.nn.photo import PhotoConfig
from aemodels.nn.trunks import MLPConfig
from aemodels.runtime.devices import best_device
from aemodels.training.config import TrainingConfig
from aemodels.training.models import best_model, new_model, training_codes
from aemodels.training.population import train_population
from aemodels.training.state import Epoch
from aemodels.training.train import train

MODELS: dict[str, Any] = section_kinds(Experiment.model_fields["model"])  # the union
SEEN = 40
FEW = TrainingConfig(epochs=1, images=SEEN, batch_size=20)
RULES = EvaluationConfig(samples=200, level="quick")
PHOTO = PhotoConfig(width=8)


@pytest.fixture(scope="module")
def other(digits: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Returns digits of which all are white on black but those that a training sees."""
    images = np.array(digits.split("train").images)
    images[SEEN:] = 255 - images[SEEN:]
    return altered(digits, tmp_path_factory.mktemp("other") / "digits", images)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("kind", MODELS)
def test_a_training_and_its_evaluation(
    kind: str, digits: PreparedData, other: PreparedData, features: Features
) -> None:
    config = MODELS[kind](trunk=PHOTO if MODELS[kind].has_encoder else MLPConfig(widths=(16,)), latent_dim=5)
    assert not same(*(new_model(config, data, 0).state_dict() for data in (digits, other))), "they are other images"
    (a, b) = (result(config, data, features) for data in (digits, other))
    for name, tensors in a.items():
        assert same(tensors, b[name]), name


def test_the_best_model_needs_no_linear_code(digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MODELS["ae"](trunk=MLPConfig(widths=(16,)), latent_dim=5)
    (epoch,) = train(config, digits, FEW, seed=0)
    monkeypatch.setattr("aemodels.training.models.linear_code_of", None)
    model, best = best_model(config, digits, FEW, 0, epoch.state), epoch.state.section("best")
    assert all(torch.equal(weight, best[name]) for name, weight in model.named_parameters())


def result(config: Any, data: PreparedData, features: Features) -> dict[str, dict[str, Tensor]]:
    """Returns what there is after an epoch alone and in a population, and the metrics on test images."""
    (alone,) = train(config, data, FEW, seed=0)
    (_, member) = next(train_population([config, config], data, FEW, [0, 1])).values()
    assert isinstance(member, Epoch)
    model = best_model(config, data, FEW, 0, alone.state)
    codes = training_codes(model, data, FEW, 0)
    metrics = evaluate(Evidence(model, data, features, RULES, trained_on=TrainedOn(data, SEEN))).metrics
    assert metrics.pop("frechet_floor") > 0  # it is of the data alone, whatever is trained on them
    return {
        "alone": alone.state.tensors,
        "member": member.state.tensors,
        "best": model.state_dict(),
        "codes": {} if codes is None else {"codes": codes},
        "metrics": {name: torch.tensor(value) for name, value in metrics.items()},
    }


def test_a_pretraining(digits: PreparedData, other: PreparedData) -> None:
    config, training = AEConfig(trunk=MLPConfig(widths=(9, 8))), FEW.override({"pretraining_epochs": 1})
    (a,), (b,) = (train(config, data, training, seed=0) for data in (digits, other))
    assert same(a.state.tensors, b.state.tensors)
    assert [epoch["val/squared_error"] for epoch in a.state.pretraining] == [
        epoch["val/squared_error"] for epoch in b.state.pretraining
    ]


def test_the_references_of_a_comparison(digits: PreparedData, other: PreparedData, features: Features) -> None:
    a, b = (
        reference_systems(data, [Size(5, SEEN)], best_device(), RULES, features)["linear code 5"].model.state_dict()
        for data in (digits, other)
    )
    assert same(a, b)
    whole = reference_systems(digits, [Size(5, None)], best_device(), RULES, features)[MEAN_IMAGE].model.state_dict()
    assert not torch.equal(a["mean"], whole["mean"])


def test_what_is_chosen_from_the_images(digits: PreparedData, tmp_path: Path) -> None:
    images = np.array(digits.split("train").images)
    images[:SEEN] = np.where(images[:SEEN] > 127, 255, 0)
    data = altered(digits, tmp_path / "digits", images)
    few = Experiment().override({"training.images": SEEN})
    assert few.for_data(data).flat()["model.likelihood.name"] == "bernoulli"
    assert Experiment().for_data(data).flat()["model.likelihood.name"] == "gaussian"


def test_an_untrained_model_is_no_better_than_the_linear_code_of_the_images_it_sees(digits: PreparedData) -> None:
    experiment = Experiment().override({"model": "ae", "training.images": SEEN}).for_data(digits)
    model = new_model(experiment.model, digits, 0, images=SEEN).eval()
    share = evaluate(
        Evidence(model, digits, None, RULES, trained_on=TrainedOn(digits, SEEN)), only=("share_of_linear_code",)
    ).metrics
    assert share["share_of_linear_code"] == pytest.approx(1, rel=1e-3)
