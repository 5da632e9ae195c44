"""Tests that a population equals models trained alone: losses, weights, moments, best weights; members leave."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from aemodels.config import section_kinds
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, GANConfig, IWAEConfig, VAEConfig, VAEGANConfig
from aemodels.models.base import GenerativeModel, Loss, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliConfig, GaussianConfig
from aemodels.nn.photo import PhotoConfig
from aemodels.nn.trunks import ConvConfig, ImageShape, MLPConfig, ResidualConfig
from aemodels.training.config import TrainingConfig, TrainingDivergedError
from aemodels.training.models import best_model
from aemodels.training.population import stackable, train_population
from aemodels.training.state import Epoch, TrainingState
from aemodels.training.train import train

LARGEST = 7
MLP, CONV = MLPConfig(widths=(16,)), ConvConfig(channels=(4, 6), hidden=12)
PHOTO = PhotoConfig(width=8)
RESIDUAL = ResidualConfig(
    channels=(12,), hidden=6
)  # groups of several channels: a bias before one alone has no gradient


class AdversarialConfig(ModelConfig):
    """Holds a small model of two parts: a generator that draws from noise, and a critic."""

    name: Literal["two_parts"] = "two_parts"
    latent_dim: int = 2

    def build(self, image_shape: ImageShape, num_classes: int) -> GenerativeModel:
        return Adversarial(image_shape, num_classes, self.latent_dim)


class Adversarial(GenerativeModel):
    selection = None

    def __init__(self, image_shape: ImageShape, num_classes: int, latent_dim: int) -> None:
        super().__init__(image_shape, num_classes, latent_dim)
        self.generator, self.critic = nn.Linear(latent_dim, 784), nn.Linear(784, 1)
        self.register_buffer("unit_mask", torch.ones(latent_dim))
        self.unit_mask: Tensor

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"generator": ("generator",), "critic": ("critic",)}

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        from aemodels.nn import noise

        z = noise.noise_like(self.unit_mask.expand(len(batch.x), -1)) * self.unit_mask
        fake = self.critic(self.generator(z).sigmoid())[:, 0]
        real = self.critic(batch.x.flatten(1))[:, 0]
        return {"generator": Loss(-fake, {"fooled": -fake}), "critic": Loss(fake - real, {"gap": fake - real})}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        return {"realism": self.critic(batch.x.flatten(1))[:, 0]}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return self.generator(torch.randn(n, self.latent_dim)).sigmoid().view(n, *self.image_shape)


def vaes(**settings: object) -> list[ModelConfig]:
    varied = [(2, 0.5), (LARGEST, 1.0), (5, 4.0)]
    return [VAEConfig.model_validate({"latent_dim": d, "beta": beta, **settings}) for d, beta in varied]


POPULATIONS = {
    "mlp": vaes(trunk=MLP, likelihood=BernoulliConfig()),
    "batch_norm": vaes(trunk=MLPConfig(widths=(16, 9), activation="tanh", normalization="batch")),
    "conv": vaes(trunk=CONV),
    "residual": vaes(trunk=RESIDUAL),
    "photo": vaes(trunk=PHOTO, likelihood=GaussianConfig(sigma="optimal", output="linear")),
    "cvae_photo": [CVAEConfig(latent_dim=d, trunk=PHOTO) for d in (3, LARGEST)],
    "free_bits": vaes(trunk=MLP, free_bits=0.1, beta_warmup_steps=20),
    "learned_sigma": vaes(trunk=MLP, likelihood=GaussianConfig(sigma="learned")),
    "optimal_sigma": vaes(trunk=MLP, likelihood=GaussianConfig(sigma="optimal")),
    "ae": [AEConfig(latent_dim=d, trunk=MLP) for d in (3, LARGEST)],
    "cvae": [
        CVAEConfig(latent_dim=d, beta=b, trunk=MLP, conditional_prior=True) for d, b in ((3, 2.0), (LARGEST, 1.0))
    ],
    "iwae": [IWAEConfig(latent_dim=d, trunk=MLP, samples=3) for d in (3, LARGEST)],
    "vae_gan": [VAEGANConfig(latent_dim=d, gamma=g, trunk=CONV) for d, g in ((2, 0.1), (LARGEST, 1.0))],
    "gan": [GANConfig(latent_dim=d, trunk=MLP) for d in (3, LARGEST)],
    "two_parts": [AdversarialConfig(latent_dim=d) for d in (2, LARGEST, 4)],
}
# A new model of the union has a population without being named here.
POPULATIONS |= {
    name: [kind(latent_dim=d, trunk=MLP) for d in (3, LARGEST)]
    for name, kind in section_kinds(Experiment.model_fields["model"]).items()
    if not any(isinstance(model, kind) for models in POPULATIONS.values() for model in models)
}
TRAINING = {
    "adam": TrainingConfig(epochs=4, images=260, batch_size=10, weight_decay=0.01, schedule="cosine", warmup_steps=5),
    "clipped": TrainingConfig(epochs=4, images=260, batch_size=9, optimizer="adamw", gradient_clip=0.5),
}


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a model's noise a function of the image's place in the batch and the latent unit, alone or in a stack."""

    def noise(z: Tensor) -> Tensor:
        rows, units = (torch.arange(count, dtype=torch.float64) for count in z.shape[-2:])
        return (1.5 * (1.7 * rows[:, None] + 0.9 * units).sin()).to(z.dtype).expand_as(z)

    monkeypatch.setattr("aemodels.nn.noise.noise_like", noise)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets everything be computed in float64."""
    batch = Batches._batch

    def in_double(self: Batches, *args: Any) -> Batch:
        x, y, _ = batch(self, *args)
        return Batch(x.double(), y)

    monkeypatch.setattr(Batches, "_batch", in_double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Result(NamedTuple):
    state: TrainingState
    metrics: dict[str, float]


def alone(model: ModelConfig, data: PreparedData, config: TrainingConfig) -> Result:
    *_, last = train(model, data, config, seed=0)
    return Result(last.state, last.metrics)


def together(
    models: Sequence[ModelConfig],
    data: PreparedData,
    config: TrainingConfig,
    leaving: Mapping[int, Collection[int]] | None = None,
) -> dict[int, Result]:
    """Returns the last state of each member; `leaving` tells who leaves after an epoch."""
    results: dict[int, Result] = {}
    training, answer = train_population(models, data, config, [0] * len(models)), None
    with suppress(StopIteration):
        while True:
            for number, epoch in training.send(answer).items():
                assert isinstance(epoch, Epoch)
                results[number] = Result(copied(epoch.state), epoch.metrics)
                answer = (leaving or {}).get(epoch.index)
    return results


def copied(state: TrainingState) -> TrainingState:
    return replace(state, tensors={key: tensor.clone() for key, tensor in state.tensors.items()})


def assert_same(a: Result, b: Result, tolerance: float) -> None:
    assert a.state.tensors.keys() == b.state.tensors.keys()
    assert (a.state.epoch, a.state.best_epoch) == (b.state.epoch, b.state.best_epoch)
    for key, tensor in a.state.tensors.items():
        torch.testing.assert_close(
            tensor, b.state.tensors[key], atol=tolerance, rtol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )
    own = {name for name in a.metrics if "second" not in name}
    assert own == {name for name in b.metrics if "second" not in name}
    told = pytest.approx({name: b.metrics[name] for name in own}, rel=10 * tolerance)  # they follow from the weights
    assert {name: a.metrics[name] for name in own} == told


LONG = {"residual", "photo", "cvae_photo", "conv", "vae_gan"}  # convolutions take longer


def cases() -> Iterator[Any]:
    """Returns every population with Adam and with clipping. Most of the long and the clipped ones are marked slow."""
    for (kind, models), (how, training) in itertools.product(POPULATIONS.items(), TRAINING.items()):
        slow = (kind in LONG and kind != "conv") or (how == "clipped" and kind != "mlp")
        yield pytest.param(models, training, id=f"{kind}-{how}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("models", "training"), list(cases()))
@pytest.mark.usefixtures("same_noise", "double")
def test_a_member_is_the_model_trained_alone(models, training, digits: PreparedData) -> None:
    """After 104 steps in float64 the weights, best weights, moments and metrics are equal."""
    # two players answer each other's rounding, so that it grows: the VAE-GAN's from 1e-15 in 87 steps to 3e-10 in 116
    # (1.3e-8 on a processor without AVX-512); a mistake changes weights by their size
    tolerance = 1e-7 if isinstance(models[0], GANConfig | VAEGANConfig) else 1e-10
    results = together(models, digits, training)
    assert results.keys() == set(range(len(models)))
    for number, model in enumerate(models):
        assert all(t >= 100 for key, t in results[number].state.tensors.items() if key.endswith(".step"))
        assert_same(results[number], alone(model, digits, training), tolerance)


def assert_losses_agree(models, data: PreparedData, training: TrainingConfig, rel: float, nats: float) -> None:
    results = together(models, data, training)
    for number, model in enumerate(models):
        expected = {k: v for k, v in alone(model, data, training).metrics.items() if "second" not in k}
        assert {k: results[number].metrics[k] for k in expected} == pytest.approx(expected, rel=rel, abs=nats)


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(models, id=kind, marks=[pytest.mark.slow] if kind in LONG else [])
        for kind, models in POPULATIONS.items()
    ],
)
@pytest.mark.usefixtures("same_noise")
def test_losses_agree_in_float32(models, digits: PreparedData) -> None:
    # a bound is the difference of two terms of some nats, which may nearly cancel
    assert_losses_agree(models, digits, TRAINING["adam"], rel=1e-4, nats=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.usefixtures("same_noise")
def test_losses_agree_in_bfloat16(kind: str, digits: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast is used as on a GPU, however this processor multiplies bfloat16."""
    monkeypatch.setattr("aemodels.training.update.bfloat16_units", lambda _: "vector")
    models, training = POPULATIONS[kind], TRAINING["adam"].override({"precision": "bfloat16", "epochs": 2})
    assert_losses_agree(models, digits, training, rel=1e-3, nats=0.05)  # of a rate rounding is a larger part
    with pytest.raises(AssertionError):  # it was not float32 again
        assert_losses_agree(models[:2], digits, training, rel=1e-4, nats=0)


@pytest.mark.usefixtures("same_noise", "double")
def test_who_leaves_changes_nothing_for_the_others(digits: PreparedData) -> None:
    models, training = POPULATIONS["mlp"], TRAINING["clipped"]
    results = together(models, digits, training, leaving={1: [1], 3: [0]})
    assert [results[number].state.epoch for number in range(3)] == [3, 1, 4]
    assert_same(results[2], alone(models[2], digits, training), tolerance=1e-10)
    early = training.override({"epochs": 3})
    assert_same(results[0], alone(models[0], digits, early), tolerance=1e-10)


@pytest.mark.usefixtures("same_noise", "double")
def test_a_member_goes_on_alone_from_its_state(digits: PreparedData) -> None:
    """What a member leaves is a checkpoint like any other."""
    model, training = POPULATIONS["mlp"][0], TRAINING["adam"]
    states: dict[int, TrainingState] = {}
    for told in train_population(POPULATIONS["mlp"], digits, training, [0, 0, 0]):
        epoch = told[0]
        assert isinstance(epoch, Epoch)
        states[epoch.index] = copied(replace(epoch.state, history=list(epoch.state.history)))
    *_, last = train(model, digits, training, seed=0, resume=states[2])
    assert_same(Result(last.state, last.metrics), Result(states[4], states[4].history[-1]), tolerance=1e-10)
    best = best_model(model, digits, training, 0, states[4])
    expected = best_model(model, digits, training, 0, alone(model, digits, training).state)
    x = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(best(x), expected(x), atol=1e-9, rtol=0)


def test_members_have_weights_by_their_seed_and_noise_of_their_own(digits: PreparedData) -> None:
    model, config = VAEConfig(latent_dim=3, trunk=MLP), TrainingConfig(epochs=1, images=300)
    told = next(train_population([model] * 3, digits, config, [0, 0, 7]))
    first, same, other = (told[i].state.section("model")["encoder.1.weight"] for i in range(3))  # type: ignore[union-attr]
    assert 0 < (first - same).abs().mean() < 0.1 * (first - other).abs().mean()


def test_who_diverges_leaves_and_the_others_stay(digits: PreparedData) -> None:
    models = [VAEConfig(latent_dim=3, beta=beta, trunk=MLP) for beta in (1.0, 1e38, 2.0)]
    told = list(train_population(models, digits, TrainingConfig(epochs=2, images=300, learning_rate=0.5), [0] * 3))
    assert isinstance(told[0][1], TrainingDivergedError)
    assert [sorted(one) for one in told] == [[0, 1, 2], [0, 2]]


def test_an_epoch_is_read_before_the_next_one_or_never(digits: PreparedData) -> None:
    """Member 0 leaves after the first epoch, so that the others move up in the stack."""
    training = train_population(vaes(trunk=MLP), digits, TrainingConfig(epochs=3, images=100), [0] * 3)
    first, second, third = next(training), training.send([0]), next(training)
    with suppress(StopIteration):
        next(training)
    gone, *stayed = first.values()
    for epoch in (*stayed, *second.values()):
        for read in ("model", "state"):
            with pytest.raises(
                RuntimeError, match=rf"epoch {epoch.index} is over; take its model and its state before"
            ):  # type: ignore[union-attr]
                getattr(epoch, read)
    for read in ("model", "state"):
        with pytest.raises(RuntimeError, match="member 0 has left"):
            getattr(gone, read)
    for number, epoch in third.items():
        assert isinstance(epoch, Epoch)
        assert (epoch.model.latent_dim, epoch.state.epoch) == ((2, LARGEST, 5)[number], 3), "the last ones stay"


def test_nothing_is_read_of_a_training_that_has_diverged_since(
    digits: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, epoch: int, *__: object) -> None:
        if epoch == 2:
            raise TrainingDivergedError

    for module in ("train", "population"):
        monkeypatch.setattr(f"aemodels.training.{module}.refuse_non_finite", refuse)
    model, config = VAEConfig(latent_dim=3, trunk=MLP), TrainingConfig(epochs=3, images=100)
    training = train(model, digits, config, seed=0)
    alone = next(training)
    with pytest.raises(TrainingDivergedError):
        next(training)
    together, then = train_population([model] * 2, digits, config, [0, 0])
    assert [*map(type, then.values())] == [TrainingDivergedError] * 2
    for epoch in (alone, *together.values()):
        assert isinstance(epoch, Epoch)
        for read in ("model", "state"):
            with pytest.raises(RuntimeError, match="epoch 1 is over"):
                getattr(epoch, read)


@pytest.mark.usefixtures("same_noise", "double")
def test_early_stopping_is_each_members_own(digits: PreparedData) -> None:
    config = TrainingConfig(epochs=12, images=200, batch_size=20, patience=10, learning_rate=0.02)
    results = together(POPULATIONS["mlp"], digits, config)
    epochs = [results[number].state.epoch for number in range(3)]
    assert len(set(epochs)) > 1
    assert epochs == [alone(model, digits, config).state.epoch for model in POPULATIONS["mlp"]]


@pytest.mark.slow
@pytest.mark.usefixtures("same_noise", "double")
def test_weights_that_get_no_better_are_those_before_the_first_update(digits: PreparedData) -> None:
    config = TrainingConfig(updates=500, images=64, batch_size=64, learning_rate=1e-30)
    results = together(POPULATIONS["mlp"], digits, config)
    for number, model in enumerate(POPULATIONS["mlp"]):
        states = [results[number].state, alone(model, digits, config).state]
        assert [(state.best_epoch, state.epoch) for state in states] == [(0, 3), (0, 3)]
        assert states[0].best == pytest.approx(states[1].best)


def test_what_cannot_be_stacked() -> None:
    vae = VAEConfig()
    assert stackable(vae, VAEConfig(latent_dim=3, beta=0.1))
    for other in (AEConfig(), VAEConfig(trunk=ConvConfig()), VAEConfig(free_bits=1.0), VAEConfig(beta_warmup_steps=9)):
        assert not stackable(vae, other)
