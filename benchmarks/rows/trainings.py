"""Defines the rows of trainings: images per second, the time to a given quality, streaming, and the machine's peak."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from benchmarks.rows.row import Repeat, Row, Scale, spread

EXAMPLE = ("torchvision", "PIL")
TRAINERS: dict[str, Sequence[str]] = {"aemodels": (), "example": EXAMPLE, "pythae": ("pythae",)}
# Lightning has the example's batches and is as fast to within a tenth in all rows, so it is measured in one alone.
LIGHTNING: dict[str, Sequence[str]] = {"lightning": ("lightning", *EXAMPLE)}


class Model(NamedTuple):
    """Holds what is trained, and for how long."""

    preset: str
    title: str
    timed: int  # epochs after the first
    images: int | None  # None: all 54,000; fewer, and fewer turns, where these take 20 s or a minute
    turns: int


ARTICLE_VAE = Model("article-vae", "training: article VAE", 3, None, 5)
OTHERS = (
    Model("article-mlp", "training: MLP autoencoder", 1, None, 3),
    Model("article-conv", "training: convolutional autoencoder", 1, None, 3),
    Model("conv-vae", "training: convolutional VAE", 1, 6_000, 2),
)
VAE_GAN = Model("vae-gan", "training: convolutional VAE-GAN", 1, 9_000, 3)
COPIES = 6  # of MNIST's training images: 265 MiB, five windows of `aemodels.data.streaming`
LEFT = 256 * 2**20  # bytes left when the threads have started: room for two windows, the article's VAE and validation
PRESETS = [model.preset for model in (ARTICLE_VAE, *OTHERS)]


def training_rows(scale: Scale) -> list[Row]:
    """Returns the rows; the peak comes first, while nothing is warm or throttled yet."""
    return [
        Row("matmul", "matrix product", "machine", "FLOP/s", {"matmul": ()}, 3, {"presets": PRESETS}),
        _training(scale, ARTICLE_VAE, TRAINERS | LIGHTNING),
        *(_training(scale, model, TRAINERS) for model in OTHERS),
        _training(scale, VAE_GAN, {"aemodels": (), "plain": EXAMPLE}),  # pythae's has other losses and skips updates
        _streaming(scale),
        _fast(scale),
    ]


def _training(scale: Scale, model: Model, contenders: Mapping[str, Sequence[str]]) -> Row:
    images = model.images
    if scale.quick:
        images = min(images or 6_000, 6_000)
    elif scale.device == "cuda":
        images = None
    settings = {"preset": model.preset, "epochs": 1 + scale(model.timed, 1, cuda=2), "images": images}
    title = f"{model.title}, {images:,} images an epoch" if images else model.title
    turns = scale(model.turns, 1)
    return Row(model.preset, title, "training", "images/s", contenders, turns, settings, findings=judged)


def judged(repeats: list[Repeat]) -> dict[str, Any]:
    """Returns, for each contender, how its networks were judged."""
    found: dict[str, Any] = {}
    for key in ("test_bound", "test_squared_error", "sample_distance"):
        by_contender = {
            name: spread([repeat[name][key] for repeat in repeats if key in repeat.get(name, {})])
            for name in repeats[0]
            if key in repeats[0][name]
        }
        found |= {key: by_contender} if by_contender else {}
    return found


def _streaming(scale: Scale) -> Row:
    """Returns the row of streaming, where the project itself chooses its windows and judges what fits into memory."""
    settings = {
        "preset": "article-vae",
        "epochs": 2,
        "images": None,
        "copies": COPIES,
        "left": LEFT,
        "folder": str(scale.folder / "larger"),
    }
    return Row(
        "streaming",
        f"{COPIES} times MNIST, 265 MiB, streamed from disk with {LEFT // 2**20} MiB of memory left, against in memory",
        "training",
        "images/s",
        {"streamed": (), "resident": ()},
        scale(5, 1),
        settings,
        findings=judged,
        refusal=lambda: "" if (sys.platform, scale.device) == ("linux", "cpu") else "it limits a CPU's memory on Linux",
    )


# ---------------------------------------------------------------- time to quality


def _fast(scale: Scale) -> Row:
    settings = {
        "preset": "article-vae",
        "epochs": scale(10, 2),
        "images": 6_000 if scale.quick else None,
        "to_quality": True,
    }
    return Row(
        "fast",
        "preset `fast`: article VAE to the bound of the example's 10 epochs",
        "training",
        "s",
        {name: TRAINERS[name] for name in ("aemodels", "example")},
        scale(2, 1),
        settings,
        settle=to_quality,
        findings=reached,
    )


def to_quality(repeat: Repeat) -> Repeat:
    """Adds the seconds until the bound that the example loop ends with; None where it is not reached."""
    if not {"aemodels", "example"} <= repeat.keys():
        return repeat
    target = repeat["example"]["curve"][-1]
    settled: Repeat = {}
    for name, measured in repeat.items():
        times = list(accumulate(measured["epoch_walls"]))
        reached_at = [time for time, bound in zip(times, measured["curve"], strict=True) if bound <= target]
        final = {"final_bound": measured["curve"][-1], "total_seconds": times[-1]}
        settled[name] = measured | final | {"seconds": reached_at[0] if reached_at else None}
    settled["example"]["seconds"] = settled["example"]["total_seconds"]
    return settled


def reached(repeats: list[Repeat]) -> dict[str, Any]:
    """Returns the final bounds and whole times, and in how many turns the example's bound was reached."""
    whole = [repeat for repeat in repeats if all("final_bound" in measured for measured in repeat.values())]
    if not whole:
        return {}
    found: dict[str, Any] = {
        key: {name: spread([repeat[name][key] for repeat in whole]) for name in whole[0]}
        for key in ("final_bound", "total_seconds")
    }
    turns = sum(repeat["aemodels"]["seconds"] is not None for repeat in whole)
    return found | {"turns_reached": turns, "turns": len(whole)}
