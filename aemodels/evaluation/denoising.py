"""Denoises images with a model, and with the plain filters that it has to beat.

N images, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aemodels.models.base import Autoencoder
from aemodels.nn.corruption import GaussianCorruption
from aemodels.runtime.randomness import derived_seed, undisturbed

NOISES = (0.1, 0.3, 0.5)  # standard deviations of the noise, on pixels in [0, 1]
WINDOWS = (3, 5)  # sides of the median filter's window, pixels
WEIGHTS = (0.3, 0.6, 1.0)  # weights of the total variation, in units of the noise


class Denoising:
    """Holds images (N, C, H, W) with Gaussian noise, and without it again, in several ways; on the CPU."""

    def __init__(self, model: Autoencoder, x: Tensor, sigma: float, seed: int) -> None:
        self.sigma, self.clean = sigma, x.cpu()
        with undisturbed(model, derived_seed(seed, "denoising", round(100 * sigma))):
            noisy = GaussianCorruption(sigma=sigma).apply(x)
            denoised: Tensor = model(noisy)
        self.noisy, self.denoised = noisy.cpu(), denoised.cpu()

    @cached_property
    def median(self) -> Tensor:
        """Returns what the median filter makes of the noisy images, with the window that suits these images best.

        The choice favours the filter.
        """
        from scipy.ndimage import median_filter

        x = self.noisy.numpy()
        return self._best([torch.from_numpy(median_filter(x, size=(1, 1, side, side))) for side in WINDOWS])

    @cached_property
    def total_variation(self) -> Tensor:
        """Returns what Chambolle's total variation makes of the noisy images, with the weight that suits them best."""
        import skimage.restoration

        tv: Callable[..., NDArray[np.float32]] = skimage.restoration.denoise_tv_chambolle

        def filtered(weight: float) -> Tensor:
            images = [tv(x, weight=weight, channel_axis=0) for x in self.noisy.numpy()]
            return torch.from_numpy(np.stack(images)).float().clamp(0, 1)

        return self._best([filtered(weight * self.sigma) for weight in WEIGHTS])

    def _best(self, filtered: list[Tensor]) -> Tensor:
        return min(filtered, key=lambda images: float((images - self.clean).square().mean()))
