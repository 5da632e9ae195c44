"""Chooses the device on which models are trained and run."""

from __future__ import annotations

from typing import Literal

import torch

from aemodels.config import UserError
from aemodels.runtime import torchrun
from aemodels.runtime.environment import device_name

DEVICES = ("cpu", "cuda", "mps")


def best_device() -> torch.device:
    """Returns the device of AEMODELS_DEVICE, or the first there is of CUDA, MPS and CPU.

    A CUDA device that is named, or that is this process's under torchrun, becomes torch's current one. It multiplies
    matrices of float32 in TF32.

    Raises:
        UserError: AEMODELS_DEVICE names none that works here, or torchrun started more processes than there are GPUs.
    """
    device = _chosen()
    if device.type == "cuda":
        # It is set here and not where a model is trained, so that every process evaluates a model alike.
        torch.set_float32_matmul_precision("high")
    return device


def serving_device() -> torch.device:
    """Returns the device of a served model: the CPU, on which a seed draws the same everywhere, or AEMODELS_DEVICE.

    Raises:
        UserError: as `best_device`.
    """
    return best_device() if device_name() else torch.device("cpu")


def _chosen() -> torch.device:
    name = device_name()
    if torchrun.started() and name in (None, "cuda") and torch.cuda.is_available():
        torchrun.take_gpu()  # before anything is put on the first GPU
    if name:
        try:
            device = torch.empty(0, device=name).device
        except (RuntimeError, AssertionError):
            device = torch.device("meta")
        if device.type == "cuda":
            if torchrun.started() and ":" in name:
                raise UserError(
                    f"AEMODELS_DEVICE={name}: torchrun gives each process its own; set AEMODELS_DEVICE=cuda"
                )
            torch.cuda.set_device(device)  # streams, graphs and noise are those of the current device
        if device.type not in DEVICES:
            raise UserError(
                f"AEMODELS_DEVICE={name}: does not work here; give {' or '.join(filter(_works, DEVICES))}, or unset it"
            )
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _works(device: str) -> bool:
    return device == "cpu" or (torch.cuda if device == "cuda" else torch.backends.mps).is_available()


def bfloat16_units(device: torch.device) -> Literal["", "vector", "matrix"]:
    """Returns what the device multiplies bfloat16 with.

    "" is nothing of its own, with which bfloat16 is slower than float32. "vector" is vector instructions (AVX-512
    BF16). "matrix" is matrix units (AMX, a GPU; NVIDIA's since Ampere).
    """
    if device.type == "cuda":
        return "matrix" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if device.type != "cpu":
        return "matrix"
    # torch's public `get_capabilities` is newer than the oldest torch that is supported.
    return "matrix" if torch.cpu._is_amx_tile_supported() else "vector" if torch.cpu._is_avx512_bf16_supported() else ""


def described(device: torch.device) -> str:
    """Describes the device for a person; for a CPU it tells how many threads compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''} of a CPU"
