"""Defines the rows of searches, over latent size and beta of the article's VAE."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rows.row import Repeat, Row, Scale, spread
from benchmarks.rows.trainings import EXAMPLE

SPACE_CPU: dict[str, list[float]] = {"latent_dims": [2, 8, 20, 50], "betas": [0.5, 1.0, 2.0, 4.0]}
SPACE_CUDA: dict[str, list[float]] = {
    "latent_dims": [2, 4, 8, 12, 20, 32, 48, 64],
    "betas": [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0],
}
SPACE_QUICK: dict[str, list[float]] = {"latent_dims": [2, 20], "betas": [0.5, 2.0]}
IMAGES, EPOCHS, GRANTED = 10_000, 10, 4  # the defaults of a trial in the project's searches
PEER_EVERY_CUDA = 9  # the peer's trials run one by one, so a few tell the rate: the diagonal of the 8 x 8
VARIANT = "aemodels-bfloat16"  # the project in a precision that it uses only if asked to, and the peer does not use
PROCESSOR = Path("/proc/cpuinfo")
# How far apart two trainers' objectives may be, in units of the peer's own turns. The configurations of a turn share
# its seed, so their noise is not that of as many independent values: two estimates of it were 0.025 and 0.017.
ALLOWED = 2.0


def search_rows(scale: Scale) -> list[Row]:
    """Returns two rows: a search of fixed configurations, and one with pruning."""
    return [_fixed(scale), _pruned(scale)]


def _fixed(scale: Scale) -> Row:
    cuda = scale.device == "cuda"
    space = SPACE_QUICK if scale.quick else SPACE_CUDA if cuda else SPACE_CPU
    trials = len(space["latent_dims"]) * len(space["betas"])
    sizes = {"images": scale(IMAGES, 2_000), "epochs": scale(EPOCHS, 2)}
    peer_every = scale(1, 1, cuda=PEER_EVERY_CUDA)
    variants = (VARIANT,) if cuda or _has_bfloat16() else ()
    return Row(
        "search",
        f"the trials of a search: {trials} configurations, {sizes['images']:,} images, {sizes['epochs']} epochs each",
        "search",
        "images/s" if cuda else "s",
        {
            "aemodels": (),
            **dict.fromkeys(variants, ()),
            **({"loop": EXAMPLE} if cuda else {"optuna": ("optuna", *EXAMPLE)}),
        },
        scale(2, 1),
        {**space, **sizes, "peer_every": peer_every},
        findings=agreement,
        variants=variants,
    )


def _has_bfloat16() -> bool:
    """Tells whether the processor multiplies in bfloat16; others compute in float32 whatever they are asked."""
    return PROCESSOR.exists() and "_bf16" in PROCESSOR.read_text()  # avx512_bf16, amx_bf16


def agreement(repeats: list[Repeat]) -> dict[str, Any]:
    """Compares the project's objectives with the peer's of the same configurations, within a turn.

    It also returns how the peer's objectives differ from turn to turn, each of which has a seed of its own, and
    whether the first difference is within the noise of the second.
    """
    ours, peers = ([name for name in repeats[0] if name.startswith("aemodels") is own] for own in (True, False))
    if not peers:
        return {}
    values = {name: [repeat[name]["values"] for repeat in repeats if name in repeat] for name in (*ours, *peers)}
    theirs = values[peers[0]]
    difference = {name: _apart(zip(values[name], theirs, strict=False)) for name in ours}
    if len(theirs) == 1:
        return {"difference": difference}
    noise = _apart(itertools.pairwise(theirs))
    most = ALLOWED * noise["root_mean_square"]
    within = {name: found["root_mean_square"] <= most for name, found in difference.items()}
    return {"difference": difference, "seed_difference": noise, "within_seed_noise": within}


def _apart(pairs: Iterable[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, float]:
    """Returns how far pairs of objectives are apart, relative to the second one, which may have fewer configurations.

    It is given as a root mean square, which does not grow with the number of values as the largest one would.
    """
    relative = [some[index] / value - 1 for some, others in pairs for index, value in others.items()]
    return {
        "mean": statistics.mean(relative),
        "root_mean_square": statistics.mean(difference**2 for difference in relative) ** 0.5,
    }


def _pruned(scale: Scale) -> Row:
    trials, epochs = scale(16, 6), scale(EPOCHS, 3)
    sizes = {"trials": trials, "images": scale(IMAGES, 2_000), "epochs": epochs, "granted": scale(GRANTED, 1)}
    return Row(
        "search-pruned",
        f"search in float32 with pruning, one turn: {trials} trials, {sizes['images']:,} images, up to {epochs} epochs",
        "search",
        "s",
        {"aemodels": ("optuna", "sqlalchemy"), "optuna": ("optuna", *EXAMPLE)},
        1,  # one turn takes three minutes
        sizes,
        findings=best_values,
    )


def best_values(repeats: list[Repeat]) -> dict[str, Any]:
    """Returns each contender's best objective, and how many trials it pruned."""
    names = repeats[0].keys()
    return {
        key: {name: spread([r[name][key] for r in repeats if name in r]) for name in names}
        for key in ("best", "pruned")
    }
