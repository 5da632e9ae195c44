"""Tests that thousands of larger images are trained on, reconstructed and served in the memory of a small machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from places import ROOT
from served import running

MOST = 3 * 2**30  # bytes
IMAGES, ASKED = 3_000, 16
# A command that says at its end how many KiB its process has held at most.
COMMAND = """
import atexit, re, sys
from flows.cli.main import main
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr))
main()
"""


def peak(*arguments: object) -> int:
    """Runs a command, and returns the bytes of memory that it has held at most."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return 1024 * int(ran.stderr.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 128), (48, 96)])
@pytest.mark.usefixtures("own_store")
def test_three_thousand_images_are_trained_on_reconstructed_and_served(size: tuple[int, int], tmp_path: Path) -> None:
    rng, (height, width) = np.random.default_rng(0), size
    small = rng.integers(0, 256, (IMAGES, height // 16, width // 16, 3), dtype=np.uint8)
    images = small.repeat(16, 1).repeat(16, 2)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "new").mkdir()
    for i in range(ASKED):
        Image.fromarray(images[i]).save(tmp_path / "new" / f"{i:02d}.png")
    told = ("data=arrays", f"data.path={tmp_path / 'images.npy'}", "registry.name=large", "training.updates=3")
    assert peak("train", *told, "model=vae", "evaluation.level=quick") < MOST
    assert peak("reconstruct", "large/1", tmp_path / "new", "-o", tmp_path / "again.png") < MOST
    with running(Path("large/1"), tmp_path) as server:
        channels_first = images[:ASKED].transpose(0, 3, 1, 2) / 255
        assert server.ask(inputs=channels_first.tolist(), params={"mode": "reconstruct"}).shape == (ASKED, 3, *size)
        process = psutil.Process(server.process.pid)
        assert sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) < MOST
