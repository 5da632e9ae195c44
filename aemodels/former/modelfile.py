"""The module is `aemodels.checkpoints.model_files` now."""

from aemodels.checkpoints.model_files import CHECKSUMS, check_registered, load_network

__all__ = ["CHECKSUMS", "check_registered", "load_network"]
