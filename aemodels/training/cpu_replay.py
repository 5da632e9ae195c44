"""The update of a small model as a list of kernels: on a CPU what a CUDA graph is on a GPU.

Such an update spends a good part of its time in Python and in autograd's bookkeeping. Its kernels are the same every
time, forward, backward and the optimisers' steps. They are recorded once and from then on called one after the other,
on the same weights and with the same noise: every number comes out the same.
"""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from aemodels.config import OwnWarning

aten = torch.ops.aten
BY_VALUE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # `item`, `unique`, `nonzero`
WRITTEN = {aten._local_scalar_dense.default: "item(), or `if` with a tensor", aten.index.Tensor: "a boolean mask"}
OFTEN_NOTHING = {aten.detach.default, aten.alias.default, aten.view.default, aten.expand.default}  # to the same shape
OF_TORCH = vars(nn.Module())  # attributes that all modules have

Update = Callable[..., None]


class Replay:
    """An update that is recorded at its first call, checked at its second and replayed from its third on.

    Nothing may change from call to call but the inputs, and tensors in place: what Python counts, draws or decides is
    recorded as it was. The check is an update both ways, on other inputs than the recorded ones. Where it finds a
    difference, or the recording what a replay would not repeat, the update stays what it is, with a warning.
    """

    def __init__(self, update: Update, modules: Sequence[nn.Module] = ()) -> None:
        """`update` gets all tensors that are not the same ones at every call; `modules` is what it works with."""
        self.update, self.modules = update, modules
        self.recorded: dict[str, object] = {}  # what the modules remembered then
        self.recorder: Recorder | None = None
        self.program: Update | None = None  # that is called, once it is settled which one

    def __call__(self, *inputs: Tensor) -> None:
        if self.program is not None:
            self.program(*inputs)
        elif self.recorder is None:
            self._record(*inputs)
        else:
            self._check(self.recorder, *inputs)

    @property
    def replays(self) -> bool:
        """Whether it is settled that the recording is called."""
        return self.program not in (None, self.update)

    def renew(self) -> None:
        """Has it recorded anew if what the modules remember was changed between two updates."""
        if self.replays and _remembered(self.modules) != self.recorded:
            self.program = None

    def _record(self, *inputs: Tensor) -> None:
        self.recorded = _remembered(self.modules)
        with Recorder(inputs) as self.recorder, _Exits(self.recorder):
            self.update(*inputs)
        now = _remembered(self.modules)
        changed = [name for name in now if name not in self.recorded or now[name] != self.recorded[name]]
        if changed:
            self._stay(f"it changes {changed[0]}, which is no tensor that is changed in place")
        elif reason := self.recorder.refusal or self.recorder.left_behind(inputs):
            self._stay(reason)

    def _check(self, recorder: Recorder, *inputs: Tensor) -> None:
        noise = torch.get_rng_state()
        try:
            program = recorder.program()
            before = _copies(recorder.outer)
            replayed = before
            try:
                program(*_copies(inputs))
                replayed = _copies(recorder.outer)
            finally:
                recorder.set_back(before)
                torch.set_rng_state(noise)
        except Exception as error:  # memory may end, and some code is written for a call, not for its kernels
            self._stay(str(error).partition("\n")[0])
            self.update(*inputs)
            return
        self.update(*inputs)
        if all(map(_same, recorder.outer, replayed)):
            self.program, self.recorder = program, None
        else:
            self._stay("replayed it comes to something else")

    def _stay(self, reason: str) -> None:
        """With the update as it is."""
        self.program, self.recorder = self.update, None
        warnings.warn(f"no replay of the update ({reason}); training goes on without it, slower", OwnWarning, 4)


class Recorder(TorchDispatchMode):
    """Writes down the kernels that run inside its context."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.nodes = WeakIdKeyDictionary()  # tensor -> what stands for it; weak, so that memory is freed as ever
        self.outer: list[Tensor] = []  # that were there before: weights, moments, constants
        self.refusal = ""  # why it cannot be replayed
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
        if _by_value(func, args):
            self.refusal = f"{WRITTEN.get(func, func)}: what comes of it depends on values"
        if any(isinstance(value, torch.Generator) for value in kwargs.values()):
            self.refusal = "its noise is not all from torch's own generator"
        arguments = tree_map_only(Tensor, self._node, (args, kwargs))
        result = func(*args, **kwargs)
        if func in OFTEN_NOTHING and result.stride() == args[0].stride() and result.shape == args[0].shape:
            self.nodes[result] = self._node(args[0])
        else:
            self._note(self.graph.call_function(func, *arguments), result)
        return result

    def program(self) -> Update:
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
            # Nothing is noted for a backward pass, but kernels that ask are told that there is one.
            with torch.inference_mode(), torch.enable_grad():
                forward(None, *inputs, *outer)  # arguments are quicker to reach than a module's attributes

        return replay

    def left_behind(self, inputs: Sequence[Tensor]) -> str:
        """Why it cannot be replayed if a tensor outlives the update that made it: a replay would leave it as it is."""
        known = {id(tensor) for tensor in (*inputs, *self.outer)}
        kept = [tuple(tensor.shape) for tensor in self.nodes if id(tensor) not in known]
        return (
            f"it keeps a tensor of shape {kept[0]}, instead of writing it into one that it had before" if kept else ""
        )

    def set_back(self, before: Sequence[Tensor]) -> None:
        """What was there before to what it was then."""
        with torch.no_grad():
            for tensor, was in zip(self.outer, before, strict=True):
                if not _same(tensor, was):  # what is only read may lie in memory that cannot be written
                    tensor.copy_(was)

    def _note(self, node: fx.Node, result: Any) -> None:
        if isinstance(result, Tensor):
            self.nodes.setdefault(result, node)  # it has one if it was written in place
        elif isinstance(result, tuple | list):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self.nodes[part] = self.graph.call_function(operator.getitem, (node, i))

    def _node(self, tensor: Tensor) -> fx.Node:
        if tensor not in self.nodes:
            self.outer.append(tensor)
            self._argument(tensor)
        node: fx.Node = self.nodes[tensor]
        return node

    def _argument(self, tensor: Tensor) -> None:
        with self.graph.inserting_after(self.last_argument):
            self.last_argument = self.nodes[tensor] = self.graph.placeholder(f"argument_{next(self.count)}")


class _Exits(TorchFunctionMode):
    """Sees what takes numbers out of tensors without a kernel."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            self.recorder.refusal = f"{func.__name__} takes numbers out of tensors"
        return func(*args, **kwargs or {})


def _by_value(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether a kernel's result is a Python number, or of a shape that its arguments' shapes do not tell."""
    if func is aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return not BY_VALUE.isdisjoint(func.tags)


def _remembered(modules: Sequence[nn.Module]) -> dict[str, object]:
    """Their own attributes: numbers and texts, and which objects the others are."""
    return {
        f"{type(module).__name__}.{name} ({i})": value if isinstance(value, bool | int | float | str) else id(value)
        for i, module in enumerate(modules)
        for name, value in vars(module).items()
        if name not in OF_TORCH
    }


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def _same(a: Tensor, b: Tensor) -> bool:
    """Every number, and what is none in the same places."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
