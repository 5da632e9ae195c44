"""Measures how fast a folder of PNG files is read into an array, once."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from aemodels.data import PreparedData
from benchmarks.contenders.judge import images_of, labels_of
from benchmarks.jobs import Job, Measured


def measure(job: Job) -> Measured:
    """Measures one contender.

    Settings: `folder`, where the first process leaves the files for all (so that they lie in the page cache), and
    `images`, how many there are.
    """
    folder = Path(job.settings["folder"])
    data = PreparedData.model_validate(job.data)
    if not folder.exists():
        _write(data, folder, job.settings["images"])
    count, seconds = _ours(folder) if job.contender == "aemodels" else _peer(folder, job.threads)
    return {"seconds": seconds, "images": count, "images_per_second": count / seconds}


def _write(data: PreparedData, folder: Path, count: int) -> None:
    """Writes MNIST's training and validation images into a folder for each class."""
    splits = ("train", "val")
    images = torch.cat([images_of(data, split) for split in splits])[:count, 0].numpy()  # (N, 28, 28)
    labels = torch.cat([labels_of(data, split) for split in splits])[:count].tolist()
    for number in set(labels):
        (folder / str(number)).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{i:05d}.png")


def _ours(folder: Path) -> tuple[int, float]:
    from aemodels.data import prepare
    from aemodels.data.folder import FolderConfig
    from aemodels.runtime.progress import finish

    with tempfile.TemporaryDirectory() as cache:
        os.environ["AEMODELS_CACHE"] = cache  # an empty cache, so that nothing is found prepared
        started = time.perf_counter()
        prepared = finish(prepare(FolderConfig(path=(folder,))))
        return sum(prepared.sizes.values()), time.perf_counter() - started


def _peer(folder: Path, workers: int) -> tuple[int, float]:
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    started = time.perf_counter()
    transform = transforms.Compose([transforms.Grayscale(), transforms.PILToTensor()])
    loader = DataLoader(ImageFolder(str(folder), transform=transform), batch_size=256, num_workers=workers)
    images = torch.cat([batch for batch, _ in loader])  # (N, 1, 28, 28), uint8
    return len(images), time.perf_counter() - started
