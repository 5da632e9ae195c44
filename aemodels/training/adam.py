"""Steps all parameters of a part with Adam in one fused call; gradients are clipped and laid out for it."""

from __future__ import annotations

import torch
from torch import Tensor

from aemodels.runtime import torchrun
from aemodels.training.config import TrainingConfig

FORGETTING = 256  # updates after which moments that have become too small are looked for
TINY = 1e-25  # moments below this are set to zero; Adam adds 1e-8 to what it divides by


class FusedAdam:
    """Steps by Adam or AdamW, on tensors of any layout (Kingma and Ba, 2015, arXiv:1412.6980).

    AdamW is that of Loshchilov and Hutter (2019). The class calls torch's kernel alone: the checks, hooks and counters
    of torch's optimiser classes take as long as the step of a small model.
    """

    def __init__(self, parameters: list[Tensor], rate: Tensor, momentum: float, config: TrainingConfig) -> None:
        """Prepares the moments; `rate` is the learning rate, the caller's tensor, so that a captured step reads it."""
        self.parameters, self.rate, self.momentum, self.config = parameters, rate, momentum, config
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = torch.zeros((), dtype=torch.float32, device=rate.device)  # one count for all parameters
        self.fused = torch._fused_adam_ if config.optimizer == "adam" else torch._fused_adamw_

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        self.steps += 1
        self.fused(
            self.parameters,
            [laid_out_as(g, parameter) for g, parameter in zip(gradients, self.parameters, strict=True)],
            self.first,
            self.second,
            [],
            [self.steps] * len(self.parameters),
            amsgrad=False,
            beta1=self.momentum,
            beta2=0.999,
            lr=self.rate,
            weight_decay=self.config.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """Returns the count of steps, and by the number of each parameter its moments, as torch names them."""
        names = {"exp_avg": self.first, "exp_avg_sq": self.second}
        moments = {f"{i}.{name}": tensor for name, tensors in names.items() for i, tensor in enumerate(tensors)}
        return {"step": self.steps, **moments}

    def forget(self) -> None:
        """Sets to zero the moments that have become too small to move a weight.

        For a pixel that is black in most images the moments shrink until they are subnormal numbers, with which a CPU
        takes ten times as long.
        """
        for moment in (*self.first, *self.second):
            moment.mul_(moment.abs() > TINY)


def laid_out_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Returns the tensor with the parameter's strides, as the fused optimisers misread others without an error."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def clip(gradients: list[Tensor], limit: float, members: bool) -> None:
    """Scales down, in place, gradients whose norm over all parameters is over the limit; each member by its own."""
    leading = 1 if members else 0
    squares = [g.reshape(*g.shape[:leading], -1).square().sum(-1) for g in gradients]  # () or (M,) each
    factor = (limit / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor.view((*factor.shape, *[1] * (gradient.dim() - leading))))


def added_up(gradients: list[Tensor]) -> list[Tensor]:
    """Adds gradients up over all processes, in one message."""
    flat = torchrun.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view(gradient.shape) for part, gradient in zip(parts, gradients, strict=True)]
