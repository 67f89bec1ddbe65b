"""Weights that others published: found in a file, checked, and laid into a network; no file ever runs code."""

import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nmnc.errors import UserError
from nmnc.modules import running_users_code

#: Parts of names that torch's own wrappers (compile, FSDP, activation checkpointing) put in; left out anywhere.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
#: Last parts of names that are counters of thop and of torch's AveragedModel, and no weights; left out.
COUNTERS = {"total_ops", "total_params", "n_averaged"}
#: Keys of a second copy of the weights, averaged over the training.
AVERAGED = re.compile(r"(^|[^a-z])(ema|swa|polyak|shadow|averaged?|avg)([^a-z]|$)")
#: First bytes of files that are taken for weights, and what they are.
FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights; fetch them with git lfs pull"),
    (b"<", "a web page or XML, not the weights; download the file itself"),
    (b"{", "JSON text, not the weights; if it is the index of sharded weights, save them as one file"),
    (b"\x1f\x8b", "compressed by gzip; decompress it"),
    (b"BZh", "compressed by bzip2; decompress it"),
    (b"\xfd7zXZ", "compressed by xz; decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; decompress it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"\x89HDF", "HDF5, as Keras writes it; save a state dict of torch"),
    (b"GGUF", "a GGUF file; save a state dict of torch"),
    (b"\x93NUMPY", "a NumPy array; save a state dict of torch"),
)
SHOWN = 8


def load_plain(path: Path, what: str, advice: str) -> Any:
    """Return the content of a torch or safetensors file as tensors and plain data, on the CPU.

    Args:
        path: the file.
        what: what errors say that it is, before the reason, e.g. "not weights that torch loads".
        advice: what they say to do.

    Raises:
        UserError: no file, not such a file (says what it looks like), or more than plain data (says what it asks for).
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder; name the file in it' if path.is_dir() else 'no such file; fix the path'}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix that") from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch comments on a foreign file before it refuses it
        try:
            head, size = file.read(2**12), file.seek(0, 2)
            file.seek(0)
            if not size:
                raise ValueError("it is empty")
            _refuse_foreign(head, size, path)
            if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
                return _load_safetensors(path)
            return torch.load(file, map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:  # of many kinds for a damaged file
            raise UserError(f"{path}: {what} ({_reason(error)}); {advice}") from None


def _refuse_foreign(head: bytes, size: int, path: Path) -> None:
    """UserError where a file's first bytes tell that it is not torch's, or that it unpacks to more than it is."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for first, words in FOREIGN:
        if start.startswith(first):
            raise UserError(f"{path}: {words}")
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 4 * size + 2**20:
                raise UserError(f"{path}: compressed, which torch does not do; unpack it, or save it with torch.save")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: a safetensors file; install the package safetensors to read it") from None
    return load_file(path)


def _reason(error: Exception) -> str:
    """Return torch's reason, whole but in one line and without its advice to run what the file asks for."""
    text = re.sub(r"\x1b\[\d*m", "", " ".join(str(error).split()))
    if "TorchScript archive" in text:
        return "a TorchScript archive, which holds code"
    text = text.rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation of torch.load")[0]
    advice = r"weights_only|safe_globals|trusted source|Please file"
    kept = [sentence for sentence in re.split(r"(?<=\.) ", text) if not re.search(advice, sentence)]
    return " ".join(kept).strip(" .")[:1000] or type(error).__name__


def fill(module: nn.Module, path: Path, source: str, key: str = "") -> None:
    """Load the state dict in a file into a network: every weight, by its name, of the same shape.

    The state dict may lie below keys, and its names may begin with more parts than the network's.

    Args:
        module: the network; float32.
        path: written by torch.save, or safetensors.
        source: what errors call the network.
        key: of the state dict where there are several: names joined by ".", as errors list them.

    Raises:
        UserError: unreadable, no state dict or several that fit, names, shapes or types that do not fit.
    """
    if not path.exists():
        raise UserError(f"{path}: no such weights for {source}; fix --weights")
    what, advice = "not weights that torch loads as plain data", "save the network's state_dict() alone with torch.save"
    content = load_plain(path, what, advice)
    own = module.state_dict(keep_vars=True)
    for name, tensor in own.items():
        check_stored(f"{source}: {name!r}", tensor)
    weights = _fitted(_state_dict(content, path, source, own, key), own)
    for name in sorted(weights.keys() & own.keys()):
        _check_type(f"{path}: weights do not fit {source}: {name!r}", weights[name], own[name])
    shared = _shared(own)
    for pair in shared:
        if weights.keys() >= set(pair) and not torch.equal(*(weights[name].float() for name in pair)):
            raise UserError(f"{path}: {pair[0]!r} and {pair[1]!r} differ, but are one tensor in {source}; fix the file")
    # Not the bare sets of keys: torch and the network itself forgive and rename what older files have.
    with running_users_code(f"{path}: weights do not fit {source}"):
        result = module.load_state_dict(weights, strict=False)
    there = {name for pair in shared if weights.keys() & set(pair) for name in pair}
    kinds = {"missing": [name for name in result.missing_keys if name not in there]}
    kinds["unexpected"] = result.unexpected_keys
    wrong = [
        f"{len(names)} {kind}, first {', '.join(repr(name) for name in names[:2])}"
        for kind, names in kinds.items()
        if names
    ]
    if wrong:
        where = "" if _is_state_dict(content) else f" (keys of the file: {_keys(content)})"
        advice = "fix --weights, --weights-key or --arguments"
        raise UserError(f"{path}: weights do not fit {source}: {'; '.join(wrong)}{where}; {advice}")
    floats = [(weights[name].dtype, own[name].dtype) for name in weights.keys() & own.keys() if _is_inexact(own[name])]
    converted = sorted({str(dtype)[6:] for dtype, wanted in floats if dtype != wanted})
    if converted:
        say_once(f"{path}: {', '.join(converted)} weights, converted to float32")


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _keys(content: Any) -> str:
    """The first keys of what a file holds, for errors."""
    if not isinstance(content, Mapping):
        return f"none, it holds a {type(content).__name__}"
    names = [repr(key)[:60] for key in islice(content, SHOWN)]
    return ", ".join(names) + (f" and {len(content) - SHOWN} more" if len(content) > SHOWN else "") or "none"


def _places(content: Any, place: str = "", levels: int = 6) -> Iterator[tuple[str, Any]]:
    """(key, value) of every mapping by names, and of every list, inside `content`; keys joined by "."."""
    yield place, content
    if levels and isinstance(content, Mapping) and not _is_state_dict(content):
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping | list | tuple):
                yield from _places(value, f"{place}.{key}" if place else key, levels - 1)


def _state_dict(content: Any, path: Path, source: str, own: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """Return the one state dict of the file that is meant; UserError where it cannot be told."""
    chosen = _chosen(content, key) if key else content
    places = list(islice(_places(chosen), 10_000))
    found = {place: value for place, value in places if _is_state_dict(value)}
    if chosen is None or not found:
        what = f"--weights-key {key!r} names no state dict" if key else "holds no state dict"
        example = 'torch.save({"state_dict": m.state_dict()}, ...)'
        raise UserError(f"{path}: {what}; keys of the file: {_keys(content)}; save one with {example}")
    fits = {place: _overlap(weights, own) for place, weights in found.items()}
    best = max(fits, key=lambda place: fits[place])
    rivals = [place for place in found if place != best and fits[place] and 2 * fits[place] >= fits[best]]
    averaged = [place for place, value in places if AVERAGED.search(place.lower()) and _holds_weights(value)]
    if not key and not AVERAGED.search(best.lower()):
        rivals += [place for place in averaged if place not in rivals]
    rivals = [place for place in rivals if found.get(place) is not found[best]]
    if rivals:
        names = ", ".join(repr(f"{key}.{place}" if key else place) for place in [best, *rivals][:SHOWN])
        raise UserError(
            f"{path}: several sets of weights for {source}: {names}; choose one with --weights-key "
            "(in a study: weights_key)"
        )
    return dict(found[best])


def _chosen(content: Any, key: str) -> Any:
    """What lies at `key`: below keys joined by ".", or the weights whose names begin with it; None for neither."""
    if not isinstance(content, Mapping):
        return None
    if key in content:
        return content[key]
    for name, value in content.items():
        if isinstance(name, str) and key.startswith(f"{name}.") and isinstance(value, Mapping):
            inner = _chosen(value, key[len(name) + 1 :])
            if inner is not None:
                return inner
    if _is_state_dict(content):
        return {name[len(key) + 1 :]: value for name, value in content.items() if name.startswith(f"{key}.")} or None
    return None


def _holds_weights(value: Any) -> bool:
    """Whether a mapping or list holds a tensor of several numbers, itself or one level below."""
    items = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [])
    items += [inner for item in items if isinstance(item, list | tuple) for inner in item]
    return any(isinstance(item, Tensor) and item.numel() > 1 for item in items)


def _overlap(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    """How many of the network's weights are there by name and shape."""
    fitted = _fitted(weights, own)
    return sum(name in fitted and fitted[name].shape == tensor.shape for name, tensor in own.items())


def _fitted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the network's names: without wrappers, counters, and the first parts that the network lacks.

    First parts (module., model., backbone., in any order) are dropped where most names then are the network's; what
    does not begin with them, or would be named twice, keeps its own name.
    """
    names = {_unwrapped(name): name for name in own}
    if all(name.startswith("module.") for name in names):  # the network is wrapped as data-parallel itself
        names = {name.removeprefix("module."): whole for name, whole in names.items()}
    counts: dict[str, int] = {}
    for name in map(_unwrapped, weights):
        parts = name.split(".")
        for number in range(len(parts)):
            if ".".join(parts[number:]) in names:
                first = "".join(f"{part}." for part in parts[:number])
                counts[first] = counts.get(first, 0) + 1
    first = max(counts, key=lambda one: (counts[one], -len(one)), default="")
    fitted: dict[str, Tensor] = {}
    for whole, tensor in weights.items():
        name = _unwrapped(whole)
        inner = name.removeprefix(first)
        target = names.get(inner, inner) if name.startswith(first) else whole
        if target not in own and name.rpartition(".")[2] in COUNTERS:
            continue
        fitted[target if target not in fitted else whole] = tensor
    return fitted


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _shared(own: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of names of one and the same tensor of the network: files may hold it under one name only."""
    first: dict[int, str] = {}
    for name, tensor in own.items():
        first.setdefault(id(tensor), name)
    return [(first[id(tensor)], name) for name, tensor in own.items() if first[id(tensor)] != name]


def _check_type(place: str, tensor: Tensor, own: Tensor) -> None:
    """UserError where a tensor of a file is not one that its place in the network takes."""
    if tensor.shape != own.shape:
        shapes = f"{tuple(tensor.shape)} in the file, {tuple(own.shape)} in the network"
        raise UserError(f"{place} is {shapes}; fix --weights or --arguments")
    dtype = str(tensor.dtype)[6:]
    usual = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    fits = tensor.dtype in usual if own.dtype in usual else not _is_inexact(tensor) and not _is_inexact(own)
    if tensor.dtype != own.dtype and not fits:
        raise UserError(f"{place} is {dtype} in the file, {str(own.dtype)[6:]} in the network; save float weights")
    check_stored(place, tensor)


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def check_stored(place: str, tensor: Any) -> None:
    """UserError where an entry of a state dict is not a plain tensor with values."""
    if not isinstance(tensor, Tensor):
        raise UserError(
            f"{place} is a {type(tensor).__name__}, not a tensor; quantised networks are not read, give float"
        )
    form = (
        "not initialised; pass an image through the network once" if is_lazy(tensor)
        else "without values (device meta)" if tensor.is_meta
        else "quantised; give float weights" if tensor.is_quantized
        else f"sparse or nested ({tensor.layout}); give dense weights" if tensor.layout != torch.strided
        else ""
    )  # fmt: skip
    if form:
        raise UserError(f"{place} is {form}")


def check_values(module: nn.Module, place: str) -> None:
    """Refuse weights that no result can come from.

    Infinity is allowed in buffers, where masks have it, but not in running statistics.

    Raises:
        UserError: an entry of the state dict that is no plain tensor, NaN, or an infinite weight; names it.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in module.state_dict(keep_vars=True).items():
        check_stored(f"{place}: {name!r}", tensor)
        if not _is_inexact(tensor) or bool(tensor.isfinite().all()):
            continue
        if name in parameters or "running_" in name or bool(tensor.isnan().any()):
            raise UserError(f"{place}: {name!r} holds NaN or infinity; use weights of a network that was trained well")


def as_float32(module: Any, place: str) -> Any:
    """Convert a network's weights and buffers of other floating-point formats to float32, in place, and say so once."""
    tensors = [*module.parameters(), *module.buffers()]
    others = {str(one.dtype)[6:] for one in tensors if one.is_floating_point() and one.dtype != torch.float32}
    if others:
        say_once(f"{place}: {', '.join(sorted(others))} weights, converted to float32")
        module.float()
    return module


@cache
def say_once(text: str) -> None:
    """Print one line to stderr, the same one only once in a process."""
    print(text, file=sys.stderr)
