"""Describes the rules of an evaluation: what its settings tell those who measure."""

from __future__ import annotations

from typing import Literal, Protocol


class Rules(Protocol):
    """Says how much is measured; EvaluationConfig explains each number."""

    @property
    def level(self) -> Literal["quick", "full"]: ...
    @property
    def samples(self) -> int: ...
    @property
    def denoising(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def nll_samples(self) -> int: ...
    @property
    def nll_images(self) -> int: ...
