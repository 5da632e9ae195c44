"""Tests greedy pre-training: each layer is trained alone, the whole starts there, and a kill does no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aemodels.checkpoints.checkpoint import load_model, load_state, save_state
from aemodels.config import SettingsError, section_kinds
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, VAEConfig
from aemodels.models.base import Autoencoder, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import GaussianConfig
from aemodels.nn.trunks import ConvConfig, MLPConfig
from aemodels.runtime.progress import Progress, finish
from aemodels.runtime.randomness import derived_seed, seeded
from aemodels.settings import load_settings
from aemodels.steps.train import train as train_step
from aemodels.tracking.store import Store
from aemodels.training.config import TrainingConfig, TrainingDivergedError
from aemodels.training.loop import held_out_bound
from aemodels.training.models import new_model
from aemodels.training.population import train_population
from aemodels.training.pretraining import hidden_layers
from aemodels.training.state import TrainingState
from aemodels.training.train import first_state, train

AUTOENCODERS: list[Any] = [
    kind for kind in section_kinds(Experiment.model_fields["model"]).values() if kind.has_encoder
]
DEEP = MLPConfig(widths=(20, 12, 6), activation="tanh")
DEEP_AE = AEConfig(trunk=DEEP, latent_dim=3)
TRAINING = TrainingConfig(epochs=2, pretraining_epochs=4, images=300, batch_size=32, learning_rate=3e-3)


def deep_model(config: ModelConfig, data: PreparedData) -> Autoencoder:
    model = new_model(config, data, 0)
    assert isinstance(model, Autoencoder)
    return model


def same(a: TrainingState, b: TrainingState) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(t, b.tensors[key]) for key, t in a.tensors.items())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11)])
@pytest.mark.parametrize("model", AUTOENCODERS)
def test_a_layer_trains_its_own_two_weights_on_images_of_any_shape(model: type[ModelConfig], shape) -> None:
    config: Any = {"trunk": DEEP, "likelihood": GaussianConfig(sigma="fixed", output="tanh")}
    with seeded(0):
        built = model.model_validate(config).build(shape, num_classes=3)
        batch = Batch(torch.rand(5, *shape), None, torch.rand(5, *shape))
    assert isinstance(built, Autoencoder)
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    owned: list[list[str]] = []
    for layer in hidden_layers(built):
        loss = layer.losses(batch, torch.tensor(0))["layer"]
        assert loss.total.shape == (5,)
        parameters = list(layer.part_parameters("layer"))
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss.total.sum(), parameters))
        owned.append([names[id(parameter)] for parameter in parameters])
    mirrored = [("encoder.1", "decoder.6"), ("encoder.3", "decoder.4"), ("encoder.5", "decoder.2")]
    assert owned == [[f"{layer}.{kind}" for layer in pair for kind in ("weight", "bias")] for pair in mirrored]


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("corruption", ["none", "masking"])
def test_a_layer_learns_and_the_next_ones_leave_it_as_it_is(corruption, normalization, digits: PreparedData) -> None:
    config = TRAINING.override({"corruption": corruption})
    model_config = AEConfig(trunk=DEEP.override({"normalization": normalization}), latent_dim=3)
    fresh, model = deep_model(model_config, digits), deep_model(model_config, digits)
    state = finish(first_state(model_config, digits, config, seed=0))
    model.load_state_dict(state.section("model"))
    kept = {name for name, own in model.named_parameters() if torch.equal(own, fresh.get_parameter(name))}
    code = ("posterior.", "decoder.0.", "decoder.1.")  # of the code, which is no hidden layer
    assert kept == {name for name, _ in model.named_parameters() if name.startswith(code)}
    validation = Batches(digits, "val", torch.device("cpu"), 1_000)
    for number, layer in enumerate(hidden_layers(model), 1):
        errors = [entry["val/squared_error"] for entry in state.pretraining if entry["layer"] == number]
        assert errors[-1] < 0.95 * errors[0]
        found = held_out_bound(layer, validation, config.corruption, derived_seed(0, "layer", number))
        assert found["val/squared_error"] == errors[-1:]  # running means too are those of its own last epoch


def test_a_denoising_layer_is_shown_the_code_of_the_corrupted_image(digits: PreparedData) -> None:
    first, second, _ = hidden_layers(deep_model(DEEP_AE, digits))
    x = torch.tensor(digits.split("train").images[:4]).float() / 255
    with torch.no_grad():
        codes = second.decode(second.encode(first.encode(torch.zeros_like(x))))
        expected = (codes - first.encode(x)).square().sum(-1)
        torch.testing.assert_close(second.bound(Batch(x, None, torch.zeros_like(x)))["squared_error"], expected)


def test_the_training_begins_with_the_layers(digits: PreparedData) -> None:
    state = finish(first_state(DEEP_AE, digits, TRAINING, seed=0))
    assert (state.epoch, len(state.pretraining)) == (0, 12)
    assert same(state, finish(first_state(DEEP_AE, digits, TRAINING, seed=0)))
    *_, alone = train(DEEP_AE, digits, TRAINING, seed=0)
    *_, given = train(DEEP_AE, digits, TRAINING, seed=0, resume=state)
    assert same(alone.state, given.state)
    *_, plain = train(DEEP_AE, digits, TRAINING.override({"pretraining_epochs": 0}), seed=0)
    assert alone.metrics["val/distortion"] < plain.metrics["val/distortion"]  # it is worth something


def test_resumed_equals_uninterrupted(digits: PreparedData, tmp_path: Path) -> None:
    *_, whole = train(DEEP_AE, digits, TRAINING, seed=0)
    save_state(tmp_path, finish(first_state(DEEP_AE, digits, TRAINING, seed=0)))
    for _ in range(2):  # killed before the first epoch, and after it
        epoch = next(train(DEEP_AE, digits, TRAINING, seed=0, resume=load_state(tmp_path)))
        save_state(tmp_path, epoch.state)
    assert same(epoch.state, whole.state)
    assert len(epoch.state.pretraining) == 12


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_in_the_same_weights(digits: PreparedData, store: Store) -> None:
    """It is killed once within the layers and once after the first epoch.

    Each layer's epochs are shown and tracked once.
    """
    settings = load_settings(
        {"model": DEEP_AE.model_dump(), "training": TRAINING.model_dump()} | {"evaluation.samples": 99}
    )
    told: list[Progress] = []

    def until(work: str, done: int) -> None:
        def show(report: Progress) -> None:
            told.append(report)
            if (report.work, report.done) == (work, done):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finish(train_step(settings, digits, ""), show)

    until("pre-training", 5)
    assert told[-1].total == 12
    assert told[-1].note.startswith("layer 2 of 3, squared error ")
    until("training ae", 1)
    trained = finish(train_step(settings, digits, ""), told.append)
    shown = [report.done for report in told if report.work == "pre-training"]
    assert shown == [*range(6), *range(13)]  # the third time the layers are there
    history = store.client.get_metric_history(trained.run_id, "pretraining/val/squared_error")
    assert [point.step for point in history] == list(range(1, 13))
    *_, whole = train(DEEP_AE, digits, TRAINING, seed=0)
    kept = load_model(trained.folder).model.state_dict()
    best = whole.state.section("best")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in best.items() if not name.startswith("fitted_prior"))


REFUSED = {
    "conv": {"model.name": "ae", "model.trunk.name": "conv"},
    "residual": {"model.name": "vae", "model.trunk.name": "residual"},
    "gan": {"model.name": "gan"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_layers_to_train_one_by_one_is_refused(case: str) -> None:
    with pytest.raises(SettingsError, match=r"^training\.pretraining_epochs=3: .* on .*; use training\.pretraining"):
        Experiment.parse({**REFUSED[case], "training.pretraining_epochs": 3})


def test_the_library_refuses_too(digits: PreparedData) -> None:
    with pytest.raises(SettingsError, match=r"training\.pretraining_epochs=4: .*vae on conv"):
        next(train(VAEConfig(trunk=ConvConfig()), digits, TRAINING, seed=0))
    with pytest.raises(SettingsError, match=r"training\.pretraining_epochs=4: a population"):
        next(train_population([DEEP_AE] * 2, digits, TRAINING, [0, 0]))


def test_a_layer_that_diverges_is_named(digits: PreparedData) -> None:
    relu = AEConfig(trunk=MLPConfig(widths=(20, 12)))
    with pytest.raises(
        TrainingDivergedError, match=r"pre-training layer [12], epoch 1: \S+ is (nan|inf).*learning_rate"
    ):
        next(train(relu, digits, TRAINING.override({"learning_rate": 1e25}), seed=0))
