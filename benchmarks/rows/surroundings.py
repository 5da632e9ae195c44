"""Defines the rows of what is around a training: preparing images, starting commands, tracking."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import ROOT, FailedError, Job, Measured
from benchmarks.rows.row import Repeat, Row, Scale, spread

PROGRAM = Path(sys.executable).with_name("aemodels")
COMMANDS = {
    "aemodels --help": [str(PROGRAM), "--help"],
    "aemodels train --help": [str(PROGRAM), "train", "--help"],
    "aemodels settings": [str(PROGRAM), "settings"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import mlflow": [sys.executable, "-c", "import mlflow"],
    "import prefect": [sys.executable, "-c", "import prefect"],
}


def surrounding_rows(scale: Scale) -> list[Row]:
    """Returns the rows, those that need least first."""
    return [_prepare(scale), _start_up(scale), _tracking(scale)]


def _prepare(scale: Scale) -> Row:
    images = scale(60_000, 2_000)
    return Row(
        "prepare",
        f"preparing a folder of {images:,} PNG files of 28 x 28",
        "folder",
        "images/s",
        {"aemodels": (), "imagefolder": ("torchvision", "PIL")},
        scale(3, 1),
        {"images": images, "folder": str(scale.folder / "png")},
    )


def _start_up(scale: Scale) -> Row:
    return Row(
        "start-up",
        "start-up",
        "command",
        "s",
        {name: (name.split()[1],) if name.startswith("import") else ("typer", "rich") for name in COMMANDS},
        scale(3, 1),
        {},
        refusal=lambda: "" if PROGRAM.exists() else f"there is no {PROGRAM}: the project is not installed",
        measure=command_seconds,
        compared=False,
    )


def command_seconds(job: Job) -> Measured:
    """Measures the seconds of a command, from start to end; its files are in the page cache.

    Raises:
        FailedError: the command failed.
    """
    command = COMMANDS[job.contender]
    for _ in range(2 if job.seed == 1 else 1):  # in the first turn the files may have to be compiled and read
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise FailedError(done.stderr.strip() or f"exit code {done.returncode}")
    return {"seconds": seconds}


def _tracking(scale: Scale) -> Row:
    settings = {
        "preset": "article-vae",
        "epochs": 1 + scale(30, 2, cuda=300),  # they take a minute
        "images": 6_000 if scale.quick else None,
    }
    needs = ("mlflow", "optuna", "matplotlib", "psutil")
    return Row(
        "tracking",
        "tracking, as a share of a training, one turn",
        "tracking",
        "s",
        {"tracked": needs, "served": (*needs, "prefect"), "bare": needs},
        1,  # one turn takes four minutes
        settings,
        findings=shares,
        compared=False,
    )


def shares(repeats: list[Repeat]) -> dict[str, Any]:
    """Returns what each way of tracking costs: (tracked - bare) / bare within a turn.

    It also returns, of the tracked run alone, the share of the time that the epochs waited for the tracking.
    """
    found: dict[str, dict[str, Any]] = {"share": {}, "waiting_share": {}}
    for name in ("tracked", "served"):
        turns = [(repeat[name], repeat["bare"]) for repeat in repeats if {name, "bare"} <= repeat.keys()]
        if turns:
            found["share"][name] = spread([own["seconds"] / bare["seconds"] - 1 for own, bare in turns])
            found["waiting_share"][name] = spread([own["seconds"] / own["training_seconds"] - 1 for own, _ in turns])
    return found if found["share"] else {}
