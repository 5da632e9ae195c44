"""Tests trainings with augmentation: they resume, it is alike for all members, and evaluation knows nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aemodels.checkpoints.checkpoint import load_state, save_state
from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.models import AEConfig, GANConfig, VAEConfig
from aemodels.models.ae import AE
from aemodels.models.base import Loss, ModelConfig
from aemodels.nn.augmentation import AugmentationConfig
from aemodels.nn.batch import Batch
from aemodels.nn.corruption import GaussianCorruption
from aemodels.nn.trunks import ConvConfig, MLPConfig
from aemodels.training.config import TrainingConfig
from aemodels.training.graph import Graph, ReplayedUpdates
from aemodels.training.models import new_model
from aemodels.training.population import train_population
from aemodels.training.train import train
from aemodels.training.update import Updates

AUGMENTATION = AugmentationConfig(flip=True, shift=2, crop=0.2, brightness=0.2, contrast=0.2)
CONFIG = TrainingConfig(epochs=4, images=300, batch_size=64, augmentation=AUGMENTATION)
SMALL = MLPConfig(widths=(16,))


@pytest.mark.parametrize(
    "model",
    [VAEConfig(trunk=SMALL), AEConfig(trunk=ConvConfig(channels=(8, 8))), GANConfig(trunk=SMALL)],
    ids=["vae", "conv", "gan"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_equals_uninterrupted(model: ModelConfig, precision: str, digits: PreparedData, tmp_path: Path) -> None:
    config = CONFIG.override({"precision": precision})
    *_, whole = train(model, digits, config, seed=0)
    for epoch in train(model, digits, config, seed=0):
        torch.rand(3)  # what the caller draws between epochs must not matter
        save_state(tmp_path, epoch.state)
        if epoch.index == 2:
            break
    *_, last = train(model, digits, config, seed=0, resume=load_state(tmp_path))
    assert all(torch.equal(t, whole.state.tensors[k]) for k, t in last.state.tensors.items())
    *_, plain = train(model, digits, config.model_copy(update={"augmentation": AugmentationConfig()}), seed=0)
    assert any(not torch.equal(t, whole.state.tensors[k]) for k, t in plain.state.tensors.items())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, Batch]]:
    """Collects what an autoencoder is given, in training and otherwise."""
    seen: list[tuple[bool, Batch]] = []
    losses, bound = AE.losses, AE.bound

    def watched_losses(self: AE, batch: Batch, step: Tensor) -> dict[str, Loss]:
        seen.append((True, batch))
        return losses(self, batch, step)

    def watched_bound(self: AE, batch: Batch) -> dict[str, Tensor]:
        if not self.training:
            seen.append((False, batch))
        return bound(self, batch)

    monkeypatch.setattr(AE, "losses", watched_losses)
    monkeypatch.setattr(AE, "bound", watched_bound)
    return seen


def test_only_training_images_change_and_are_the_target(digits: PreparedData, seen: list[tuple[bool, Batch]]) -> None:
    config = TrainingConfig(epochs=1, images=64, batch_size=64, augmentation=AugmentationConfig(shift=4))
    list(train(AEConfig(trunk=SMALL), digits, config, seed=0))
    own = {image.tobytes() for split in ("train", "val") for image in digits.split(split).images}

    def known(batch: Batch) -> list[bool]:
        return [(image * 255).round().byte().numpy().tobytes() in own for image in batch.x]

    trained, judged = ([batch for training, batch in seen if training is kind] for kind in (True, False))
    assert sum(map(sum, map(known, trained))) < 16  # of 64: those that were not moved
    assert judged
    assert all(map(all, map(known, judged)))


def test_corruption_acts_on_the_augmented_image(digits: PreparedData, seen: list[tuple[bool, Batch]]) -> None:
    config = TrainingConfig(
        epochs=1,
        images=64,
        batch_size=64,
        augmentation=AugmentationConfig(shift=4),
        corruption=GaussianCorruption(sigma=0.01),
    )
    list(train(AEConfig(trunk=SMALL), digits, config, seed=0))
    batch = next(batch for training, batch in seen if training)
    assert batch.corrupted is not None
    assert 0 < (batch.corrupted - batch.x).abs().mean() < 0.02


def test_members_see_the_images_of_the_first_seed(digits: PreparedData) -> None:
    models = [AEConfig(latent_dim=d, trunk=SMALL) for d in (3, 5)]
    *_, told = train_population(models, digits, CONFIG, seeds=[0, 0])
    *_, alone = train(models[1], digits, CONFIG, seed=0)
    # An autoencoder draws nothing else, so the member is the model trained alone, but for the rounding.
    assert told[1].metrics["train/loss"] == pytest.approx(alone.metrics["train/loss"], rel=1e-3)


def test_what_a_graph_replays_is_the_update(digits: PreparedData) -> None:
    """The test replays an update without a GPU: it runs the same function while nothing but its tensors changes."""
    model, images = VAEConfig(trunk=SMALL), Batches(digits, "train", torch.device("cpu"), 300)
    plain, replayed = (kind(new_model(model, digits, 0), images, CONFIG, seed=0) for kind in (Updates, ReplayedUpdates))
    for index in (1, 2):
        terms = plain.epoch(index, (index - 1) * plain.updates_per_epoch)
        replayed.graph = Graph(replayed)
        assert replayed.epoch(index, (index - 1) * plain.updates_per_epoch) == terms


def test_it_names_the_run() -> None:
    assert Experiment().identity("d") != Experiment.parse({"training.augmentation.flip": True}).identity("d")
    flat = Experiment.parse({"training.augmentation.shift": 2}).flat()
    assert flat["training.augmentation.shift"] == 2
