"""Pre-trains the hidden layers of an MLP trunk one by one, from the image to the code.

Each layer first learns to reconstruct what the layers below make of images (Bengio et al., 2007, NeurIPS 19). If it is
shown corrupted images, it learns to reconstruct what they make of the clean ones. So do stacked denoising autoencoders
(Vincent et al., 2010, JMLR 11), which corrupt each layer's input instead; here a strength is one of pixels, whatever
the layer.

B batch, F features of a layer, (C, H, W) an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.config import SettingsError
from aemodels.data.prepared import PreparedData
from aemodels.models.base import Autoencoder, Loss, ModelConfig
from aemodels.nn.batch import Batch
from aemodels.nn.trunks import MLPConfig
from aemodels.runtime.progress import Progress, Steps
from aemodels.runtime.randomness import derived_seed
from aemodels.training.config import TrainingConfig
from aemodels.training.loop import Loop, refuse_non_finite
from aemodels.training.state import TrainingState


class HiddenLayer(nn.Module):
    """Trains a hidden layer of the encoder and its mirror in the decoder, as an autoencoder.

    It shares their weights, so that the model has what it learns. The layers below stay as they are.
    """

    selection: ClassVar[str | None] = "squared_error"
    momentum: ClassVar[float] = Autoencoder.momentum
    warmup_steps: int = 0

    def __init__(self, model: Autoencoder, number: int) -> None:
        """Takes the layer of that number, which counts from 0, at the image."""
        super().__init__()
        encoder, likelihood = blocks(model.encoder), model.likelihood
        self.encode, self.decode = encoder[number], blocks(model.decoder)[-1 - number]
        lower = nn.Sequential(*encoder[:number]).eval()
        # These are functions, not modules: the modules that they call are not this layer's to train or to switch.
        self.below: Callable[[Tensor], Tensor] = lambda x: lower(likelihood.scale(x))
        self.output: Callable[[Tensor], Tensor] = (
            (lambda h: h) if number else lambda h: likelihood.scale(likelihood(h).mean)
        )

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {"layer": ("encode", "decode")}

    def part_parameters(self, part: str) -> Iterator[Tensor]:
        for module in self.parts()[part]:
            yield from self.get_submodule(module).parameters()

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        terms = self.bound(batch)
        return {"layer": Loss(terms["squared_error"], terms)}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the squared error (B,), summed over the layer's input; it fits any range, unlike likelihoods."""
        with torch.no_grad():
            target = self.below(batch.x)  # (B, F), or (B, C, H, W) for the first layer
            seen = target if batch.corrupted is None else self.below(batch.corrupted)
        errors = F.mse_loss(self.output(self.decode(self.encode(seen))), target, reduction="none")
        return {"squared_error": errors.flatten(1).sum(-1)}


def pretrain(
    model: Autoencoder, data: PreparedData, config: TrainingConfig, seed: int, state: TrainingState
) -> Steps[None]:
    """Pre-trains each hidden layer for `config.pretraining_epochs`; their metrics are added to the state's.

    Raises:
        TrainingDivergedError: the error of a layer became NaN or infinite.
    """
    work, layers = "pre-training", hidden_layers(model)
    own = config.override({"epochs": config.pretraining_epochs})
    epochs = config.pretraining_epochs
    yield Progress(work, 0, len(layers) * epochs)
    for number, layer in enumerate(layers, 1):
        with closing(Loop(layer, data, own, derived_seed(seed, "layer", number))) as loop:
            for index in range(1, epochs + 1):
                (metrics,) = loop.epoch(index)
                refuse_non_finite(metrics, index, own, f"pre-training layer {number}, ")
                state.pretraining.append({"layer": number, **metrics})
                note = f"layer {number} of {len(layers)}, squared error {metrics['val/squared_error']:.3g}"
                yield Progress(work, len(state.pretraining), len(layers) * epochs, note)


def hidden_layers(model: Autoencoder) -> list[HiddenLayer]:
    """Returns the hidden layers of an MLP trunk, from the image to the code."""
    return [HiddenLayer(model, number) for number in range(len(blocks(model.encoder)))]


def blocks(network: nn.Module) -> list[nn.Sequential]:
    """Returns each linear layer with what follows it; what comes before the first one belongs to it."""
    layers = list(network.children())
    starts = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    return [nn.Sequential(*layers[start:stop]) for start, stop in pairwise([0, *starts[1:], len(layers)])]


def check_layers(model: ModelConfig, epochs: int) -> None:
    """Checks that a model's layers can be pre-trained for so many epochs.

    Raises:
        SettingsError: it has no encoder, or its trunk is no MLP.
    """
    trunk = getattr(model, "trunk", None)
    if epochs and not (model.has_encoder and isinstance(trunk, MLPConfig)):
        here = f"{getattr(model, 'name', 'this model')} on {getattr(trunk, 'name', 'no trunk')}"
        raise SettingsError(
            f"training.pretraining_epochs={epochs}: pre-training is for autoencoders on the trunk mlp, this is {here}; "
            "use training.pretraining_epochs=0, or a model with an encoder and model.trunk.name=mlp"
        )
