"""Train, tune, compare, promote and use autoencoders on images.

Example:
    >>> import numpy as np, aemodels
    >>> images = np.random.default_rng(0).random((100, 8, 8))  # (N, H, W) or (N, H, W, C), from 0 to 1 or uint8
    >>> model = aemodels.fit(images, "vae", latent_dim=2, training__epochs=1)
    >>> model.sample(4).shape
    (4, 8, 8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aemodels.api import Found, Model, Settings, SettingsError, Trained, UserError, fit, load, search, train

__all__ = ["Found", "Model", "Settings", "SettingsError", "Trained", "UserError", "fit", "load", "search", "train"]

# Models that were registered before the modules had their present names bring a file that imports the former ones.
__path__ = [*__path__, f"{__path__[0]}/former"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `import aemodels` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'aemodels' has no attribute {name!r}")
    from aemodels import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
