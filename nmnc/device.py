"""Choose the device, make torch reproducible, and handle exhausted memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nmnc.errors import UserError

#: Texts in out-of-memory errors of torch's allocators: the CPU's, cuDNN's and cuBLAS's.
SHORTAGES = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def choose_device(device: str) -> torch.device:
    """Return the device; `auto` chooses a GPU if there is one. UserError for `cuda` without a GPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: unknown {device!r}; set it to auto, cpu or cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("device: cuda, but torch finds no GPU; set it to auto or cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def prepare_torch(device: str, threads: int) -> torch.device:
    """Make torch reproducible and return the device (see `choose_device`).

    TF32 is switched off because its rounding is larger than the finite differences.
    """
    # Set before CUDA starts; otherwise its matrix products may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    chosen = choose_device(device)
    if chosen.type == "cuda":  # the CPU kernels are deterministic, and this call takes seconds to import
        torch.use_deterministic_algorithms(True, warn_only=True)
    return chosen


def refuse_beyond_memory(purpose: str, needed: int, remedy: str = "use fewer or smaller images") -> None:
    """Raise UserError if `needed` bytes exceed the machine's total memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(f"{purpose}: {needed / 1e9:.3g} GB of memory needed, {memory / 1e9:.3g} GB available; {remedy}")


@contextmanager
def memory_of(device: torch.device, activity: Callable[[], str]) -> Iterator[None]:
    """Context manager: turn exhausted memory into a UserError.

    Args:
        device: the device that computes.
        activity: returns what the program was doing; called only on an error.

    Raises:
        UserError: the memory is exhausted.
    """
    try:
        yield
    except (
        RuntimeError,
        MemoryError,
    ) as error:  # torch.OutOfMemoryError is a RuntimeError; on the CPU it is a plain one
        if isinstance(error, RuntimeError) and not any(shortage in str(error) for shortage in SHORTAGES):
            raise
        raise UserError(
            f"{activity()}: the memory of the {'GPU' if device.type == 'cuda' else 'machine'} is exhausted; lower "
            "training.batch_size, noise.images or noise.basis_images, or choose a smaller network, then run again"
        ) from None
