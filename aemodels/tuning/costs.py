"""Estimates what a trial will take: seconds on a CPU, memory on a GPU."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aemodels.data.prepared import PreparedData
from aemodels.experiment import Experiment
from aemodels.nn.batch import Batch, at_once
from aemodels.runtime.devices import best_device
from aemodels.runtime.randomness import seeded
from aemodels.training.models import new_model


def forward_seconds(experiment: Experiment, data: PreparedData) -> float:
    """Measures how many seconds a model's losses take for an image."""
    size, device = min(experiment.training.batch_size, data.sizes["train"]), best_device()
    model = new_model(experiment.model, data, experiment.seed, images=experiment.training.images)
    batch = _batch(data, size, device)
    with seeded(0):
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            model.losses(batch, torch.zeros((), device=device))
    return (time.perf_counter() - started) / size


def stack_bytes(experiment: Experiment, data: PreparedData) -> int:
    """Returns the memory of a member of a population, in bytes.

    A forward pass on the meta device finds what such a pass makes, which counts twice for its gradients. What the
    validation holds at a time comes beside it, since a graph keeps its own memory. The weights count nine times: in the
    stack and in its own model, the best so far, their gradients, two moments, and three more of what updates change
    while a graph is captured.
    """
    training, validation, meta = _Memory(), _Memory(), torch.device("meta")
    trained_on = _batch(data, experiment.training.batch_size, meta)
    validated_on = _batch(data, min(at_once(data.image_shape), data.sizes["val"]), meta)
    with meta:
        model, step = experiment.model.build(data.image_shape, data.num_classes), torch.zeros(())
        with training:
            model.losses(trained_on, step)
        model.eval()
        with torch.no_grad(), validation:
            model.bound(validated_on)
    weights: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    return 9 * weights + 2 * training.made + validation.most


def _batch(data: PreparedData, size: int, device: torch.device) -> Batch:
    y = torch.zeros(size, dtype=torch.int64, device=device) if data.num_classes else None
    return Batch(torch.zeros(size, *data.image_shape, device=device), y)


class _Memory(TorchDispatchMode):
    """Counts the memory that operations take, in bytes, also within a gradient penalty's own backward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = 0  # bytes that all operations made
        self.most = 0  # bytes in use at a time, at most; what nobody holds any more is free
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.held = {key: (weak, size) for key, (weak, size) in self.held.items() if not weak.expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.held:
                self.held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.made += storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self.held.values()))
        return result
