"""What a trial will take: seconds on a CPU, memory on a GPU."""

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
from aemodels.nn.batch import AT_ONCE, Batch
from aemodels.runtime.devices import best_device
from aemodels.runtime.randomness import seeded
from aemodels.training.models import new_model


def forward_seconds(experiment: Experiment, data: PreparedData) -> float:
    """How long a model's losses take for an image."""
    size, device = min(experiment.training.batch_size, data.sizes["train"]), best_device()
    model, batch = new_model(experiment.model, data, experiment.seed), _batch(data, size, device)
    with seeded(0):
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            model.losses(batch, torch.zeros((), device=device))
    return (time.perf_counter() - started) / size


def stack_bytes(experiment: Experiment, data: PreparedData) -> int:
    """Memory of a member of a population, bytes: what a forward pass makes, found by one on the meta device, with its
    gradients; what the validation holds at a time, beside them, since a graph keeps its own; nine times its weights (in
    the stack and in its own model, the best so far, their gradients, two moments; while a graph is captured, three more
    of what updates change).
    """
    training, validation, meta = _Memory(), _Memory(), torch.device("meta")
    trained_on = _batch(data, experiment.training.batch_size, meta)
    validated_on = _batch(data, min(AT_ONCE, data.sizes["val"]), meta)
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
    """Counts the memory that operations take, within a gradient penalty's own backward pass too, bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = 0  # of all operations
        self.most = 0  # at a time: what nobody holds any more is free
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
