"""Makes the new model that a training begins with, and the best one that it ends with, whose prior is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.data.statistics import linear_code_of
from aemodels.models.base import Autoencoder, GenerativeModel, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.runtime.devices import best_device
from aemodels.runtime.randomness import derived_seed, seeded, undisturbed
from aemodels.training.config import TrainingConfig
from aemodels.training.state import TrainingState

PRIOR_IMAGES = 10_000  # enough codes for any mixture


def new_model(
    model_config: ModelConfig,
    data: PreparedData,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
    images: int | None = None,
) -> GenerativeModel:
    """Returns a model with the weights that it starts from, or else those that belong to the seed, on the device.

    Channels come last in memory, with which convolutions are up to a third faster on CPUs and GPUs.

    Args:
        images: how many of the first training images the training sees, where it starts; None for all.
    """
    with seeded(derived_seed(seed, "weights")):
        model = model_config.build(data.image_shape, data.num_classes)
    if start is None:
        model.start_at(lambda numbers: linear_code_of(data, numbers, images))
    else:
        model.load_state_dict(model.state_dict() | dict(start))
    return model.to(best_device()).to(memory_format=torch.channels_last)


def best_model(
    model_config: ModelConfig, data: PreparedData, config: TrainingConfig, seed: int, state: TrainingState
) -> GenerativeModel:
    """Returns the model with its best weights, on the device and in evaluation mode, its prior fitted."""
    model = new_model(model_config, data, seed, state.section("best")).eval()
    fit_prior(model, data, seed, config.images)
    return model


def fit_prior(model: GenerativeModel, data: PreparedData, seed: int, images: int | None) -> None:
    """Fits the prior of a model that has none in training, to images that it was trained on."""
    limit = min(PRIOR_IMAGES, images or PRIOR_IMAGES)

    def batches() -> Iterator[Batch]:  # a generator, which reads nothing for a model that fits nothing
        yield from Batches(data, "train", model.device, limit).in_order(model.at_once)

    with undisturbed(model, derived_seed(seed, "codes of the prior")):
        model.fit_prior(batches(), derived_seed(seed, "prior"))


@torch.no_grad()
def training_codes(model: GenerativeModel, data: PreparedData, config: TrainingConfig, seed: int) -> Tensor | None:
    """Returns samples of the posterior (N, D) of images that it was trained on, on the CPU; None without an encoder."""
    if not isinstance(model, Autoencoder):
        return None
    batches = Batches(data, "train", model.device, min(PRIOR_IMAGES, config.images or PRIOR_IMAGES))
    with seeded(derived_seed(seed, "codes")):
        codes = [model.encode(batch.x, batch.y).rsample().cpu() for batch in batches.in_order(model.at_once)]
    return torch.cat(codes)
