"""Makes the references beside which a model is measured: the mean image, and the linear code of the model's size.

Each is an autoencoder that nothing is trained for, so that it is measured and drawn like any other.

N images, K numbers in a code, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from aemodels.data.batches import Batches
from aemodels.data.prepared import PreparedData
from aemodels.data.statistics import MOST_IMAGES, linear_code_of
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.features import Features
from aemodels.models.base import Autoencoder, GenerativeModel, Loss
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import Point
from aemodels.nn.linear_code import LinearCode
from aemodels.priors.mixture import GaussianMixturePrior
from aemodels.runtime.randomness import derived_seed

MEAN_IMAGE = "mean image"  # its name in comparisons


class LinearReference(Autoencoder):
    """A linear reference encodes by principal components, and draws from a mixture fitted to the codes of images.

    Reconstructions and samples are clipped to [0, 1]. Without numbers all of them are the mean image.

    Example:
        >>> from aemodels.nn.linear_code import linear_code
        >>> images = torch.rand(100, 1, 8, 8)
        >>> LinearReference(linear_code(images, 3))(images).shape
        torch.Size([100, 1, 8, 8])
    """

    selection: ClassVar[str | None] = None
    mean: Tensor
    components: Tensor
    variances: Tensor
    fitted_prior: GaussianMixturePrior

    def __init__(self, code: LinearCode) -> None:
        channels, height, width = code.mean.shape
        GenerativeModel.__init__(self, (channels, height, width), 0, len(code.components))  # it has no networks
        for name in ("mean", "components", "variances"):
            self.register_buffer(name, getattr(code, name))
        self.fitted_prior = GaussianMixturePrior(self.latent_dim)

    @property
    def code(self) -> LinearCode:
        """Returns the linear code, on the model's device."""
        return LinearCode(self.mean, self.components, self.variances, rest=0)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def parts(self) -> dict[str, tuple[str, ...]]:
        return {}

    def losses(self, batch: Batch, step: Tensor) -> dict[str, Loss]:
        return {}

    def bound(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        return Point(self.code.encode(x))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        return Point(self.code.decode(z).clamp(0, 1))

    def prior(self, y: Tensor | None = None) -> Distribution:
        p_z: Distribution = self.fitted_prior()
        return p_z

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        return super().sample(n, y) if self.latent_dim else self.mean.expand(n, *self.image_shape)

    def fit_prior(self, batches: Iterable[Batch], seed: int) -> None:
        if self.latent_dim:
            super().fit_prior(batches, seed)


class Size(NamedTuple):
    """Holds the two numbers of a model that settle which references stand beside it."""

    numbers: int  # in its code
    seen: int | None  # how many of the first training images it was trained on; None for all


def linear_reference(data: PreparedData, size: Size, device: torch.device) -> LinearReference:
    """Returns the linear code of the images that a model saw, as grey as they are, with as many numbers or fewer."""
    return LinearReference(linear_code_of(data, *size)).to(device)


def mean_image(reference: LinearReference) -> LinearReference:
    """Returns the reference of no numbers, whose reconstructions are all the mean image."""
    return LinearReference(reference.code.first(0))


def fit_mixture(reference: LinearReference, data: PreparedData, seen: int | None, seed: int) -> None:
    """Fits what a reference draws from to the codes of the training images that are seen, at most 10,000."""
    grey = data.model_copy(update={"binarize": "none"})
    batches = Batches(grey, "train", reference.device, min(MOST_IMAGES, seen or MOST_IMAGES)).in_order(
        reference.at_once
    )
    reference.fit_prior(batches, derived_seed(seed, "linear code"))


def reference_systems(
    data: PreparedData, sizes: Iterable[Size], device: torch.device, rules: EvaluationConfig, features: Features
) -> dict[str, Evidence]:
    """Returns the mean image and a linear code of each size, to be measured and drawn like systems of a comparison.

    If the systems saw different numbers of images, the references do too, and have the number in their names.
    """
    there = data.sizes["train"]
    wanted = sorted({(min(MOST_IMAGES, seen or there, there), numbers) for numbers, seen in sizes})
    several = len({seen for seen, _ in wanted}) > 1
    systems: dict[str, LinearReference] = {}
    for seen, numbers in wanted:
        reference, of = linear_reference(data, Size(numbers, seen), device), f" of {seen:,} images" * several
        fit_mixture(reference, data, seen, rules.seed)
        systems.setdefault(f"{MEAN_IMAGE}{of}", mean_image(reference))
        systems[f"linear code {numbers}{of}"] = reference
    return {name: Evidence(reference, data, features, rules) for name, reference in systems.items()}
