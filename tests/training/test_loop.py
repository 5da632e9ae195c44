"""Tests the one loop: resuming, best weights, early stopping, schedules, and what it refuses."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aemodels.checkpoints.checkpoint import load_model, load_state, save_card, save_state, save_weights
from aemodels.config import SettingsError, UserError, section_kinds
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, GANConfig, VAEConfig
from aemodels.models.base import Autoencoder, GenerativeModel, Loss, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import GaussianConfig
from aemodels.nn.schedules import learning_rate_factor
from aemodels.nn.trunks import ConvConfig, ImageShape, MLPConfig
from aemodels.training.config import TrainingConfig, TrainingDivergedError
from aemodels.training.early_stopping import ends
from aemodels.training.models import best_model, new_model
from aemodels.training.population import train_population
from aemodels.training.state import Epoch, TrainingState
from aemodels.training.train import train

SMALL = MLPConfig(widths=(16,))
BATCH_NORM = MLPConfig(widths=(16,), normalization="batch")
CONFIGS = [
    TrainingConfig(epochs=4, images=300, batch_size=64, schedule="cosine", warmup_steps=3, gradient_clip=1.0),
    TrainingConfig(epochs=4, images=300, batch_size=64, optimizer="adamw", weight_decay=0.1, precision="bfloat16"),
]


def told(metrics: dict[str, float]) -> dict[str, float]:
    """Returns the metrics without those of how long it took."""
    return {name: value for name, value in metrics.items() if "second" not in name}


def run(model: ModelConfig, data: PreparedData, config: TrainingConfig) -> TrainingState:
    *_, last = train(model, data, config, seed=0)
    return last.state


RESUMED: dict[str, ModelConfig] = {  # every model of the union, and what else has a state
    **{name: model(trunk=SMALL) for name, model in section_kinds(Experiment.model_fields["model"]).items()},
    "warm-up": VAEConfig(trunk=SMALL, beta_warmup_steps=7),
    "class prior": CVAEConfig(trunk=SMALL, conditional_prior=True),
    "conv": VAEConfig(trunk=ConvConfig(channels=(8, 8))),
    "batch_norm": VAEConfig(trunk=BATCH_NORM),
}


@pytest.mark.parametrize("config", CONFIGS, ids=["adam", "adamw"])
@pytest.mark.parametrize("model", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_resumed_equals_uninterrupted(model, config, binarize, digits: PreparedData, tmp_path: Path) -> None:
    data = digits.override({"binarize": binarize})
    whole = run(model, data, config)
    for epoch in train(model, data, config, seed=0):
        torch.rand(3)  # what the caller draws between epochs must not matter
        save_state(tmp_path, epoch.state)
        if epoch.index == 2:
            break
    *_, last = train(model, data, config, seed=0, resume=load_state(tmp_path))
    assert last.state.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(t, whole.tensors[k]) for k, t in last.state.tensors.items())
    assert [told(h) for h in last.state.history] == [told(h) for h in whole.history]


@pytest.mark.parametrize("model", RESUMED.values(), ids=RESUMED)
def test_a_training_starts_from_the_weights_that_it_is_given(model: ModelConfig, digits: PreparedData) -> None:
    """A learning rate of nearly nothing leaves the parameters what they were before the first update."""
    parent = new_model(model, digits, seed=5)
    start = {name: tensor for name, tensor in parent.state_dict().items() if name not in model.only_in_loss}
    still = TrainingConfig(epochs=1, images=64, learning_rate=1e-30)
    (alone,) = train(model, digits, still, 0, start=start)
    own = model.model_copy(update=dict.fromkeys(set(model.only_in_loss) & set(model.stacked), 3))
    (member, _) = next(train_population([own, own], digits, still, [0, 0], start)).values()
    assert isinstance(member, Epoch)
    for epoch in (alone, member):
        for name, parameter in parent.named_parameters():
            torch.testing.assert_close(epoch.model.get_parameter(name), parameter, rtol=0, atol=1e-28)
    for name in set(model.only_in_loss) & set(start | member.model.state_dict()):
        assert member.model.state_dict()[name] == 3, "a setting of the loss is the training's own"
    other = new_model(model, digits, seed=0)
    assert any(not torch.equal(other.get_parameter(name), p) for name, p in parent.named_parameters())


@pytest.mark.parametrize("corruption", ["gaussian", "salt_and_pepper", "masking"])
def test_a_model_without_an_encoder_is_shown_no_corrupted_images(digits: PreparedData, corruption: str) -> None:
    message = rf"training\.corruption\.name={corruption}: .*gan has none; use training\.corruption=none"
    with pytest.raises(SettingsError, match=message):
        Experiment.parse({"model": "gan", "training.corruption": corruption})
    config = TrainingConfig.parse({"corruption": corruption})
    with pytest.raises(SettingsError, match=message):
        next(train(GANConfig(trunk=SMALL), digits, config, seed=0))
    with pytest.raises(SettingsError, match=message):
        next(train_population([GANConfig(trunk=SMALL)] * 2, digits, config, [0, 0]))
    for kind, model in section_kinds(Experiment.model_fields["model"]).items():
        if model.has_encoder:
            assert Experiment.parse({"model": kind, "training.corruption": corruption})


def test_saved_and_loaded_models_are_equal(digits: PreparedData, tmp_path: Path) -> None:
    experiment = Experiment.parse({"model": "ae", "training.epochs": 1, "model.latent_dim": 3})
    state = run(experiment.model, digits, experiment.training)
    model = best_model(experiment.model, digits, experiment.training, 0, state)
    save_card(tmp_path, experiment, digits)
    save_weights(tmp_path, model)
    loaded, card = load_model(tmp_path)
    assert card.experiment == experiment
    assert all(torch.equal(t, loaded.state_dict()[k]) for k, t in model.state_dict().items())


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_damaged_files_are_named(digits: PreparedData, tmp_path: Path, damage: bytes | None) -> None:
    state = run(VAEConfig(trunk=SMALL), digits, TrainingConfig(epochs=1, images=100))
    save_state(tmp_path, state)
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(UserError, match=r"state\.safetensors: damaged.*delete the folder"):
        load_state(tmp_path)


def test_a_state_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    """Such a state has a count of updates beside the count of epochs."""
    meta = {"epoch": "2", "step": "6", "best": "0.5", "best_epoch": "1", "history": "[]", "pretraining": "[]"}
    save_file({"model.weight": torch.ones(3)}, tmp_path / "state.safetensors", metadata=meta)
    state = load_state(tmp_path)
    assert state is not None
    assert (state.epoch, state.best, state.best_epoch, [*state.tensors]) == (2, 0.5, 1, ["model.weight"])


def test_early_stopping_waits_for_the_end_of_the_warm_up() -> None:
    config = TrainingConfig(epochs=20, patience=8)
    assert ends([2.0, 2.0], 3, config, updates_per_epoch=4)
    assert not ends([2.0, 2.0], 3, config, updates_per_epoch=3)
    assert not ends([2.0], 3, config, updates_per_epoch=4)
    assert not ends([2.0, 2.0], 3, TrainingConfig(epochs=20), updates_per_epoch=1_000)
    assert ends([2.0, 2.0], 3, TrainingConfig(epochs=3), updates_per_epoch=4)


def test_a_training_goes_on_while_its_loss_is_on_its_way_down_again() -> None:
    """The first updates disturb a network that starts at a linear code, and it may take a while to be better again."""
    config = TrainingConfig(updates=3_000, patience=500)
    disturbed = [-8973.0, -9067.0, -9141.0, -9142.0, -9172.0]  # photos of 64 pixels, after -9213 at update 100
    overfitted = [-1410.0, -1420.0, -1362.0, -1385.0, -1375.0]  # after -1459
    assert not ends(disturbed, 6, config, updates_per_epoch=100)
    assert ends(overfitted, 9, config, updates_per_epoch=100)
    assert ends([*disturbed, *[-9150.0] * 5], 11, config, updates_per_epoch=100)


def test_noise_prolongs_no_training() -> None:
    config, random = TrainingConfig(updates=10_000, patience=1_000), np.random.default_rng(0)
    ended = [ends((100 + random.normal(size=10)).tolist(), 20, config, updates_per_epoch=100) for _ in range(200)]
    assert sum(ended) > 190


def test_divergence_names_epoch_term_and_remedy(digits: PreparedData) -> None:
    with pytest.raises(TrainingDivergedError, match=r"epoch 1: train/\w+ is (nan|inf).*learning_rate"):
        run(VAEConfig(), digits, TrainingConfig(epochs=2, learning_rate=1e30))


KILLED = """
import sys
from pathlib import Path
from aemodels.checkpoints.checkpoint import load_state, save_state
from aemodels.data.prepared import PreparedData
from aemodels.models import VAEConfig
from aemodels.training.config import TrainingConfig
from aemodels.training.train import train
folder, data = Path(sys.argv[1]), PreparedData.model_validate_json(sys.argv[2])
for epoch in train(VAEConfig(), data, TrainingConfig(epochs=60, images=200), 0, resume=load_state(folder)):
    save_state(folder, epoch.state)
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_equals_uninterrupted(digits: PreparedData, tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), digits.model_dump_json()])

    for _ in range(3):
        process = start(tmp_path / "killed")
        deadline = time.monotonic() + 60
        before = load_state(tmp_path / "killed")
        while time.monotonic() < deadline and process.poll() is None:
            state = load_state(tmp_path / "killed")
            if state is not None and state.epoch > (before.epoch if before else 0) + 3:
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert start(tmp_path / "whole").wait() == 0
    killed, whole = load_state(tmp_path / "killed"), load_state(tmp_path / "whole")
    assert killed is not None
    assert whole is not None
    assert all(torch.equal(t, whole.tensors[k]) for k, t in killed.tensors.items())


class DriftConfig(ModelConfig):
    """Makes one weight that starts at 0. Adam raises it by exactly the learning rate at every step."""

    name: str = "drift"

    def build(self, image_shape: ImageShape, num_classes: int) -> GenerativeModel:
        return Drift(image_shape, num_classes, latent_dim=1)


class Drift(GenerativeModel):
    """Pulls its weight up for ever by its loss; its objective is best at 0.22."""

    selection = "objective"

    def __init__(self, image_shape: ImageShape, num_classes: int, latent_dim: int) -> None:
        super().__init__(image_shape, num_classes, latent_dim)
        self.line = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.line.weight)

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"line": ("line",)}

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        return {"line": Loss(-self.line(batch.x.new_ones(len(batch.x), 1))[:, 0], {})}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        return {"objective": (self.line.weight[0] - 0.22).square().expand(len(batch.x))}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return torch.zeros(n, *self.image_shape)


def test_the_best_weights_are_those_of_the_smallest_objective(digits: PreparedData) -> None:
    config = TrainingConfig(epochs=4, images=32, batch_size=32, learning_rate=0.1)
    weights = []
    for epoch in train(DriftConfig(), digits, config, seed=0):
        weights.append(epoch.model.state_dict()["line.weight"].item())
    assert weights == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-5)
    state = epoch.state
    objectives = [metrics["val/objective"] for metrics in state.history]
    assert objectives == pytest.approx([0.12**2, 0.02**2, 0.08**2, 0.18**2], abs=1e-5)
    assert (state.best_epoch, state.best) == (2, objectives[1])
    assert state.tensors["best.line.weight"].item() == weights[1]
    assert state.tensors["model.line.weight"].item() == weights[3]
    best = best_model(DriftConfig(), digits, config, seed=0, state=state)
    assert best.state_dict()["line.weight"].item() == weights[1]


def test_a_training_that_only_gets_worse_stops_early_and_keeps_the_weights_before_it(digits: PreparedData) -> None:
    config = TrainingConfig(updates=1_200, images=32, batch_size=32, learning_rate=0.1)
    state = run(DriftConfig(), digits, config)
    assert (state.best_epoch, state.best, state.epoch) == (0, pytest.approx(0.22**2), 4)  # a third of twelve epochs
    assert state.tensors["best.line.weight"].item() == 0
    never = run(DriftConfig(), digits, config.override({"updates": 600, "patience": 0}))
    assert (never.best_epoch, never.epoch) == (0, 6)


FACTORS = {  # 3 steps of warm-up, then half a cosine over the other 5
    "constant": [0.25, 0.5, 0.75, 1, 1, 1, 1, 1],
    "cosine": [0.25, 0.5, 0.75, 1, 0.904508, 0.654508, 0.345492, 0.095492],
}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_follows_its_schedule(schedule: str, digits: PreparedData) -> None:
    """Adam's step is the learning rate if the gradient never changes. So the weight is the sum of the rates."""
    settings = {"epochs": 4, "images": 64, "batch_size": 32, "learning_rate": 0.01, "warmup_steps": 3}
    config = TrainingConfig.model_validate(settings | {"schedule": schedule})
    logged, weights = [], []
    for epoch in train(DriftConfig(), digits, config, seed=0):
        logged.append(epoch.metrics["train/learning_rate"])
        weights.append(epoch.model.state_dict()["line.weight"].item())
    rates = [0.01 * factor for factor in FACTORS[schedule]]
    assert logged == pytest.approx(rates[1::2], rel=1e-4)
    assert weights == pytest.approx([sum(rates[:n]) for n in (2, 4, 6, 8)], rel=1e-4)


def test_optimal_sigma_is_remembered_for_held_out_images(digits: PreparedData) -> None:
    model = AEConfig(trunk=SMALL, likelihood=GaussianConfig(sigma="optimal", value=0.1))
    config = TrainingConfig(epochs=6, images=300, batch_size=30, learning_rate=1e-5)
    *_, last = train(model, digits, config, seed=0)
    trained = last.model
    assert isinstance(trained, Autoencoder)
    x = torch.tensor(digits.split("train").images[:300]).float() / 255
    with torch.no_grad():
        error = (trained(x) - x).square().mean().sqrt().item()
        p_x = trained.decode(trained.encode(x).mean)
        expected = torch.distributions.Normal(p_x.mean, error).log_prob(x).flatten(1).sum(-1)
        assert error > 0.2  # far from where sigma started
        assert trained.state_dict()["likelihood.log_sigma"].exp().item() == pytest.approx(error, rel=0.02)
        torch.testing.assert_close(p_x.log_prob(x).mean(), expected.mean(), rtol=0.02, atol=0)


def test_the_stages_are_those_of_the_paper() -> None:
    """Burda et al. (2016) train 3**i epochs with the rate 1e-3 * 10**(-i/7), for i from 0 to 7."""
    factors = [learning_rate_factor(epoch, 3280, 0, "stages") for epoch in range(3280)]
    stages = [(factor, len(list(group))) for factor, group in itertools.groupby(factors)]
    assert stages == [(pytest.approx(10 ** (-i / 7)), 3**i) for i in range(8)]


def test_an_epoch_that_is_over_has_no_model_any_more(digits: PreparedData) -> None:
    first, second = train(AEConfig(trunk=MLPConfig(widths=(8,))), digits, TrainingConfig(epochs=2, images=64), seed=0)
    assert second.model is not None
    with pytest.raises(RuntimeError, match="epoch 1 is over"):
        assert first.model
