"""The module is `aemodels.runtime.devices` now."""

from aemodels.runtime.devices import best_device

__all__ = ["best_device"]
