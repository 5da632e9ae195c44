"""Tests updates: each part's own gradient, clipped; the optimiser's step and moments; graphs."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.models import VAEConfig
from aemodels.models.base import GenerativeModel, Loss, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import GaussianConfig
from aemodels.nn.trunks import ImageShape, MLPConfig
from aemodels.training.adam import FusedAdam
from aemodels.training.config import TrainingConfig
from aemodels.training.graph import Graph, ReplayedUpdates, captured
from aemodels.training.models import new_model
from aemodels.training.train import train
from aemodels.training.update import Updates

SMALL = MLPConfig(widths=(16,))
BATCH_NORM = MLPConfig(widths=(16,), normalization="batch")


class TwoPartsConfig(ModelConfig):
    """Makes a generator and a critic that each see the other's output."""

    name: str = "two_parts"

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
    """One step of plain Adam moves each weight by the learning rate.

    The direction is against its own part's gradient.
    """
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


@pytest.mark.parametrize("model", [VAEConfig(trunk=SMALL, beta_warmup_steps=7), TwoPartsConfig()], ids=["vae", "parts"])
def test_what_a_graph_replays_is_the_update(model: ModelConfig, digits: PreparedData) -> None:
    """Order, rates and step lie in tensors, as on a GPU.

    Such updates equal those of the plain loop; nothing is captured here.
    """
    config = TrainingConfig(epochs=2, images=300, batch_size=64, schedule="cosine", warmup_steps=3, gradient_clip=1.0)
    data, cpu = digits.override({"binarize": "dynamic"}), torch.device("cpu")
    images = Batches(data, "train", cpu, 300)
    plain, replayed = (kind(new_model(model, data, 0), images, config, seed=0) for kind in (Updates, ReplayedUpdates))
    for index in (1, 2):
        terms = plain.epoch(index, (index - 1) * plain.updates_per_epoch)
        replayed.graph = Graph(replayed)
        assert replayed.epoch(index, (index - 1) * plain.updates_per_epoch) == terms
    expected = plain.model.state_dict() | plain.moments()
    actual = replayed.model.state_dict() | replayed.moments()
    assert all(torch.equal(tensor, actual[key]) for key, tensor in expected.items())


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_capture_leaves_no_trace(works: bool, resumed: bool, digits: PreparedData, monkeypatch) -> None:
    """Its warm-up is undone, and a failure is reported. CUDA itself is replaced, since a CPU machine has none."""

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
    """The evaluation that follows needs the memory. The graph and its updates refer to each other."""
    graphs: list[weakref.ref[Graph]] = []

    def uncaptured(updates: ReplayedUpdates) -> None:
        if updates.graph is None:
            updates.graph = graph = Graph(updates)
            graph.replay = partial(Graph.advance, weakref.proxy(graph))
            graphs.append(weakref.ref(graph))

    monkeypatch.setattr(ReplayedUpdates, "prepare", uncaptured)
    monkeypatch.setattr("aemodels.training.loop.updates_of", ReplayedUpdates)
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
