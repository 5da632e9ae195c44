"""What one update or one look sees: images, and their labels where there are any."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

AT_ONCE = 500  # images or codes that are judged or answered at once: enough for speed, little enough for memory


class Batch(NamedTuple):
    """What a model sees."""

    x: Tensor  # (B, C, H, W), float32 in [0, 1]
    y: Tensor | None  # (B,), int64; None without labels
    corrupted: Tensor | None = None  # (B, C, H, W): what a denoising model is shown of x

    @property
    def seen(self) -> Tensor:
        """What an encoder gets; the target is always x."""
        return self.x if self.corrupted is None else self.corrupted
