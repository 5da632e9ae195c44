"""The update of a small model as a list of kernels: on a CPU what a CUDA graph is on a GPU.

Such an update is bound by Python and by autograd's bookkeeping: they take a tenth of the time of the article's VAE. Its
kernels are the same every time, forward, backward and the optimisers' steps. They are recorded once and from then on
called one after the other, on the same weights and with the same noise: every bit comes out the same.
"""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
READS_A_NUMBER = aten._local_scalar_dense.default  # `.item()`: what follows may depend on it
OFTEN_NOTHING = {aten.detach.default, aten.alias.default, aten.view.default, aten.expand.default}  # to the same shape


class Replay:
    """An update that is recorded at its first call, checked at its second and replayed from its third on.

    The check is an update both ways, on other images than the recorded one. Where the two differ (a model that keeps a
    count of its own, or goes through numpy), and where a number is read, all updates stay what they were.
    """

    def __init__(self, update: Callable[..., None], touched: Callable[[], Mapping[str, Tensor]]) -> None:
        """`update` gets the tensors that are others each time; `touched` gives those that it changes."""
        self.update, self.touched = update, touched
        self.call = self._record

    def __call__(self, *inputs: Tensor) -> None:
        self.call(*inputs)

    def _record(self, *inputs: Tensor) -> None:
        with Recorder(inputs) as recorder:
            self.update(*inputs)
        self.replay = recorder.program()
        self.call = self.update if recorder.reads_a_number else self._check

    def _check(self, *inputs: Tensor) -> None:
        before, noise = _copies(self.touched()), torch.get_rng_state()
        self.replay(*inputs)
        replayed = _copies(self.touched())
        for name, tensor in self.touched().items():
            tensor.copy_(before[name])
        torch.set_rng_state(noise)
        self.update(*inputs)
        differing = [name for name, tensor in self.touched().items() if not _same(tensor, replayed[name])]
        if differing:
            warnings.warn(f"a replayed update differs in {differing[0]}: none is replayed, slower", stacklevel=2)
        self.call = self.update if differing else self.replay


class Recorder(TorchDispatchMode):
    """Writes down the kernels that run inside its context."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.nodes = WeakIdKeyDictionary()  # tensor -> what stands for it; weak, so that memory is freed as ever
        self.outer: list[Tensor] = []  # that were there before: weights, moments, constants
        self.reads_a_number = False
        self.last_argument, self.count = self.graph._root, itertools.count()
        for tensor in inputs:
            self._argument(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Or torch would load its compiler, 1.3 s, to keep it away from here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.reads_a_number |= func is READS_A_NUMBER
        arguments = tree_map_only(Tensor, self._node, (args, kwargs))
        result = func(*args, **kwargs)
        if func in OFTEN_NOTHING and result.stride() == args[0].stride() and result.shape == args[0].shape:
            self.nodes[result] = self._node(args[0])
            return result
        node = self.graph.call_function(func, *arguments)
        if isinstance(result, Tensor):
            self.nodes.setdefault(result, node)  # it has one if it was written in place
        elif isinstance(result, tuple | list):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self.nodes[part] = self.graph.call_function(operator.getitem, (node, i))
        return result

    def program(self) -> Callable[..., None]:
        """Calls the kernels again, with other inputs."""
        self.graph.output(None)
        code = self.graph.python_code("_")
        source, names = code.src, dict(code.globals)
        for kernel in {node.target for node in self.graph.nodes if isinstance(node.target, OpOverload)}:
            name = f"{kernel}".replace(".", "_")  # torch's class for it takes longer than a small kernel
            source, names[name] = source.replace(f"torch.ops.{kernel}(", f"{name}("), kernel._op
        exec(source, names)  # as torch does for its modules from graphs
        forward, outer = names["forward"], self.outer

        def replay(*inputs: Tensor) -> None:
            with torch.inference_mode():
                forward(None, *inputs, *outer)  # arguments are quicker to reach than a module's attributes

        return replay

    def _node(self, tensor: Tensor) -> fx.Node:
        if tensor not in self.nodes:
            self.outer.append(tensor)
            self._argument(tensor)
        node: fx.Node = self.nodes[tensor]
        return node

    def _argument(self, tensor: Tensor) -> None:
        with self.graph.inserting_after(self.last_argument):
            self.last_argument = self.nodes[tensor] = self.graph.placeholder(f"argument_{next(self.count)}")


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    """Every number, and what is none in the same places."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
