"""Tests that two processes that share every batch train like one process with the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aemodels.checkpoints.run_folder import COMMAND, RunFolder
from aemodels.config import UserError
from aemodels.data.prepared import PreparedData
from aemodels.models import AEConfig, VAEConfig, VAEGANConfig
from aemodels.nn.distributions import GaussianConfig
from aemodels.nn.trunks import ConvConfig, MLPConfig
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
from aemodels.training.config import TrainingConfig
from aemodels.training.train import train

SMALL = MLPConfig(widths=(16,))
# 301 images in batches of 30: shares of 15, and at the end one image, which one of the processes has alone
TRAINING = TrainingConfig(epochs=3, images=301, batch_size=30, gradient_clip=50.0, schedule="cosine")
LAYERS_FIRST = TRAINING.override({"epochs": 1, "pretraining_epochs": 1, "corruption": "masking"})
TRAININGS = {
    "dynamic bits": (VAEConfig(trunk=SMALL, free_bits=0.2, beta_warmup_steps=5), TRAINING),
    "optimal sigma": (VAEConfig(trunk=SMALL, likelihood=GaussianConfig(sigma="optimal")), TRAINING),
    "adversarial": (VAEGANConfig(trunk=ConvConfig(channels=(4,))), TRAINING.override({"epochs": 1})),
    "pre-trained": (AEConfig(trunk=MLPConfig(widths=(16, 8))), LAYERS_FIRST),
}
SHARED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_torchrun as t
from aemodels.runtime import torchrun
from aemodels.runtime.devices import best_device
with torchrun.joined(best_device()):
    print(json.dumps([torchrun.leads(), t.curves(t.PreparedData.model_validate_json(sys.argv[2]))]) + "\\n", end="")
"""


def curves(data: PreparedData) -> dict[str, Any]:
    """Returns the metrics of every epoch, of each model."""
    data = data.override({"binarize": "dynamic"})
    return {
        name: [
            {key: value for key, value in epoch.metrics.items() if "second" not in key}
            for epoch in train(model, data, training, seed=0)
        ]
        for name, (model, training) in TRAININGS.items()
    }


def launched(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"AEMODELS_DEVICE": "cpu", **environment},
        timeout=300,
    )


@pytest.mark.slow
def test_the_loss_curves_are_those_of_one_process(digits: PreparedData, tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    done = launched(str(script), str(Path(__file__).parent), digits.model_dump_json())
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(leads for leads, _ in answers) == [False, True]
    torch.set_num_threads(1)
    alone = curves(digits)
    for _, shared in answers:
        for name, epochs in alone.items():
            for expected, actual in zip(epochs, shared[name], strict=True):
                assert actual == pytest.approx(expected, rel=1e-5)


def test_one_process_has_the_whole_batch() -> None:
    assert torchrun.leads()
    assert torchrun.share_of(10) is None
    with torchrun.joined(torch.device("cpu")):
        assert not torchrun.active()
    assert torchrun.batch_mean(torch.tensor([1.0, 3.0])) == 2


def test_each_process_begins_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks first for the device gets the same one. CUDA itself is replaced, since a CPU machine has none."""
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)  # the CPU of later tests heeds it too
    for name, stand_in in {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "set_device": chosen.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.delenv("AEMODELS_DEVICE", raising=False)
    assert best_device().type == "cuda"
    assert chosen == []  # no torchrun
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert best_device().type == "cuda"
    assert chosen == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"process 2 .* has no GPU.*--nproc-per-node 2"):
        best_device()
    monkeypatch.setenv("AEMODELS_DEVICE", "cpu")
    assert best_device().type == "cpu"
    assert chosen == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_one_of_the_processes_writes(tmp_path: Path) -> None:
    """`torchrun ... aemodels train` makes one run, one version and one answer. A search is refused."""
    command = [
        "-m",
        "flows.cli.main",
        "train",
        "data.name=digits",
        "training.epochs=2",
        "training.images=200",
        "--json",
    ]
    done = launched(*command)
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout)
    runs = [folder for folder in (tmp_path / "store" / "runs").iterdir() if (folder / "run.json").exists()]
    assert [str(run) for run in runs] == [trained["folder"]]
    assert (runs[0] / "weights.safetensors").exists()
    again = json.loads(launched(*command).stdout)
    tested = {key: value for key, value in trained.items() if key.startswith("test/")}
    assert tested
    assert tested.items() <= again.items()
    assert (trained["version"], again["version"]) == (1, 2)
    RunFolder(runs[0]).asked_for(COMMAND)  # as if it had been killed before it told
    untold = launched(*command)
    assert untold.returncode == 0, untold.stderr
    assert json.loads(untold.stdout)["version"] == 1
    refused = launched("-m", "flows.cli.main", "tune", "data.name=digits")
    assert "a search runs in one process" in refused.stderr
