"""Defines the metrics of denoising, of the model and of plain filters.

N images, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from aemodels.evaluation.denoising import NOISES
from aemodels.evaluation.evidence import Evidence
from aemodels.evaluation.metrics.held_out import peak_signal_to_noise, structural_similarity
from aemodels.evaluation.metrics.table import Metric

METHODS = {  # what is compared with the clean images, and how it was made
    "noisy": ("the noisy images", ""),
    "denoised": ("the model's denoised images", ""),
    "median": ("a median filter's images", " (the better window of 3 and 5 pixels)"),
    "total_variation": ("the images of total-variation denoising", " (the best weight of three)"),
}
MEASURES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str, str]] = {
    "psnr": (peak_signal_to_noise, "dB", "peak signal-to-noise ratio"),
    "ssim": (structural_similarity, "at most 1", "structural similarity"),
}


def _measured(method: str, measure: str, sigma: float, evidence: Evidence) -> float:
    trial = evidence.denoising[sigma]
    return float(MEASURES[measure][0](getattr(trial, method), trial.clean).double().mean())


DENOISING = {
    f"{method}_{measure}_{sigma}": Metric(
        partial(_measured, method, measure, sigma),
        ("denoising",),
        MEASURES[measure][1],
        "maximize" if method == "denoised" else None,
        f"how close {METHODS[method][0]} are to the clean ones",
        f"It is the mean {MEASURES[measure][2]} of {''.join(METHODS[method])} with the clean ones, for the split's "
        f"first 200 images. The noise is Gaussian with standard deviation {sigma} on pixels in [0, 1], cut off at "
        "black and white, whatever corruption the model was trained with.",
        fitted=True,
    )
    for sigma in NOISES
    for measure in MEASURES
    for method in METHODS
}
