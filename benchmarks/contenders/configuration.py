"""What varies in a search, and how a contender answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.jobs import Job, Measured


class Configuration(NamedTuple):
    """What varies."""

    latent_dim: int
    beta: float


def answer(job: Job, seconds: float, values: Mapping[int, float]) -> Measured:
    """With the images that all trials together were trained on; the values by their configurations' indices, which are
    strings as in every JSON object.
    """
    count = min(job.settings["images"], job.data["sizes"]["train"]) * job.settings["epochs"] * len(values)
    by_index = {str(index): values[index] for index in sorted(values)}
    return {"seconds": seconds, "images_per_second": count / seconds, "values": by_index}
