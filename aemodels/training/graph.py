"""Replays updates on a CUDA device as a graph, as with small models the work before a kernel takes longest.

B batch, S full batches of a pass over the images.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from aemodels.config import OwnWarning
from aemodels.data.batches import Batches
from aemodels.runtime import torchrun
from aemodels.runtime.randomness import seeded
from aemodels.training.config import TrainingConfig
from aemodels.training.passes import Stretch
from aemodels.training.update import Trainee, Updates

WARM_UPS = 3  # updates before a graph is captured, in which libraries choose algorithms; they are undone afterwards


def updates_of(model: Trainee, batches: Batches, config: TrainingConfig, seed: int) -> Updates:
    """Returns what makes the updates of a training, in the way that is fastest on the device of the batches."""
    kind = ReplayedUpdates if batches.device.type == "cuda" else Updates
    return kind(model, batches, config, seed)


class ReplayedUpdates(Updates):
    """Makes the same updates as the base class, and replays them as a graph where they can be captured."""

    graph: Graph | None = None

    def close(self) -> None:
        """Lets go of the graph, which holds memory and this object."""
        self.graph = None

    def make(self, stretch: Stretch, order_seed: int, first_step: int, rates: Sequence[float]) -> None:
        """Replays the updates of a stretch of a pass."""
        if self.graph is None:
            super().make(stretch, order_seed, first_step, rates)
        else:
            self.graph.make(self.batches.order(order_seed)[stretch.start : stretch.stop], first_step, rates)

    def prepare(self) -> None:
        """Captures the update before the first epoch."""
        if self.graph is not None or self.names or len(self.batches) < self.config.batch_size:
            return
        if self.batches.resident is None or torchrun.active():
            why = (
                "several processes share it" if torchrun.active() else "the images do not fit into the device's memory"
            )
            warnings.warn(f"no CUDA graph of the update was made ({why}); training is slower", OwnWarning, 2)
            return
        with seeded(0):
            self.graph = captured(self)


class Graph:
    """Replays the full batches of a pass on a device that the host tells nothing in between.

    The order, the learning rates and the steps lie in the device's memory, and each update moves on to the next.
    """

    def __init__(self, updates: Updates) -> None:
        device, batch_size = updates.rate.device, updates.config.batch_size
        self.updates, self.full = updates, len(updates.batches) // batch_size
        self.order = torch.zeros(self.full, batch_size, dtype=torch.int64, device=device)  # (S, B)
        self.rates = torch.zeros(self.full, device=device)  # (S,)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)  # batches of this stretch of a pass
        self.step = torch.zeros((), dtype=torch.int64, device=device)  # updates of the training
        self.replay = self.advance

    def advance(self) -> None:
        """Makes the next update, without any value that the host would have to know."""
        updates = self.updates
        updates.rate.copy_(self.rates.index_select(0, self.done)[0])
        batch = updates.batches.gather(self.order.index_select(0, self.done)[0], drawn=True)
        updates.update(batch, self.step, updates.config.batch_size)
        self.done += 1
        self.step += 1

    def make(self, order: Tensor, first_step: int, rates: Sequence[float]) -> None:
        """Makes the updates of these images, in their order; a last batch that is not full is an update by itself."""
        updates, device, batch_size = self.updates, self.order.device, self.updates.config.batch_size
        batches = len(order) // batch_size
        full, rest = order[: batches * batch_size], order[batches * batch_size :]
        self.order[:batches].copy_(full.view(batches, batch_size))
        self.rates[:batches].copy_(torch.tensor(rates[:batches]))
        self.done.zero_()
        self.step.fill_(first_step)
        for _ in range(batches):
            self.replay()
        if len(rest):
            updates.rate.fill_(rates[batches])
            updates.update(updates.batches.gather(rest.to(device), drawn=True), self.step, len(rest))


def captured(updates: Updates) -> Graph | None:
    """Captures the update as a graph; it warns and returns None if that fails. Weights and moments stay as they are."""
    graph = Graph(updates)
    kept = {name: tensor.clone() for name, tensor in _touched(updates).items()}
    aside = torch.cuda.Stream()  # the warm-up of a capture has to run on a stream of its own
    try:
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                graph.done.zero_()
                graph.advance()
        torch.cuda.current_stream().wait_stream(aside)
        graph.done.zero_()
        cuda_graph = torch.cuda.CUDAGraph()
        # With thread_local, what other threads (MLflow's, Prefect's) do on the device meanwhile is no error.
        with torch.cuda.graph(cuda_graph, capture_error_mode="thread_local"):
            graph.advance()
        graph.replay = cuda_graph.replay
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"no CUDA graph of the update was made ({reason}); training is slower", OwnWarning, 2)
        return None
    finally:
        torch.cuda.current_stream().wait_stream(aside)
        for name, tensor in _touched(updates).items():
            tensor.copy_(kept[name])
    return graph


def _touched(updates: Updates) -> dict[str, Tensor]:
    """Returns the tensors that an update changes: weights, persistent buffers and moments."""
    return {f"model.{name}": tensor for name, tensor in updates.model.state_dict().items()} | updates.moments()
