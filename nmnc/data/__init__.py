"""Training and test images: data sets, folders of classes, the only decoder, augmentation."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Give `nmnc.data.load_dataset` and `nmnc.data.Dataset`, importing torch only when one is asked for.

    No import statement: what needs only the decoder does not depend on the data sets' code.
    """
    if name in ("Dataset", "load_dataset"):
        return getattr(import_module("nmnc.data.dataset"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
