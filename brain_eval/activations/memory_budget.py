"""Number of images in memory at once, and a check that the memory is available."""

from dataclasses import dataclass

from nmnc.errors import UserError

#: Fractions of the budget for the batches, and for the two blocks of presentations: one filled, one written.
#: The rest is for the images as they are read and for buffers of the file.
FOR_BATCHES, FOR_BLOCKS = 0.5, 0.25
#: Batches of images in memory: one in the network, one being read.
BATCHES = 2


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of an extraction, independent of the number of images.

    Attributes:
        batch_size: images in a forward pass.
        block_bytes: of a block of presentations.
        needed: bytes of batches and blocks.
        images: bytes for images as they are read, before they are resized.
    """

    batch_size: int
    block_bytes: int
    needed: int
    images: int


def memory_plan(name: str, budget_gb: float, batch_size: int, image: int, forward: int, row: int) -> MemoryPlan:
    """Return the plan with the largest batch, at most `batch_size`, that fits a budget.

    Args:
        name: of the model, for the error.
        budget_gb: for batches and buffers, in addition to the process and the network's weights.
        batch_size: maximum number of images in a forward pass.
        image, forward, row: bytes per image of the preprocessed image, of the forward pass (`layer_probe.Probe`), and
            of the recorded values.

    Raises:
        UserError: the budget is too small for one image.
    """
    budget = int(budget_gb * 1e9)
    each = BATCHES * image + forward
    most = min(int(FOR_BATCHES * budget) // each, int(FOR_BLOCKS * budget) // (2 * row), batch_size)
    if most < 1:
        needed = max(each / FOR_BATCHES, 2 * row / FOR_BLOCKS)
        raise UserError(
            f"{name}: one image needs {needed / 1e9:.3g} GB of memory and {budget_gb:.3g} GB are available; raise "
            "--memory-gb, choose fewer layers or smaller images, or choose a reduction"
        )
    block = int(FOR_BLOCKS * budget) // 2
    return MemoryPlan(most, block, most * each + 2 * min(block, most * row), budget // 8)


def refuse_without_memory(
    name: str, needed: int, budget_gb: float | None = None, remedy: str = "lower --memory-gb, or end other programs"
) -> None:
    """Raise UserError if `needed` bytes exceed the free memory of the machine, or a budget."""
    import psutil

    available = psutil.virtual_memory().available
    if budget_gb is not None and needed > budget_gb * 1e9:
        raise UserError(
            f"{name}: needs {needed / 1e9:.3g} GB of memory and {budget_gb:.3g} GB are available; "
            "raise --memory-gb, or choose another reduction"
        )
    if needed > available:
        raise UserError(
            f"{name}: needs {needed / 1e9:.3g} GB of memory and {available / 1e9:.3g} GB are available; {remedy}"
        )
