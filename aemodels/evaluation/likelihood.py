"""Measures how probable images are to a model: by its bound, and by importance sampling.

B batch of images, k codes of each at once, D latent units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from aemodels.data.batches import Batches
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import BernoulliPixels, GaussianPixels
from aemodels.nn.objectives import log_mean_exp, log_weights
from aemodels.runtime.randomness import derived_seed, undisturbed

GREY_LEVELS = 255  # steps of the prepared pixels

Kind = Literal["bernoulli", "gaussian"]


def kind_of(p_x: Distribution, black_and_white: bool) -> Kind | None:
    """Tells how p(x|z) gives the probability of pixels; None where it is no likelihood of such images.

    Coin flips are a likelihood of black and white images, a density one of grey levels.
    """
    if isinstance(p_x, BernoulliPixels) and black_and_white:
        return "bernoulli"
    return "gaussian" if isinstance(p_x, GaussianPixels) and not black_and_white else None


def bound_terms(model: GenerativeModel, batches: Batches, seed: int, dequantized: bool = False) -> dict[str, Tensor]:
    """Returns the terms of the model's bound of each image (N,), in nats.

    `dequantized` puts noise of one grey level on the pixels.
    """
    found: dict[str, list[Tensor]] = {}
    for i, batch in enumerate(batches.in_order(batches.at_once)):
        with undisturbed(model, derived_seed(seed, "bound", i)):
            x = batch.x + (torch.rand_like(batch.x) - 0.5) / GREY_LEVELS if dequantized else batch.x
            for name, term in model.bound(Batch(x, batch.y)).items():
                found.setdefault(name, []).append(term.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def log_likelihood(model: Autoencoder, batch: Batch, samples: int) -> Tensor:
    """Returns log p(x) of each image (B,), in nats, by importance sampling with so many codes from q(z|x).

    No more than `at_once` codes are decoded at once (as many as images where there are more), whatever the samples.
    """
    q, p_z = model.encode(batch.x, batch.y), model.prior(batch.y)
    codes = max(1, model.at_once // len(batch.x))

    def weights() -> Iterator[Tensor]:
        for start in range(0, samples, codes):
            z = q.sample((min(codes, samples - start),))  # (k, B, D)
            yield log_weights(q, p_z, model.decode(z, batch.y), z, batch.x).double()

    return log_mean_exp(weights())
