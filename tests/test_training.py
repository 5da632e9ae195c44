"""The one loop: resuming, several parts, early stopping, and what it refuses."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aemodels.checkpoint import load_model, load_state, save_card, save_state, save_weights
from aemodels.config import SettingsError, UserError, section_kinds
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.distributions import GaussianConfig
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, CVAEConfig, GANConfig, VAEConfig
from aemodels.models.base import Autoencoder, Batch, GenerativeModel, Loss, ModelConfig
from aemodels.nets import ConvConfig, ImageShape, MLPConfig
from aemodels.population import train_population
from aemodels.schedules import learning_rate_factor
from aemodels.training import (
    TrainingConfig,
    TrainingDivergedError,
    TrainingState,
    best_model,
    ends,
    new_model,
    train,
)
from aemodels.updates import FusedAdam, Graph, Updates, captured

SMALL = MLPConfig(widths=(16,))
BATCH_NORM = MLPConfig(widths=(16,), normalization="batch")
CONFIGS = [
    TrainingConfig(epochs=4, images=300, batch_size=64, schedule="cosine", warmup_steps=3, gradient_clip=1.0),
    TrainingConfig(epochs=4, images=300, batch_size=64, optimizer="adamw", weight_decay=0.1, precision="bfloat16"),
]


def told(metrics: dict[str, float]) -> dict[str, float]:
    """Without how long it took."""
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
    """One that had a count of updates beside that of epochs."""
    meta = {"epoch": "2", "step": "6", "best": "0.5", "best_epoch": "1", "history": "[]", "pretraining": "[]"}
    save_file({"model.weight": torch.ones(3)}, tmp_path / "state.safetensors", metadata=meta)
    state = load_state(tmp_path)
    assert state is not None
    assert (state.epoch, state.best, state.best_epoch, [*state.tensors]) == (2, 0.5, 1, ["model.weight"])


class TwoPartsConfig(ModelConfig):
    """A generator and a critic that each see the other's output."""

    def build(self, image_shape: ImageShape, num_classes: int) -> GenerativeModel:
        return TwoParts(image_shape, num_classes, latent_dim=2)


class TwoParts(GenerativeModel):
    selection = None

    def __init__(self, image_shape: ImageShape, num_classes: int, latent_dim: int) -> None:
        super().__init__(image_shape, num_classes, latent_dim)
        self.generator, self.critic = nn.Linear(2, 784), nn.Linear(784, 1)

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"generator": ("generator",), "critic": ("critic",)}

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        fake = self.critic(self.sample(len(batch.x)).flatten(1))[:, 0]
        real = self.critic(batch.x.flatten(1))[:, 0]
        return {"generator": Loss(-fake, {"fooled": -fake}), "critic": Loss(fake - real, {"gap": fake - real})}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return self.generator(torch.randn(n, 2)).sigmoid().view(n, 1, 28, 28)


def test_no_part_receives_anothers_gradient(digits: PreparedData) -> None:
    """One step of plain Adam moves every weight by the learning rate against the sign of its own part's gradient."""
    config = TrainingConfig(epochs=1, images=64, batch_size=64, learning_rate=1e-4)
    (epoch,) = train(TwoPartsConfig(), digits, config, seed=0)
    assert {"train/generator/fooled", "train/critic/gap"} <= epoch.metrics.keys()
    critic = epoch.state.tensors["optimizer.critic.0.exp_avg"]
    images = torch.tensor(digits.split("train").images[:64]).float() / 255
    # d(mean(fake - real))/d(weight) = mean(fake images) - mean(real images): the generator's term has no share in it.
    fake_mean = critic / 0.1 + images.flatten(1).mean(0)
    assert ((fake_mean > 0) & (fake_mean < 1)).all()
    assert epoch.state.best_epoch == 1
    assert torch.equal(epoch.state.tensors["best.critic.weight"], epoch.state.tensors["model.critic.weight"])


def test_early_stopping_waits_for_the_end_of_the_warm_up() -> None:
    config = TrainingConfig(patience=2)
    state = TrainingState(epoch=3, best=1.0, best_epoch=1, history=[], tensors={})
    assert ends(state, config, warmup_epochs=0)
    assert not ends(state, config, warmup_epochs=2)
    assert not ends(state, TrainingConfig(), warmup_epochs=0)
    assert ends(state, TrainingConfig(epochs=3), warmup_epochs=0)


def test_divergence_names_epoch_term_and_remedy(digits: PreparedData) -> None:
    with pytest.raises(TrainingDivergedError, match=r"epoch 1: train/\w+ is (nan|inf).*learning_rate"):
        run(VAEConfig(), digits, TrainingConfig(epochs=2, learning_rate=1e30))


KILLED = """
import sys
from pathlib import Path
from aemodels.checkpoint import load_state, save_state
from aemodels.data.prepared import PreparedData
from aemodels.models import VAEConfig
from aemodels.training import TrainingConfig, train
folder, data = Path(sys.argv[1]), PreparedData.model_validate_json(sys.argv[2])
for epoch in train(VAEConfig(), data, TrainingConfig(epochs=60, images=200), 0, resume=load_state(folder)):
    save_state(folder, epoch.state)
"""


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


@pytest.mark.parametrize(("kind", "momentum"), [("adam", 0.9), ("adam", 0.5), ("adamw", 0.9)])
def test_the_step_is_torchs_for_gradients_of_any_strides(kind: str, momentum: float) -> None:
    """The fused kernels misread gradients that are not contiguous on the CPU."""
    config = TrainingConfig.model_validate({"optimizer": kind, "weight_decay": 0.1})
    mine, plain = torch.ones(2, 3), nn.Parameter(torch.ones(2, 3))
    optimizer = FusedAdam([mine], torch.tensor(0.1), momentum, config)
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    reference = classes[kind]([plain], lr=0.1, betas=(momentum, 0.999), weight_decay=0.1, fused=False)
    for slope in (torch.tensor([[1.0, -2], [3, -4], [5, -6]]), torch.tensor([[3.0, 1], [-1, 2], [0, 7]])):
        assert not slope.t().is_contiguous()
        optimizer.step([slope.t()])
        plain.grad = slope.t().contiguous()
        reference.step()
    torch.testing.assert_close(mine, plain.detach())
    state = reference.state[plain]
    moments = {f"0.{name}": state[name] for name in ("exp_avg", "exp_avg_sq")}
    torch.testing.assert_close(optimizer.state(), {"step": state["step"], **moments})


def test_moments_that_are_too_small_to_matter_are_forgotten() -> None:
    """Subnormal numbers make a CPU slow; what is left out moves no weight by a bit."""
    weights = [torch.ones(4) for _ in range(2)]
    optimizers = [FusedAdam([weight], torch.tensor(1e-3), 0.9, TrainingConfig()) for weight in weights]
    for step in range(1500):
        for optimizer in optimizers:
            optimizer.step([torch.tensor([1.0, 1e-12, 1e-22, 0.0]) if step == 0 else torch.zeros(4)])
        if step % 256 == 0:
            optimizers[0].forget()
    assert torch.equal(*weights)
    tiny = torch.finfo(torch.float32).tiny
    assert not any(((m != 0) & (m.abs() < tiny)).any() for m in (*optimizers[0].first, *optimizers[0].second))
    assert any(((m != 0) & (m.abs() < tiny)).any() for m in (*optimizers[1].first, *optimizers[1].second))


class DriftConfig(ModelConfig):
    """One weight that starts at 0 and that Adam raises by exactly the learning rate at every step."""

    def build(self, image_shape: ImageShape, num_classes: int) -> GenerativeModel:
        return Drift(image_shape, num_classes, latent_dim=1)


class Drift(GenerativeModel):
    """Its loss pulls the weight up for ever; its objective is best at 0.22."""

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


FACTORS = {  # 3 steps of warm-up, then half a cosine over the other 5
    "constant": [0.25, 0.5, 0.75, 1, 1, 1, 1, 1],
    "cosine": [0.25, 0.5, 0.75, 1, 0.904508, 0.654508, 0.345492, 0.095492],
}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_follows_its_schedule(schedule: str, digits: PreparedData) -> None:
    """Adam's step is the learning rate where the gradient is always the same, so the weight is the rates' sum."""
    settings = {"epochs": 4, "images": 64, "batch_size": 32, "learning_rate": 0.01, "warmup_steps": 3}
    config = TrainingConfig.model_validate(settings | {"schedule": schedule})
    logged, weights = [], []
    for epoch in train(DriftConfig(), digits, config, seed=0):
        logged.append(epoch.metrics["train/learning_rate"])
        weights.append(epoch.model.state_dict()["line.weight"].item())
    rates = [0.01 * factor for factor in FACTORS[schedule]]
    assert logged == pytest.approx(rates[1::2], rel=1e-4)
    assert weights == pytest.approx([sum(rates[:n]) for n in (2, 4, 6, 8)], rel=1e-4)


def test_clipping_bounds_the_gradient_of_each_part(digits: PreparedData) -> None:
    """After one step Adam's first moment is a tenth of the gradient, whose norm was clipped."""

    def norms(clip: float | None) -> dict[str, float]:
        config = TrainingConfig(epochs=1, images=64, batch_size=64, gradient_clip=clip)
        (epoch,) = train(TwoPartsConfig(), digits, config, seed=0)
        moments = {k: t for k, t in epoch.state.tensors.items() if k.endswith("exp_avg")}
        return {
            part: torch.cat([t.flatten() for k, t in moments.items() if k.startswith(f"optimizer.{part}.")])
            .norm()
            .item()
            for part in ("generator", "critic")
        }

    free = norms(None)
    assert min(free.values()) > 1e-3
    assert norms(1e-3) == pytest.approx({"generator": 1e-4, "critic": 1e-4}, rel=1e-2)
    assert norms(1e3) == free


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


@pytest.mark.parametrize("model", [VAEConfig(trunk=SMALL, beta_warmup_steps=7), TwoPartsConfig()], ids=["vae", "parts"])
def test_what_a_graph_replays_is_the_update(model: ModelConfig, digits: PreparedData) -> None:
    """Updates whose order, rates and step lie in tensors, as on a GPU, are those of the plain loop; here uncaptured."""
    config = TrainingConfig(epochs=2, images=300, batch_size=64, schedule="cosine", warmup_steps=3, gradient_clip=1.0)
    data, cpu = digits.override({"binarize": "dynamic"}), torch.device("cpu")
    images = Batches(data, "train", cpu, 300)
    plain, replayed = (Updates(new_model(model, data, 0), images, config, seed=0) for _ in range(2))
    for index in (1, 2):
        terms = plain.epoch(index, (index - 1) * plain.steps)
        replayed._graph = Graph(replayed)
        assert replayed.epoch(index, (index - 1) * plain.steps) == terms
    expected = plain.model.state_dict() | plain.moments()
    actual = replayed.model.state_dict() | replayed.moments()
    assert all(torch.equal(tensor, actual[key]) for key, tensor in expected.items())


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_capture_leaves_no_trace(works: bool, resumed: bool, digits: PreparedData, monkeypatch) -> None:
    """Its warm-up is undone; where it fails, it says so. CUDA itself is replaced: there is none on a CPU machine."""

    def capture(*_: object, **__: object) -> nullcontext[None]:
        if not works:
            raise RuntimeError("operation not permitted when stream is capturing")
        return nullcontext()

    stream = SimpleNamespace(wait_stream=lambda _: None)
    replayed = SimpleNamespace(replay=lambda: None)
    stand_ins = {"Stream": lambda: stream, "current_stream": lambda: stream, "stream": nullcontext, "graph": capture}
    for name, stand_in in (stand_ins | {"CUDAGraph": lambda: replayed}).items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    config = TrainingConfig(epochs=2, images=300, batch_size=64)
    model = VAEConfig(trunk=BATCH_NORM, likelihood=GaussianConfig(sigma="optimal"))
    updates = Updates(new_model(model, digits, 0), Batches(digits, "train", torch.device("cpu"), 300), config, seed=0)
    if resumed:
        updates.epoch(1, 0)
    before = {k: t.clone() for k, t in (updates.model.state_dict() | updates.moments()).items()}
    with nullcontext() if works else pytest.warns(UserWarning, match="no CUDA graph .*not permitted"):
        graph = captured(updates)
    assert (graph is not None) == works
    after = updates.model.state_dict() | updates.moments()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


@pytest.mark.parametrize("stopped", [False, True])
def test_a_training_that_ended_keeps_no_graph(stopped: bool, digits: PreparedData, monkeypatch) -> None:
    """An evaluation follows, which needs the memory; graph and updates hold each other."""
    graphs: list[weakref.ref[Graph]] = []

    def uncaptured(updates: Updates) -> Graph:
        if updates._graph is None:
            updates._graph = graph = Graph(updates)
            graph.replay = partial(Graph.advance, weakref.proxy(graph))
            graphs.append(weakref.ref(graph))
        return updates._graph

    monkeypatch.setattr(Updates, "_captured", uncaptured)
    gc.disable()
    try:
        config = TrainingConfig(epochs=2, images=300, batch_size=64)
        for epoch in train(VAEConfig(trunk=SMALL), digits, config, seed=0):
            assert epoch.state.tensors
            assert graphs[0]() is not None
            if stopped:
                break
        assert [graph() for graph in graphs] == [None]
    finally:
        gc.enable()


def test_the_stages_are_those_of_the_paper() -> None:
    """Burda et al. (2016): 1e-3 * 10**(-i/7) for 3**i epochs, i from 0 to 7."""
    factors = [learning_rate_factor(epoch, 3280, 0, "stages") for epoch in range(3280)]
    stages = [(factor, len(list(group))) for factor, group in itertools.groupby(factors)]
    assert stages == [(pytest.approx(10 ** (-i / 7)), 3**i) for i in range(8)]
