"""Measures the machine: what it is, what it can do at most, and what the models need of it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders.judge import Clock
from benchmarks.contenders.networks import plain_loss, plain_model
from benchmarks.contenders.task import BATCH_SIZE
from benchmarks.jobs import Job, Measured

PACKAGES = ("torch", "torchvision", "numpy", "pythae", "lightning", "optuna", "mlflow", "prefect", "Pillow", "pydantic")
SIDE = 2048  # of the matrices
LEAST_PRODUCTS, LEAST_SECONDS = 5, 1.0


def measure(job: Job) -> Measured:
    """Answers one of three questions, which the job names as its contender."""
    match job.contender:
        case "data":
            return _data()
        case "hardware":
            return {"hardware": _hardware(job.device), "versions": _versions()}
        case "matmul":
            return _peak(torch.device(job.device)) | {"flops_per_image": _flops(job.settings["presets"])}
    raise ValueError(f"contender={job.contender}: nothing to measure of a machine")


def _data() -> Measured:
    """Prepares MNIST."""
    from aemodels.data import prepare
    from aemodels.data.mnist import MnistConfig
    from aemodels.runtime.progress import finish

    return {"data": finish(prepare(MnistConfig())).model_dump(mode="json")}


def _hardware(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def _cpu() -> str:
    """Returns the processor's own name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _peak(device: torch.device) -> Measured:
    """Measures the floating-point operations per second of a matrix product, the most that a training can come near to.

    On a GPU it is in TF32, as all contenders have it.
    """
    used = "tf32" if device.type == "cuda" else "float32"
    peak = {used: _products(device, torch.float32), "bfloat16": _products(device, torch.bfloat16)}
    return {"flops_per_second": peak[used], "peak": peak}


def _products(device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    clock, at_once = Clock(device), 20 if device.type == "cuda" else 1
    torch.mm(a, b)
    end = time.perf_counter() + LEAST_SECONDS
    while len(clock.seconds) < LEAST_PRODUCTS or time.perf_counter() < end:
        clock.start()
        for _ in range(at_once):
            torch.mm(a, b)
        clock.stop()
    return 2 * SIDE**3 * at_once / statistics.median(clock.seconds)


def _flops(presets: list[str]) -> dict[str, float]:
    """Counts the operations of the matrix products and convolutions of an update, forward and backward, per image."""
    counts = {}
    for preset in presets:
        model, counter = plain_model(preset), FlopCounterMode(display=False)
        with counter:
            plain_loss(model, torch.rand(BATCH_SIZE, 1, 28, 28)).backward()
        counts[preset] = counter.get_total_flops() / BATCH_SIZE
    return counts
