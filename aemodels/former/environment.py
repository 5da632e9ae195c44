"""The module is `aemodels.runtime.environment` now."""

from aemodels.runtime.environment import device_name

__all__ = ["device_name"]
