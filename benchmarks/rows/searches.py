"""Searches over latent size and beta of the article's VAE."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.rows.row import Repeat, Row, Scale, spread
from benchmarks.rows.trainings import EXAMPLE

SPACE_CPU: dict[str, list[float]] = {"latent_dims": [2, 8, 20, 50], "betas": [0.5, 1.0, 2.0, 4.0]}
SPACE_CUDA: dict[str, list[float]] = {
    "latent_dims": [2, 4, 8, 12, 20, 32, 48, 64],
    "betas": [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0],
}
SPACE_QUICK: dict[str, list[float]] = {"latent_dims": [2, 20], "betas": [0.5, 2.0]}
IMAGES, EPOCHS, GRANTED = 10_000, 10, 4  # of a trial, as the project's searches have them unless told otherwise
PEER_TRIALS_CUDA = 8  # of 64: its trials run one after the other, so a rate is known from a few


def search_rows(scale: Scale) -> list[Row]:
    """Of fixed configurations, and with pruning."""
    return [_fixed(scale), _pruned(scale)]


def _fixed(scale: Scale) -> Row:
    cuda = scale.device == "cuda"
    space = SPACE_QUICK if scale.quick else SPACE_CUDA if cuda else SPACE_CPU
    trials = len(space["latent_dims"]) * len(space["betas"])
    sizes = {"images": scale(IMAGES, 2_000), "epochs": scale(EPOCHS, 2)}
    peer_trials = scale(trials, trials, cuda=PEER_TRIALS_CUDA)
    ours = ("aemodels.trials",)
    return Row(
        "search",
        f"search: {trials} configurations, {sizes['images']:,} images, {sizes['epochs']} epochs each",
        "search",
        "images/s" if cuda else "s",
        {
            "aemodels": ours,  # whose products are in bfloat16
            "aemodels-float32": ours,
            **({"loop": EXAMPLE} if cuda else {"optuna": ("optuna", *EXAMPLE)}),
        },
        scale(2, 1),
        {**space, **sizes, "peer_trials": peer_trials},
        findings=agreement,
    )


def agreement(repeats: list[Repeat]) -> dict[str, Any]:
    """How the project's objectives differ from a peer's of the same configurations, relative to them; beside it, how
    those of another seed do that the peer trained some of them with.
    """
    apart: list[float] = []
    noise: list[float] = []
    for repeat in repeats:
        ours, *peers = repeat.values()
        for peer in peers:
            if "other_seed" not in peer:  # the project's own
                continue
            values = peer["values"]
            apart += [a / b - 1 for a, b in zip(ours["values"], values, strict=False)]  # it may have trained fewer
            noise += [other / values[int(i)] - 1 for i, other in peer["other_seed"].items()]
    return {"difference": _differences(apart), "seed_difference": _differences(noise)} if apart else {}


def _differences(relative: list[float]) -> dict[str, float]:
    sizes = [abs(difference) for difference in relative]
    return {"signed_mean": statistics.mean(relative), "mean": statistics.mean(sizes), "largest": max(sizes)}


def _pruned(scale: Scale) -> Row:
    trials, epochs = scale(16, 6), scale(EPOCHS, 3)
    sizes = {"trials": trials, "images": scale(IMAGES, 2_000), "epochs": epochs, "granted": scale(GRANTED, 1)}
    return Row(
        "search-pruned",
        f"search with pruning: {trials} trials, {sizes['images']:,} images, up to {epochs} epochs each",
        "search",
        "s",
        {"aemodels": ("optuna", "sqlalchemy", "aemodels.trials"), "optuna": ("optuna", *EXAMPLE)},
        scale(2, 1),
        sizes,
        findings=best_values,
    )


def best_values(repeats: list[Repeat]) -> dict[str, Any]:
    """Contender -> its best objective, and how many trials it pruned."""
    names = repeats[0].keys()
    return {
        key: {name: spread([r[name][key] for r in repeats if name in r]) for name in names}
        for key in ("best", "pruned")
    }
