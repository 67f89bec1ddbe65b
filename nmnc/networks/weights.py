"""Load published weights from a file into a network, after checking them; no file ever runs code."""

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

#: Parts of names that torch's wrappers (compile, FSDP, activation checkpointing) insert; removed anywhere.
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
#: Last parts of names of counters (thop, torch's AveragedModel), which are not weights; skipped.
COUNTERS = {"total_ops", "total_params", "n_averaged"}
#: Keys of a second copy of the weights, averaged over the training.
AVERAGED = re.compile(r"(^|[^a-z])(ema|swa|polyak|shadow|averaged?|avg)([^a-z]|$)")
#: First bytes of files that are often mistaken for weights, and what the files are.
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
        what: the problem, for errors, before the reason, e.g. "not weights that torch loads".
        advice: what to do, for errors.

    Raises:
        UserError: missing, not such a file (the message says what it looks like), or more than plain data.
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
        except Exception as error:  # a damaged file raises many kinds of errors
            raise UserError(f"{path}: {what} ({_reason(error)}); {advice}") from None


def _refuse_foreign(head: bytes, size: int, path: Path) -> None:
    """Raise UserError if the first bytes are of another kind of file, or a zip archive is compressed."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for first, description in FOREIGN:
        if start.startswith(first):
            raise UserError(f"{path}: {description}")
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
    """Return torch's reason in one line, without its advice to run the code that the file asks for."""
    text = re.sub(r"\x1b\[\d*m", "", " ".join(str(error).split()))
    if "TorchScript archive" in text:
        return "a TorchScript archive, which contains code"
    text = text.rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation of torch.load")[0]
    advice = r"weights_only|safe_globals|trusted source|Please file"
    sentences = [sentence for sentence in re.split(r"(?<=\.) ", text) if not re.search(advice, sentence)]
    return " ".join(sentences).strip(" .")[:1000] or type(error).__name__


def fill(module: nn.Module, path: Path, source: str, key: str = "") -> None:
    """Load a state dict from a file into a network; every weight must match by name and shape.

    The state dict may be nested below keys, and its names may have a longer prefix than the network's.

    Args:
        module: the network, float32.
        path: a file of torch.save or safetensors.
        source: name of the network in errors.
        key: key of the state dict if the file has several; nested keys joined by ".", as errors list them.

    Raises:
        UserError: unreadable, no state dict or several that fit, names, shapes or types that do not fit.
    """
    if not path.exists():
        raise UserError(f"{path}: no such weights for {source}; fix --weights")
    what, advice = "not weights that torch loads as plain data", "save the network's state_dict() alone with torch.save"
    content = load_plain(path, what, advice)
    required = module.state_dict(keep_vars=True)
    for name, tensor in required.items():
        check_stored(f"{source}: {name!r}", tensor)
    weights = _fitted(_state_dict(content, path, source, required, key), required)
    for name in sorted(weights.keys() & required.keys()):
        _check_type(f"{path}: weights do not fit {source}: {name!r}", weights[name], required[name])
    shared = _shared(required)
    for pair in shared:
        if weights.keys() >= set(pair) and not torch.equal(*(weights[name].float() for name in pair)):
            raise UserError(f"{path}: {pair[0]!r} and {pair[1]!r} differ, but are one tensor in {source}; fix the file")
    # torch compares the names, because networks may rename or ignore keys of older files while loading.
    with running_users_code(f"{path}: weights do not fit {source}"):
        result = module.load_state_dict(weights, strict=False)
    shared_names = {name for pair in shared if weights.keys() & set(pair) for name in pair}
    kinds = {"missing": [name for name in result.missing_keys if name not in shared_names]}
    kinds["unexpected"] = result.unexpected_keys
    wrong = [
        f"{len(names)} {kind}, first {', '.join(repr(name) for name in names[:2])}"
        for kind, names in kinds.items()
        if names
    ]
    if wrong:
        listing = "" if _is_state_dict(content) else f" (keys of the file: {_keys(content)})"
        advice = "fix --weights, --weights-key or --arguments"
        raise UserError(f"{path}: weights do not fit {source}: {'; '.join(wrong)}{listing}; {advice}")
    floats = [
        (weights[name].dtype, required[name].dtype)
        for name in weights.keys() & required.keys()
        if _is_inexact(required[name])
    ]
    converted = sorted({str(dtype)[6:] for dtype, required_dtype in floats if dtype != required_dtype})
    if converted:
        say_once(f"{path}: {', '.join(converted)} weights, converted to float32")


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _keys(content: Any) -> str:
    """Return the first keys of a file's content, for errors."""
    if not isinstance(content, Mapping):
        return f"none, it contains a {type(content).__name__}"
    names = [repr(key)[:60] for key in islice(content, SHOWN)]
    return ", ".join(names) + (f" and {len(content) - SHOWN} more" if len(content) > SHOWN else "") or "none"


def _places(content: Any, place: str = "", levels: int = 6) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of every nested mapping and list in `content`; nested keys are joined by "."."""
    yield place, content
    if levels and isinstance(content, Mapping) and not _is_state_dict(content):
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping | list | tuple):
                yield from _places(value, f"{place}.{key}" if place else key, levels - 1)


def _state_dict(content: Any, path: Path, source: str, required: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """Return the state dict to load; UserError if the file has none, or several candidates."""
    chosen = _chosen(content, key) if key else content
    places = list(islice(_places(chosen), 10_000))
    found = {place: value for place, value in places if _is_state_dict(value)}
    if chosen is None or not found:
        what = f"--weights-key {key!r} names no state dict" if key else "contains no state dict"
        example = 'torch.save({"state_dict": m.state_dict()}, ...)'
        raise UserError(f"{path}: {what}; keys of the file: {_keys(content)}; save one with {example}")
    fits = {place: _overlap(weights, required) for place, weights in found.items()}
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
    """Return the value at `key` (nested keys joined by "."), or the weights with that prefix, else None."""
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
    """Return whether a mapping or list contains a tensor of several numbers, directly or one level below."""
    items = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [])
    items += [inner for item in items if isinstance(item, list | tuple) for inner in item]
    return any(isinstance(item, Tensor) and item.numel() > 1 for item in items)


def _overlap(weights: Mapping[str, Tensor], required: Mapping[str, Tensor]) -> int:
    """Return how many of the network's weights match by name and shape."""
    fitted = _fitted(weights, required)
    return sum(name in fitted and fitted[name].shape == tensor.shape for name, tensor in required.items())


def _fitted(weights: Mapping[str, Tensor], required: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the network's names: without wrappers, counters and prefixes the network lacks.

    The prefix (module., model., backbone., in any order) that makes most names match is removed. Names without it, and
    names that would then occur twice, are kept as they are.
    """
    names = {_unwrapped(name): name for name in required}
    if all(name.startswith("module.") for name in names):  # the network itself is wrapped as data-parallel
        names = {name.removeprefix("module."): full_name for name, full_name in names.items()}
    counts: dict[str, int] = {}
    for name in map(_unwrapped, weights):
        parts = name.split(".")
        for number in range(len(parts)):
            if ".".join(parts[number:]) in names:
                first = "".join(f"{part}." for part in parts[:number])
                counts[first] = counts.get(first, 0) + 1
    first = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
    fitted: dict[str, Tensor] = {}
    for full_name, tensor in weights.items():
        name = _unwrapped(full_name)
        inner = name.removeprefix(first)
        target = names.get(inner, inner) if name.startswith(first) else full_name
        if target not in required and name.rpartition(".")[2] in COUNTERS:
            continue
        fitted[target if target not in fitted else full_name] = tensor
    return fitted


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _shared(required: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return pairs of names that share a tensor in the network; files may contain only one of the two."""
    first: dict[int, str] = {}
    for name, tensor in required.items():
        first.setdefault(id(tensor), name)
    return [(first[id(tensor)], name) for name, tensor in required.items() if first[id(tensor)] != name]


def _check_type(place: str, tensor: Tensor, required: Tensor) -> None:
    """Raise UserError if a tensor of the file has another shape or kind of dtype than the network requires."""
    if tensor.shape != required.shape:
        shapes = f"{tuple(tensor.shape)} in the file, {tuple(required.shape)} in the network"
        raise UserError(f"{place} is {shapes}; fix --weights or --arguments")
    dtype = str(tensor.dtype)[6:]
    usual = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    fits = tensor.dtype in usual if required.dtype in usual else not _is_inexact(tensor) and not _is_inexact(required)
    if tensor.dtype != required.dtype and not fits:
        raise UserError(f"{place} is {dtype} in the file, {str(required.dtype)[6:]} in the network; save float weights")
    check_stored(place, tensor)


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def check_stored(place: str, tensor: Any) -> None:
    """Raise UserError if an entry of a state dict is not a dense, initialised tensor."""
    if not isinstance(tensor, Tensor):
        raise UserError(
            f"{place} is a {type(tensor).__name__}, not a tensor; quantised networks cannot be read, save float weights"
        )
    form = (
        "not initialised; pass an image through the network once" if is_lazy(tensor)
        else "without values (device meta)" if tensor.is_meta
        else "quantised; save float weights" if tensor.is_quantized
        else f"sparse or nested ({tensor.layout}); save dense weights" if tensor.layout != torch.strided
        else ""
    )  # fmt: skip
    if form:
        raise UserError(f"{place} is {form}")


def check_values(module: nn.Module, place: str) -> None:
    """Refuse weights that are NaN or infinite.

    Infinity is allowed in buffers, because masks contain it, but not in running statistics.

    Raises:
        UserError: names the entry that is not a plain tensor, or is NaN or infinite.
    """
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in module.state_dict(keep_vars=True).items():
        check_stored(f"{place}: {name!r}", tensor)
        if not _is_inexact(tensor) or bool(tensor.isfinite().all()):
            continue
        if name in parameters or "running_" in name or bool(tensor.isnan().any()):
            raise UserError(f"{place}: {name!r} contains NaN or infinity; use weights whose training did not diverge")


def as_float32(module: Any, place: str) -> Any:
    """Convert floating-point weights and buffers to float32 in place, and report that once on stderr."""
    tensors = [*module.parameters(), *module.buffers()]
    other_dtypes = {
        str(tensor.dtype)[6:] for tensor in tensors if tensor.is_floating_point() and tensor.dtype != torch.float32
    }
    if other_dtypes:
        say_once(f"{place}: {', '.join(sorted(other_dtypes))} weights, converted to float32")
        module.float()
    return module


@cache
def say_once(text: str) -> None:
    """Print a line to stderr, once per process for the same text."""
    print(text, file=sys.stderr)
