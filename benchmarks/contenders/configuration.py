"""Defines what varies in a search, and how a contender answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.jobs import Job, Measured


class Configuration(NamedTuple):
    """A configuration holds the settings that vary in a search."""

    latent_dim: int
    beta: float


def answer(job: Job, seconds: float, values: Mapping[int, float]) -> Measured:
    """Returns a contender's answer: its time, its speed over the images of all trials, and the objective's values.

    The values are by the indices of their configurations, which are strings as in every JSON object.
    """
    count = min(job.settings["images"], job.data["sizes"]["train"]) * job.settings["epochs"] * len(values)
    by_index = {str(index): values[index] for index in sorted(values)}
    return {"seconds": seconds, "images_per_second": count / seconds, "values": by_index}
