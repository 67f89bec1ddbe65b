"""Brain-Score as a library: imported late, with its switches set, without touching the user's machine."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

#: Read by Brain-Score when it is imported or run. Without the first, loading a plug-in calls pip; its caches
#: know a model by its name only; its check of memory needs a calibration of its own. What the user set stays.
SWITCHES = {"BS_INSTALL_DEPENDENCIES": "no", "RESULTCACHING_DISABLE": "1", "BRAINSCORE_SKIP_MEMORY_CHECK": "1"}


def prepare() -> None:
    """Set the switches and import brainscore_vision (5 s the first time)."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import brainscore_vision  # noqa: F401


@contextmanager
def brainscore(home: Path) -> Iterator[None]:
    """Context manager: Brain-Score ready to load data and to score.

    Args:
        home: folder of its data files, HOME/<sha1>/<filename>. Brain-Score reads this folder, and that of the images
            that it pads or crops, from the environment only once, so they are set where it keeps them. The images'
            folder is a temporary one: two processes would delete each other's.
    """
    prepare()
    from brainscore_core.supported_data_standards.brainio import fetch
    from brainscore_vision.benchmark_helpers import screen

    before = fetch._local_data_path, screen.root_path
    with TemporaryDirectory(prefix="brainscore-screen-") as folder, _their_warnings():
        fetch._local_data_path, screen.root_path = str(home), Path(folder)
        try:
            yield
        finally:
            fetch._local_data_path, screen.root_path = before


@contextmanager
def _their_warnings() -> Iterator[None]:
    """Silence warnings of Brain-Score and its xarray about their internals."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "Pandas doesn't allow columns", UserWarning)
        yield
