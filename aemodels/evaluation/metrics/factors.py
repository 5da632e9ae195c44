"""Defines the metrics of data with known factors, which tell whether a latent unit stands for one of them.

D latent units, F factors.
"""

from __future__ import annotations

from torch.nn import functional as F

from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.metrics.table import Metric


def mutual_information_gap(evidence: Evidence) -> float:
    """Measures the gap of Chen et al. (2018), arXiv:1802.04942, section 4.1, with the posterior's noise as there.

    disentanglement_lib takes posterior means instead and the same bins, and does not correct the estimate.
    """
    shares = F.pad(
        evidence.known_shares, (0, 0, 0, 1)
    )  # (D + 1, F): beside an only unit there is one that knows nothing
    best, second = shares.topk(2, dim=0).values
    return float((best - second).mean())


FACTORS = {
    "mutual_information_gap": Metric(
        mutual_information_gap,
        ("factors", "unconditional"),
        "share of entropy",
        "maximize",
        "1 if a latent unit of its own knows each known factor",
        "For each known factor it takes the two latent units with the most mutual information with it. The gap between "
        "the two, over the factor's entropy, is averaged over the factors: 1 if a unit of its own knows each factor. "
        "It uses one code from q(z|x) for each image. Codes and factors have 20 bins of equal width, and the estimate "
        "is corrected for their number. A conditional model has no such number, since its encoder is told the class.",
    ),
}
