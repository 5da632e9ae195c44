"""Measures a training with and without tracking: the seconds from the end of the first epoch to that of the last.

`bare` is the library's training alone; `tracked` is the command's: checkpoints, metrics, picture cards and system
metrics into the embedded MLflow store, which is open; `served` is the same as a flow of a Prefect server, into an
MLflow server, both on this machine. Imports, the classifier of real images and the first epoch are outside. What the
training itself takes is timed too, inside the tracked run: the rest of that run is what the epochs wait for tracking;
what its threads and the servers take away from the training shows in the comparison with the bare run alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from aemodels.data import PreparedData
from aemodels.settings import Settings, load_settings
from aemodels.training.train import train
from benchmarks.jobs import Job, Measured

PATIENCE = 120  # seconds until a server answers


def measure(job: Job) -> Measured:
    """Measures one contender; the settings are `preset`, `epochs` and `images`."""
    training = {name: job.settings[name] for name in ("epochs", "images")}
    settings = load_settings({"training": training, "seed": job.seed}, preset=job.settings["preset"])
    data = PreparedData.model_validate(job.data)
    if job.contender == "bare":
        ends = [time.perf_counter() for _ in train(settings.model, data, settings.training, settings.seed)]
        return {"seconds": ends[-1] - ends[0]}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["AEMODELS_STORE"] = str(folder)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if job.contender == "served":
            os.environ |= stack.enter_context(_servers(folder))
        return _tracked(settings, data, job.contender == "served")


def _tracked(settings: Settings, data: PreparedData, as_flow: bool) -> Measured:
    from aemodels.checkpoints import training
    from aemodels.runtime.progress import finish
    from aemodels.steps import train as step
    from aemodels.tracking.store import open_store

    inside: list[float] = []  # seconds of each epoch
    asked: list[float] = []  # when the next epoch was asked for: all before it are tracked
    open_store()
    with mock.patch.object(training, "train", lambda *given, **named: _timed(train(*given, **named), inside, asked)):
        if as_flow:
            from flows.train import train as flow

            flow(settings)
        else:
            finish(step.train(settings, data, group=""))
    return {"seconds": asked[-1] - asked[1], "training_seconds": sum(inside[1:])}


def _timed(epochs: Iterator[Any], inside: list[float], asked: list[float]) -> Iterator[Any]:
    """Yields the same epochs, and notes how long each took."""
    while True:
        asked.append(time.perf_counter())
        try:
            epoch = next(epochs)
        except StopIteration:
            return
        inside.append(time.perf_counter() - asked[-1])
        yield epoch


@contextmanager
def _servers(folder: Path) -> Iterator[dict[str, str]]:
    """Runs the servers of MLflow and Prefect within the block, and yields the variables that name them.

    Their databases are in the folder.
    """
    mlflow, prefect = (f"http://127.0.0.1:{_free_port()}" for _ in range(2))
    stored = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "served")]
    commands = {
        f"{mlflow}/health": ["mlflow", "server", *stored, "--workers", "1", "--port", mlflow.rpartition(":")[2]],
        f"{prefect}/api/health": ["prefect", "server", "start", "--port", prefect.rpartition(":")[2]],
    }
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ExitStack() as stack:
        for command in commands.values():
            whole = [sys.executable, "-m", *command, "--host", "127.0.0.1"]
            server = subprocess.Popen(whole, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.enter_context(server)  # waits for its end
            stack.callback(server.terminate)
        for url in commands:
            _wait_for(url)
        yield {"MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": f"{prefect}/api", "PREFECT_HOME": str(folder / "home")}


def _wait_for(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
