"""How probable images are to a model, by importance sampling.

B batch of images, k codes of each at once, D latent units.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from aemodels.models.base import AT_ONCE, Autoencoder, Batch
from aemodels.objectives import log_mean_exp, log_weights


def log_likelihood(model: Autoencoder, batch: Batch, samples: int) -> Tensor:
    """Log p(x) of each image (B,), nats, by importance sampling with so many codes from q(z|x).

    No more than AT_ONCE codes are decoded at once (as many as images where there are more), whatever the samples.
    """
    q, p_z = model.encode(batch.x, batch.y), model.prior(batch.y)
    at_once = max(1, AT_ONCE // len(batch.x))

    def weights() -> Iterator[Tensor]:
        for start in range(0, samples, at_once):
            z = q.sample((min(at_once, samples - start),))  # (k, B, D)
            yield log_weights(q, p_z, model.decode(z, batch.y), z, batch.x).double()

    return log_mean_exp(weights())
