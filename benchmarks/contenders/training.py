"""Measures trainings: images per second after the first epoch, and how good the trained network is."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aemodels.data import PreparedData
from benchmarks.contenders.judge import Epoch, quality
from benchmarks.contenders.task import Task, alike
from benchmarks.jobs import Job, Measured


def measure(job: Job) -> Measured:
    """Measures one contender; the settings are `preset`, `epochs` and `images`.

    With `to_quality` the first epoch counts too, and every epoch is judged. With `copies` the training images are
    MNIST's so many times, in `folder`, and `left` are the bytes of memory for a contender that streams them.
    """
    task = Task(
        preset=job.settings["preset"],
        data=_data(job),
        images=job.settings["images"],
        epochs=job.settings["epochs"],
        seed=job.seed,
        device=torch.device(job.device),
    )
    to_quality = job.settings.get("to_quality", False)
    seconds: list[float] = []
    walls: list[float] = []
    judged: list[dict[str, float]] = []
    epochs = _epochs(job.contender, task, to_quality)
    if job.contender == "streamed":
        from benchmarks.contenders import larger

        epochs = larger.from_disk(epochs, task, job.settings["left"])
    for epoch in epochs:
        seconds.append(epoch.seconds)
        walls.append(epoch.wall)
        if to_quality or len(seconds) == task.epochs:
            judged.append(quality(epoch.trained, task.data, task.device))
    if to_quality:
        return {"epoch_walls": walls, "curve": [next(iter(values.values())) for values in judged]}
    count = min(task.images or task.data.sizes["train"], task.data.sizes["train"])
    timed = len(seconds) - 1
    return {
        "images_per_second": count * timed / sum(seconds[1:]),
        "wall_images_per_second": count * timed / sum(walls[1:]),  # with what is done between the epochs
        "epoch_seconds": seconds,
        "training_images": count,
        **judged[-1],
    }


def _data(job: Job) -> PreparedData:
    if "copies" in job.settings:
        from benchmarks.contenders import larger

        return larger.larger_data(job.settings["copies"], job.settings["folder"])
    return PreparedData.model_validate(job.data)


def _epochs(contender: str, task: Task, to_quality: bool) -> Iterator[Epoch]:
    match contender:
        case "aemodels" | "resident" | "streamed":
            from benchmarks.contenders import with_aemodels as ours

            return ours.epochs(ours.fast(task) if to_quality else alike(task), task.data, task)
        case "example":
            from benchmarks.contenders import with_example

            return with_example.epochs(task)
        case "plain":
            from benchmarks.contenders import with_plain_vae_gan

            return with_plain_vae_gan.epochs(task)
        case "pythae":
            from benchmarks.contenders import with_pythae

            return with_pythae.epochs(task)
        case "lightning":
            from benchmarks.contenders import with_lightning

            return with_lightning.epochs(task)
    raise ValueError(f"contender={contender}: cannot train")
