"""Training and test images: data sets, folders of classes, the only decoder, augmentation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nmnc.data.dataset import Dataset as Dataset
    from nmnc.data.dataset import load_dataset as load_dataset


def __getattr__(name: str) -> Any:
    """`nmnc.data.load_dataset` and `nmnc.data.Dataset`; torch is imported only when one is asked for."""
    if name in ("Dataset", "load_dataset"):
        from nmnc.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
