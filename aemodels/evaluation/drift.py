"""Tests whether new images are still like those that a model was made for, by two-sample tests on scores of them.

n new images, m test images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import count
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from aemodels.config import Config

TESTS = 3  # the tests that share the level: of errors, of distances, of anomalies
BINS = 10  # bins of the population stability index, which are deciles of the test images
RIDGE = 1e-3  # as a share of the codes' mean variance; a unit that is always the same has no variance of its own
PRECISION = 1e-4  # codes that differ by a smaller share of their size than this differ by rounding
SMALLEST_CODE = 1e-6  # size that is assumed of codes that are all zero, for the same purpose

Numbers = NDArray[np.floating]


class MonitoringConfig(Config):
    """Holds which new images are looked at, and when they count as different."""

    newest: int = Field(500, ge=1)
    """Sets how many new images a check compares, the newest by the time of their files.

    Older ones would hide what has come since."""
    false_alarms: float = Field(1e-4, gt=0, lt=0.5)
    """Sets the probability that a check of images like the test images raises an alarm."""
    stability: float = Field(0.1, ge=0)
    """Sets the population stability index up to which a difference, however certain, is too small to matter."""
    anomaly: float = Field(0.99, gt=0, lt=1)
    """Sets the quantile of the test images' errors over which an image is an anomaly."""
    anomalies: float = Field(0.05, ge=0, lt=1)
    """Sets the share of anomalies, or of files that are no fitting images, up to which there is no alarm."""


class Scores(NamedTuple):
    """Holds the scores of images by one model."""

    errors: Numbers  # (N,) mean squared error of the reconstruction, on pixels in [0, 1]
    distances: Numbers  # (N,) from the training images, in code space


# The scores of one image differ by this much between batches, at most.
ROUNDING = Scores(np.array(1e-9), np.array(0.1))


class Verdict(NamedTuple):
    """Holds what a check found."""

    reasons: tuple[str, ...]  # reasons of the alarm; empty without one
    numbers: dict[str, float]


class CodeSpace:
    """Describes where the training images lie, by Mahalanobis distances from their centre in code space.

    It is fitted to other images than the ones that are compared. Test images would lie nearer to their own centre than
    new ones do, which raised alarms on 9 to 100 % of the checks of images of the same kind.
    """

    def __init__(self, codes: Numbers) -> None:
        z = codes.astype(np.float64)  # (N, D)
        covariance = np.cov(z, rowvar=False, ddof=min(1, len(z) - 1)).reshape(z.shape[1], z.shape[1])
        ridge = RIDGE * np.trace(covariance) / len(covariance) + (PRECISION**2 * np.square(z).mean() + SMALLEST_CODE**2)
        self.centre = z.mean(0)
        self.inverse_root = np.linalg.inv(np.linalg.cholesky(covariance + ridge * np.eye(len(covariance))))

    def distances(self, codes: Numbers) -> Numbers:
        """Returns the distances (N,) of codes (N, D)."""
        distances: Numbers = np.linalg.norm((codes - self.centre) @ self.inverse_root.T, axis=1)
        return distances


def check_scores(test: Scores, new: Scores, config: MonitoringConfig) -> Verdict:
    """Tests whether the new images' scores come from where the test images' do.

    A difference raises an alarm if chance makes it less often than in `false_alarms` of all checks (Bonferroni over
    the TESTS), and if it is large enough to matter.
    """
    level = config.false_alarms / TESTS
    test, new = _without_rounding(test, new)
    numbers: dict[str, float] = {"images": len(new.errors)}
    reasons: list[str] = []
    for name, known, found in zip(("error", "distance"), test, new, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy says that it took an approximation, which the level allows for
            p = float(stats.ks_2samp(known, found).pvalue)
        stability = population_stability(known, found)
        numbers |= {f"{name}/mean": float(found.mean()), f"{name}/test_mean": float(known.mean())}
        numbers |= {f"{name}/p": p, f"{name}/stability": stability}
        if p < level and stability > config.stability:
            reasons.append(
                f"the {name} has another distribution: its mean is {found.mean():.4g}, for test images it is "
                f"{known.mean():.4g} (p {p:.1g}, stability index {stability:.2g})"
            )
    share, p = anomalies(test.errors, new.errors, config.anomaly)
    numbers |= {"anomalies": share, "anomalies/p": p}
    if p < level and share > config.anomalies:
        reasons.append(f"{share:.1%} of the images are anomalies, more than {config.anomalies:.1%} (p {p:.1g})")
    return Verdict(tuple(reasons), numbers)


def _without_rounding(test: Scores, new: Scores) -> tuple[Scores, Scores]:
    """Returns the same scores, in which those that differ by rounding alone, as of equal images, become equal."""
    known, found = test._asdict(), new._asdict()
    for name, least in ROUNDING._asdict().items():
        both = np.concatenate((known[name], found[name]))
        if np.ptp(both) <= max(least, PRECISION * np.abs(both).max()):
            known[name], found[name] = (np.full(len(scores[name]), both[0]) for scores in (known, found))
    return Scores(**known), Scores(**found)


def anomalies(test: Numbers, new: Numbers, quantile: float) -> tuple[float, float]:
    """Returns the share of new images with an error over the test images' quantile, and the p-value of so many.

    The p-value is exact: if all images are of one kind, the number of new ones above the r-th largest error of the test
    images is negative hypergeometric.
    """
    m, n = len(test), len(new)
    r = max(1, m - int(np.ceil(quantile * m)))  # the threshold is the r-th largest
    over = int((new > np.sort(test)[m - r]).sum())
    return over / n, float(stats.nhypergeom(m + n, n, r).sf(over - 1))


def population_stability(test: Numbers, new: Numbers) -> float:
    """Returns the sum of (q - p) ln(q / p) over the deciles of the test images.

    Under 0.1 the images are stable, over 0.25 they are another population.

    Half an image is added to every bin, so that an empty one counts, but not without end.
    """
    edges = np.quantile(test, np.linspace(0, 1, BINS + 1)[1:-1])
    p, q = ((np.bincount(np.searchsorted(edges, x), minlength=BINS) + 0.5) / (len(x) + BINS / 2) for x in (test, new))
    return float(((q - p) * np.log(q / p)).sum())


def fewest(m: int, config: MonitoringConfig) -> int:
    """Returns from how many new images on the tests can tell anything.

    If all n new ones lie above all m test images, p is 2 / C(n + m, n).
    """
    sizes: Iterator[int] = count(1)
    return next(n for n in sizes if 2 / comb(n + m, n) < config.false_alarms / TESTS)
