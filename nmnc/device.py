"""Where a run is computed: choosing the device, setting torch up to repeat itself, running out of memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nmnc.errors import UserError

#: What torch's allocators say: the CPU's, cuDNN's and cuBLAS's.
SHORTAGES = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def choose_device(device: str) -> torch.device:
    """`auto` takes a GPU when there is one; UserError for `cuda` without a GPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: unknown {device!r}; give auto, cpu or cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("device: cuda was asked for but torch sees no GPU; use device: auto or cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def prepare_torch(device: str, threads: int) -> torch.device:
    """Set torch up so that a run can be repeated; returns the device (see `choose_device`).

    TF32 is switched off: a finite difference drowns in its rounding.
    """
    # Before CUDA starts, or its matrix products may differ from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    chosen = choose_device(device)
    if chosen.type == "cuda":  # on the CPU nothing we use is random, and the call imports seconds of torch
        torch.use_deterministic_algorithms(True, warn_only=True)
    return chosen


def refuse_beyond_memory(what: str, needed: int, remedy: str = "use fewer or smaller images") -> None:
    """UserError where `needed` bytes are more than all the memory of the machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(f"{what}: {needed / 1e9:.3g} GB of memory needed, {memory / 1e9:.3g} GB there; {remedy}")


@contextmanager
def memory_of(device: torch.device, where: Callable[[], str]) -> Iterator[None]:
    """Within: memory that runs out is one line of the user's.

    Args:
        device: whose memory is meant.
        where: what was being done when it ran out, asked for only then.

    Raises:
        UserError: the memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError; the CPU's has no kind
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in SHORTAGES):
            raise
        raise UserError(
            f"{where()}: the memory of the {'GPU' if device.type == 'cuda' else 'machine'} is exhausted; lower "
            "training.batch_size, noise.images or noise.basis_images, or take a smaller network, then run again"
        ) from None
