"""Runs commands, in this process or as a person starts them, and makes images to give them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from flows.cli.main import app

TINY = [
    "model.trunk=mlp",
    "model.trunk.widths=[16]",
    "model.likelihood=bernoulli",
    "model.latent_dim=2",
    "training.epochs=2",
    "training.images=200",
]


class Answer(NamedTuple):
    """Holds what a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)  # fails on anything beside the JSON


def call(*arguments: object) -> Answer:
    """Runs a command in this process; its changes of the environment do not stay."""
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(app, list(map(str, arguments)))
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, handler)
    return Answer(result.exit_code, result.stdout, result.stderr)


def shell(*arguments: object, cwd: Path, **environment: str) -> Answer:
    """Runs a command as a person starts it."""
    program = Path(sys.executable).with_name("aemodels")
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=180,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def refused(answer: Answer, *pieces: str) -> None:
    """Checks that a command was refused: the exit code is 2, and one message has all the pieces."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("error: ") == 1
    message = answer.err[answer.err.index("error: ") :]
    for piece in pieces:
        assert piece in message


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def picture_folder(folder: Path, count: int, side: int = 16, channels: int = 1) -> Path:
    """Makes a folder with images of noise."""
    rng = np.random.default_rng(0)
    shape = (side, side) if channels == 1 else (side, side, channels)
    for i in range(count):
        save(folder / f"{i:03}.png", rng.integers(0, 256, shape))
    return folder


class Shop(NamedTuple):
    """A shop is a store with two trained models of digits, of which the first is the champion."""

    folder: Path
    trained: list[dict[str, Any]]
    images: list[Path]  # some digits as files
