"""Estimates what latent units tell about known factors: their mutual information, in bins.

N images, D latent units, F factors.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 20  # bins of equal width, from least to largest value, as in disentanglement_lib (Locatello et al., 2019)


def known_shares(codes: Tensor, factors: Tensor) -> Tensor:
    """Returns the share of each factor's entropy that each unit knows, I(unit; factor) / H(factor), (D, F), in 0 to 1.

    Counted in bins, N images seem to tell about 19 * 19 / 2N nats of what is independent of them. That is subtracted
    (Miller, 1955: each entropy gains what its bins in use lack on average).

    Args:
        codes: (N, D); NaN comes back where they are not finite.
        factors: (N, F); up to 20 whole numbers in a row (0, 1, 2 of three shapes) keep a bin each.
    """
    if not codes.isfinite().all():
        return codes.new_full((codes.shape[1], factors.shape[1]), torch.nan)
    joint = _counts(_binned(codes), _binned(factors))
    of_factors = _entropy(joint.sum(-2))
    information = _entropy(joint.sum(-1)) + of_factors - _entropy(joint.flatten(-2))
    return (information / of_factors.clamp(min=1e-9)).clamp(0, 1)  # a factor that never changes gets 0


def _binned(values: Tensor) -> Tensor:
    """Maps values (N, any) to numbers of bins, 0 to 19."""
    low, high = values.double().aminmax(dim=0)
    share = (values.double() - low) / (high - low).clamp(min=torch.finfo(torch.double).tiny)
    return (share * BINS).long().clamp(max=BINS - 1)


def _counts(units: Tensor, factors: Tensor) -> Tensor:
    """Counts how often bins (N, D) and (N, F) meet, (D, F, BINS, BINS)."""
    dims = units.shape[1]
    cells = (torch.arange(dims) * BINS + units) * BINS  # (N, D)
    met = [torch.bincount((cells + factor[:, None]).flatten(), minlength=dims * BINS**2) for factor in factors.T]
    return torch.stack(met).view(-1, dims, BINS, BINS).transpose(0, 1)


def _entropy(counts: Tensor) -> Tensor:
    """Returns the entropy of counts (..., bins) in nats, (...), plus what it lacks on average with so many bins."""
    total = counts.sum(-1)
    frequencies = counts / total[..., None].double()
    return -torch.xlogy(frequencies, frequencies).sum(-1) + ((counts > 0).sum(-1) - 1) / (2 * total)
