"""Holds the priors that are fitted to codes after training, by their names; a new one is added here."""

from __future__ import annotations

from torch import Tensor

from aemodels.config import UserError
from aemodels.priors import PriorName
from aemodels.priors.base import FittedPrior
from aemodels.priors.flow import FlowPrior
from aemodels.priors.gaussian import GaussianPrior
from aemodels.priors.mixture import GaussianMixturePrior, components
from aemodels.priors.standard_normal import StandardNormalPrior
from aemodels.runtime.randomness import seeded

PRIORS: dict[PriorName, type[FittedPrior]] = {
    "gaussian": GaussianPrior,
    "mixture": GaussianMixturePrior,
    "flow": FlowPrior,
    "standard_normal": StandardNormalPrior,
}


def fitted(name: str, codes: Tensor, seed: int) -> FittedPrior:
    """Returns the prior of that name, fitted to codes (N, D).

    Raises:
        UserError: there is no such prior.
    """
    if name not in PRIORS:
        raise UserError(f"prior={name}: unknown; choose one of {', '.join(PRIORS)}")
    with seeded(seed):
        prior = PRIORS[name](codes.shape[1])
    prior.fit(codes, seed)
    return prior


def fitted_to_few(codes: Tensor, seed: int) -> FittedPrior:
    """Fits a mixture to many codes (N, D), and a shrunk Gaussian to few."""
    return fitted("mixture" if components(*codes.shape) > 1 else "gaussian", codes, seed)
