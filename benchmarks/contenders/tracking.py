"""A training with and without tracking: the seconds from the end of the first epoch to the end of the last.

`bare` is the library's training alone; `tracked` is the command's: checkpoints, metrics, picture cards and system
metrics into the embedded MLflow store, which is open. Imports, the feature network and the first epoch are outside.
What the training itself takes is timed too, inside the tracked run: the rest of that run is what the epochs wait for
tracking; what its threads take away from the training shows in the comparison of the two runs alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from aemodels.data import PreparedData
from aemodels.settings import load_settings
from aemodels.training import train
from benchmarks.jobs import Job, Measured


def measure(job: Job) -> Measured:
    """Settings: preset, epochs, images."""
    training = {name: job.settings[name] for name in ("epochs", "images")}
    settings = load_settings({"training": training, "seed": job.seed}, preset=job.settings["preset"])
    data = PreparedData.model_validate(job.data)
    if job.contender == "bare":
        ends = [time.perf_counter() for _ in train(settings.model, data, settings.training, settings.seed)]
        return {"seconds": ends[-1] - ends[0]}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AEMODELS_STORE"] = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        return _tracked(settings, data)


def _tracked(settings: Any, data: PreparedData) -> Measured:
    from aemodels.steps import train as step
    from aemodels.store import open_store

    inside: list[float] = []
    ends: dict[int, float] = {}  # epoch -> when it was trained and tracked
    open_store()
    with mock.patch.object(step, "train_epochs", lambda *given, **named: _timed(train(*given, **named), inside)):
        for progress in step.train(settings, data, group=""):
            if progress.work == f"training {settings.model.name}" and progress.done:
                ends.setdefault(progress.done, time.perf_counter())
    return {"seconds": ends[max(ends)] - ends[1], "training_seconds": sum(inside[1:])}


def _timed(epochs: Iterator[Any], inside: list[float]) -> Iterator[Any]:
    """The same epochs; notes what each took."""
    while True:
        started = time.perf_counter()
        try:
            epoch = next(epochs)
        except StopIteration:
            return
        inside.append(time.perf_counter() - started)
        yield epoch
