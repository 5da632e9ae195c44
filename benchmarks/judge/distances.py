"""Defines distances between two sets of features: of their Gaussians, of kernel means, of neighbours.

N, M images, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aemodels.evaluation.neighbours import balls


def shrunk_frechet(real: Tensor, others: Tensor) -> float:
    """Returns the Frechet distance of Gaussians whose covariances are shrunk towards a sphere.

    How far is by the oracle approximating shrinkage (Chen et al., 2010, arXiv:0907.4698).
    """
    real, others = real.double(), others.double()
    a, b = (_shrunk(torch.cov(x.T, correction=0), len(x)) for x in (real, others))
    means = (real.mean(0) - others.mean(0)).square().sum()
    return float(means + a.trace() + b.trace() - 2 * _root_trace(a, b))


def _root_trace(a: Tensor, b: Tensor) -> Tensor:
    """Returns the trace of the root of the product of two covariances."""
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ b @ root
    found: Tensor = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    return found


def _shrunk(covariance: Tensor, count: int) -> Tensor:
    features = len(covariance)
    scale, square = covariance.trace() / features, covariance.square().mean()
    share = float(((square + scale**2) / ((count + 1) * (square - scale**2 / features))).clamp(0, 1))
    return (1 - share) * covariance + share * scale * torch.eye(features, dtype=covariance.dtype)


def kernel(real: Tensor, others: Tensor) -> float:
    """Returns the kernel distance, without bias, of a cubic polynomial (Binkowski et al., 2018, arXiv:1801.01401)."""

    def values(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    return _mean_discrepancy(values(real, real), values(others, others), values(real, others))


def energy(real: Tensor, others: Tensor) -> float:
    """Returns the energy distance, without bias: Euclidean distances across less those within (Szekely, 2013)."""
    within, without, across = torch.cdist(real, real), torch.cdist(others, others), torch.cdist(real, others)
    return _mean_discrepancy(-within, -without, -across)


def _mean_discrepancy(within: Tensor, without: Tensor, across: Tensor) -> float:
    """Returns the squared distance of kernel means from kernels (N, N), (M, M) and (N, M)."""
    own = (within.double().sum() - within.trace()) / (len(within) * (len(within) - 1))
    other = (without.double().sum() - without.trace()) / (len(without) * (len(without) - 1))
    return float(own + other - 2 * across.double().mean())


def uncovered(real: Tensor, others: Tensor) -> float:
    """Returns the share of real images without any of the others near them (Naeem et al., 2020, arXiv:2002.09797)."""
    found = balls(real, others)
    return float("nan") if found is None else 1 - float(found.hit.double().mean())


def thin(real: Tensor, others: Tensor) -> float:
    """Returns how far the density of the others around real images is from 1, that of real ones (the same paper)."""
    found = balls(real, others)
    return float("nan") if found is None else abs(1 - float(found.held.double().mean()) / found.reached)


def sliced(real: Tensor, others: Tensor) -> float:
    """Returns the mean Wasserstein distance of filter responses (N, filters, places), filter by filter.

    Filters of one size on a pyramid make it the sliced Wasserstein distance of Karras et al. (2018, arXiv:1710.10196).
    """
    places = torch.linspace(0, 1, 512)
    a, b = (x.float().transpose(0, 1).flatten(1).quantile(places, 1) for x in (real, others))
    return float((a - b).abs().mean())
