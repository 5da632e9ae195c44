"""Says in words that memory ran out, of the device or of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aemodels.config import UserError

MAIN_MEMORY = "DefaultCPUAllocator"  # part of torch's error when main memory runs out, a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or MAIN_MEMORY in str(error)


def out_of_memory(error: BaseException) -> str:
    """Returns a sentence that says that memory ran out, with the remedy."""
    what = (str(error).rpartition(f"{MAIN_MEMORY}: ")[2] or "MemoryError").partition(". ")[0]
    other = ", or AEMODELS_DEVICE=cpu" if isinstance(error, torch.OutOfMemoryError) else ""
    return (
        f"the device's memory does not hold the model ({what}); use a smaller data.image_size, training.batch_size or "
        f"model{other}"
    )


@contextmanager
def memory_in_words() -> Iterator[None]:
    """Raises a UserError in place of an error that says that memory ran out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(out_of_memory(error)) from error
