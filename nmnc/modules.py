"""Find the user's code, named MODULE:FUNCTION, run it safely, and detect changes of it.

Only a study or a command line may name such code; no file that is read does (see `nmnc.training.checkpoint`).
"""

import hashlib
import importlib
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from nmnc.errors import UserError, did_you_mean, in_one_line
from nmnc.sections import LIBRARIES


@contextmanager
def running_users_code(place: str, advice: str = "") -> Iterator[None]:
    """Context manager: run the user's code so that it cannot end the process or change later results.

    Exceptions, SystemExit included, become a UserError, and output goes to stderr. Afterwards the working directory and
    torch's settings (dtype, threads, gradients, determinism) are restored. Inside, random numbers of `random` and numpy
    are seeded by torch's seed; outside, they are not affected.

    Args:
        place: start of the error, e.g. "network mine:net cannot be built".
        advice: end of the error, e.g. "; fix it".

    Raises:
        UserError: the code raised an exception; its own UserErrors pass unchanged.
    """
    import torch

    settings = _torch_settings()
    before = [read() for read, _ in settings]
    device, folder = torch.get_default_device(), Path.cwd()
    try:
        with redirect_stdout(sys.stderr), _repeatable_numbers():
            yield
    except UserError:
        raise
    except BaseException as error:
        raise UserError(f"{place}: {in_one_line(error)}{advice}") from error
    finally:
        for value, (read, write) in zip(before, settings, strict=True):
            if read() != value:
                write(value)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        os.chdir(folder)


@contextmanager
def _repeatable_numbers() -> Iterator[None]:
    """Context manager: seed the generators of Python and numpy by torch's seed, then restore them."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(torch.initial_seed())
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _torch_settings() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return a reader and a writer for each torch setting that affects results."""
    import torch

    def flag(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)

    return [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(
            (
                lambda kind=kind: torch.is_autocast_enabled(kind),
                lambda on, kind=kind: torch.set_autocast_enabled(kind, on),
            )
            for kind in ("cpu", "cuda")
        ),
        # A subnormal number reads as 0 if subnormal numbers are flushed.
        (lambda: (torch.full((), 1e-42, device="cpu") * 1).item() == 0, torch.set_flush_denormal),
        flag(torch.backends.cudnn, "benchmark"),
        flag(torch.backends.cudnn, "deterministic"),
        flag(torch.backends.mkldnn, "enabled"),
    ]


def import_function(reference: str, place: str) -> Callable[..., Any]:
    """Return the function MODULE:FUNCTION; modules of the working directory are found too.

    While the module is imported, torch's random numbers are those of seed 0; afterwards the state is restored, so that
    later draws do not depend on when the import happened.

    Args:
        reference: MODULE:FUNCTION, named by a study or a command line.
        place: start of errors.

    Raises:
        UserError: the module cannot be imported, or has no such function.
    """
    import torch

    module_name, _, name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    generator = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(0)  # not torch.manual_seed, which would seed GPUs too
        with running_users_code(
            f"{place}: importing {module_name} failed", "; fix it, or put its folder on PYTHONPATH"
        ):
            module = importlib.import_module(module_name)
            function = getattr(module, name, None)
            if not callable(function):
                known = [
                    candidate
                    for candidate, value in vars(module).items()
                    if callable(value) and not candidate.startswith("_")
                ]
                raise UserError(f"{place}: module {module_name} has no function {name!r}{did_you_mean(name, known)}")
            return function
    finally:
        torch.set_rng_state(generator)


def module_files(reference: str) -> list[Path]:
    """Return the files that importing MODULE of MODULE:FUNCTION runs, those of its packages first.

    Nothing is imported. The list is empty if the module is not found, and for anything but MODULE:FUNCTION;
    torchvision:NAME and timm:NAME are identified by the version of the library.
    """
    module, is_function, _ = reference.partition(":")
    if not is_function or module in LIBRARIES:
        return []
    files: list[Path] = []
    search_path = [str(Path.cwd()), *sys.path]
    for part in module.split("."):
        # The last part of the name is looked up alone: for a.b, Python would import a.
        spec = PathFinder.find_spec(part, search_path)
        if spec is None:
            return []
        if spec.has_location and spec.origin:
            files.append(Path(spec.origin))
        search_path = list(spec.submodule_search_locations or [])
    return files


def code_sha256(module: Any, reference: str = "") -> str:
    """Return the hex SHA-256 over a torch module's structure and the files that define its classes, torch's excluded.

    Args:
        module: a torch module.
        reference: the MODULE:FUNCTION that built it, whose files are included.
    """
    files = set(module_files(reference))
    for kind in {type(part) for part in module.modules()}:
        if not kind.__module__.startswith("torch."):
            try:
                files.add(Path(inspect.getfile(kind)))
            except (TypeError, OSError):
                continue  # no file: defined interactively or compiled; the structure has to suffice
    digest = hashlib.sha256(repr(module).encode())
    for content in sorted(path.read_bytes() for path in files):
        digest.update(content)
    return digest.hexdigest()
