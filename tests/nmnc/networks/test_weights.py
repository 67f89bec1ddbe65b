"""Published weights: every common form is loaded, value for value; anything else is one line that says what it is."""

import argparse
import gzip
import io
import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nmnc.errors import UserError
from nmnc.networks.weights import as_float32, check_values, fill, say_once

Weights = dict[str, Tensor]


def small(seed: int = 0) -> nn.Module:
    """Two layers below names, and batch norm with statistics; every value drawn from `seed`."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 2, 3), norm=nn.BatchNorm2d(2), body=nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))
    )
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return net


SAVED: Weights = dict(small(1).state_dict())
OTHER: Weights = dict(small(2).state_dict())


def below(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def middle(weights: Weights) -> Weights:
    """As torch.compile of a part of the network names it."""
    return {name.replace("body.", "body._orig_mod."): tensor for name, tensor in weights.items()}


def loaded(folder: Path, content: Any, key: str = "", net: nn.Module | None = None) -> nn.Module:
    torch.save(content, folder / "w.pth")
    net = net or small()
    fill(net, folder / "w.pth", "the net", key)
    return net


def is_saved(net: nn.Module, weights: Weights = SAVED) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


OPTIMISER = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
FORMS: dict[str, Any] = {
    "plain": SAVED,
    "ordered": OrderedDict(SAVED),
    **{key: {key: SAVED, "epoch": 3} for key in ("net", "model", "state_dict", "model_state_dict", "weights", "any")},
    "nested": {"state": {"model": {"state_dict": SAVED}}, "optimizer": OPTIMISER, "acc": torch.tensor(93.2)},
    **{first: below(first, SAVED) for first in ("module.", "_orig_mod.", "model.", "backbone.", "a.b.c.")},
    "in any order": {"net": below("module._orig_mod.model.module.", SAVED), "best": torch.ones(())},
    "compiled part": middle(below("model.", SAVED)),
    "averaged model of torch": below("module.", SAVED) | {"n_averaged": torch.tensor(5)},
    "counters of thop": SAVED | {"total_ops": torch.zeros(1), "body.total_params": torch.zeros(1)},
    "criterion beside": {"model": SAVED, "criterion": {"weight": torch.ones(3)}},
    "a number called ema": {"model": SAVED, "ema_decay": 0.9, "ema": None, "model_ema_loss": torch.ones(())},
    "only an average": {"model_ema": SAVED, "model": None},
    "old batch norm": {name: tensor for name, tensor in SAVED.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("form", FORMS)
def test_published_forms_are_loaded(form: str, tmp_path: Path) -> None:
    net = loaded(tmp_path, FORMS[form])
    own = SAVED | {"norm.num_batches_tracked": net.state_dict()["norm.num_batches_tracked"]}
    assert is_saved(net, own if form == "old batch norm" else SAVED)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_safetensors_are_known_by_their_content(suffix: str, tmp_path: Path) -> None:
    save_file(below("model.", SAVED), tmp_path / f"w.{suffix}")
    net = small()
    fill(net, tmp_path / f"w.{suffix}", "the net")
    assert is_saved(net)


class Compiled(nn.Module):
    """Names its parts as torch.compile does, without the 15 seconds that importing it takes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._orig_mod = net


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled])
def test_the_network_may_be_wrapped_itself(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    for weights in (SAVED, below("module.", SAVED)):
        inner = small()
        loaded(tmp_path, weights, net=wrap(inner))
        assert is_saved(inner)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_converted_and_it_is_said(
    dtype: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    other = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in SAVED.items()}
    net = loaded(tmp_path, other)
    assert all(torch.equal(tensor, other[name].to(tensor.dtype)) for name, tensor in net.state_dict().items())
    assert capsys.readouterr().err == f"{tmp_path}/w.pth: {str(dtype)[6:]} weights, converted to float32\n"


TWO: dict[str, tuple[Any, str]] = {
    "model and model_ema": ({"model": SAVED, "model_ema": OTHER}, "model_ema"),
    "timm": ({"state_dict": below("module.", SAVED), "state_dict_ema": below("module.", OTHER)}, "state_dict_ema"),
    "nested average": ({"model": SAVED, "ema": {"decay": 0.9, "module": OTHER}}, "ema.module"),
    "key of keys": ({"model": SAVED, "ema": {"decay": 0.9, "module": OTHER}}, "ema"),
    "student and teacher": ({"student": SAVED, "teacher": below("backbone.", OTHER)}, "teacher"),
    "dots in a key": ({"net": SAVED, "net.ema": OTHER}, "net.ema"),
    "beginnings of names": (below("model.", SAVED) | below("ema_model.", OTHER), "ema_model"),
    "beginnings below a key": ({"state_dict": below("q.", SAVED) | below("k.", OTHER)}, "state_dict.k"),
}


@pytest.mark.parametrize("form", TWO)
def test_of_two_sets_of_weights_the_user_chooses(form: str, tmp_path: Path) -> None:
    content, key = TWO[form]
    with pytest.raises(UserError, match=r"w\.pth: .*--weights-key") as caught:
        loaded(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert is_saved(loaded(tmp_path, content, key), OTHER)
    with pytest.raises(UserError, match="--weights-key 'none' names no state dict; keys of the file: "):
        loaded(tmp_path, content, "none")


@pytest.mark.parametrize(
    "average",
    [
        {"shadow_params": [torch.ones(2, 3)], "decay": 0.9},
        {"shadow": {name: tensor for name, tensor in OTHER.items() if "running" not in name}},
        [torch.ones(2, 3)],
    ],
    ids=["list", "no statistics", "bare list"],
)
def test_an_average_that_could_not_be_loaded_is_chosen_against_too(average: Any, tmp_path: Path) -> None:
    content = {"model": SAVED, "ema": average}
    with pytest.raises(UserError, match="several sets of weights for the net: 'model', 'ema"):
        loaded(tmp_path, content)
    assert is_saved(loaded(tmp_path, content, "model"))


def test_tied_weights_may_be_saved_under_one_name(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        net = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
        net.b.weight = net.a.weight
        return net

    whole = dict(tied().state_dict())
    for name in ("a.weight", "b.weight"):
        net = loaded(tmp_path, {key: tensor for key, tensor in whole.items() if key != name}, net=tied())
        assert torch.equal(net.a.weight, whole["a.weight"])
    assert torch.equal(loaded(tmp_path, whole, net=tied()).a.weight, whole["a.weight"])
    with pytest.raises(UserError, match=r"'a\.weight' and 'b\.weight' differ, but are one tensor"):
        loaded(tmp_path, whole | {"b.weight": torch.zeros(3, 3)}, net=tied())


LINEAR = "body.1.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({LINEAR: SAVED[LINEAR].char()}, rf"'{LINEAR}' is int8 in the file, float32 in the network"),
        ({LINEAR: SAVED[LINEAR].to(torch.complex64)}, rf"'{LINEAR}' is complex64 in the file"),
        ({LINEAR: SAVED[LINEAR].to(torch.float8_e4m3fn)}, rf"'{LINEAR}' is float8_e4m3fn in the file"),
        ({LINEAR: SAVED[LINEAR].bool()}, rf"'{LINEAR}' is bool in the file"),
        ({"norm.num_batches_tracked": torch.tensor(1.5)}, "num_batches_tracked' is float32 in the file, int64"),
        ({LINEAR: SAVED[LINEAR].to_sparse()}, rf"'{LINEAR}' is sparse"),
        ({LINEAR: torch.empty(3, 8, device="meta")}, rf"'{LINEAR}' is without values"),
        ({LINEAR: torch.ones(()).expand(10**12)}, rf"'{LINEAR}' is \(1000000000000,\) in the file, \(3, 8\) in"),
        ({LINEAR: torch.ones(8, 3)}, rf"'{LINEAR}' is \(8, 3\) in the file, \(3, 8\) in the network"),
        ({"extra": torch.ones(2)}, "1 unexpected, first 'extra'"),
        ({"model.conv.weight": SAVED["conv.weight"]}, "1 unexpected, first 'model.conv.weight'"),
        ({"_orig_mod.conv.weight": SAVED["conv.weight"]}, "1 unexpected, first '_orig_mod.conv.weight'"),
        ({"epoch": 3}, "contains no state dict; keys of the file: 'conv.weight', .* more; save one"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        loaded(tmp_path, SAVED | change)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"'{LINEAR}' is qint8 in the file|'{LINEAR}' is quantised"):
        loaded(tmp_path, SAVED | {LINEAR: torch.quantize_per_tensor(SAVED[LINEAR], 0.1, 0, torch.qint8)})


def test_other_weights_are_refused_with_the_keys_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"9 missing|8 missing.*keys of the file: 'net', 'acc', 'epoch'\)"):
        loaded(tmp_path, {"net": {"fc.weight": torch.ones(2)}, "acc": 93.2, "epoch": 1})
    with pytest.raises(UserError, match="contains no state dict; keys of the file: none, it contains a list"):
        loaded(tmp_path, [SAVED])


class Evil:
    """Unpickled carelessly, this makes a folder named `bitten`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bitten",)


def torch_bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def script() -> bytes:
    """What torch takes for a TorchScript archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"net/{name}", b"3\n")
    return buffer.getvalue()


def deflated() -> bytes:
    """A file of torch whose parts are compressed: it unpacks to far more than it is."""
    buffer = io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(torch_bytes({"a": torch.zeros(10**6)})))
    with whole, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    return buffer.getvalue()


PLAIN = torch_bytes(SAVED)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty"),
    "text": (lambda: b"hello\n" * 99, "as plain data"),
    "LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>", "a web page or XML"),
    "index of shards": (lambda: json.dumps({"weight_map": {"a": "1.bin"}}).encode(), "index of sharded weights"),
    "gzip": (lambda: gzip.compress(PLAIN), "compressed by gzip; decompress"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "npz": (npz, "as plain data"),
    "array": (lambda: b"\x93NUMPY" + bytes(99), "a NumPy array"),
    "TorchScript": (script, "a TorchScript archive, which contains code"),
    "deflated": (deflated, "compressed, which torch does not do"),
    "module": (lambda: torch_bytes({"model": nn.Linear(2, 2)}), "GLOBAL torch.nn.modules.linear.Linear was not"),
    "arguments": (lambda: torch_bytes({"a": argparse.Namespace()}), r"GLOBAL argparse\.Namespace was not an allowed"),
    "numpy scalar": (
        lambda: torch_bytes({"a": np.float64(1)}),
        r"GLOBAL numpy\S*\.multiarray\.scalar was not an allow",
    ),
    "code": (lambda: torch_bytes({"a": Evil()}), r"unsupported GLOBAL \w+\.mkdir whose module \w+ is blocked|mkdir"),
    "old code": (lambda: torch_bytes({"a": Evil()}, _use_new_zipfile_serialization=False), "mkdir"),
    "broken safetensors": (lambda: (20).to_bytes(8, "little") + b'{"a": 3}' + bytes(99), "as plain data"),
    "half a file": (lambda: PLAIN[: len(PLAIN) // 2], "as plain data"),
}


@pytest.mark.parametrize("form", FILES)
def test_other_files_are_refused_and_never_run(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, words = FILES[form]
    (tmp_path / "w.pth").write_bytes(make())
    with pytest.raises(UserError, match=words) as caught:
        fill(small(), tmp_path / "w.pth", "the net")
    message = str(caught.value)
    assert message.startswith(str(tmp_path))
    assert "\n" not in message
    assert "safe_globals" not in message
    assert "weights_only" not in message
    assert not Path("bitten").exists()


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder; name the file in it"):
        fill(small(), tmp_path, "the net")
    with pytest.raises(UserError, match="no such weights for the net; fix --weights"):
        fill(small(), tmp_path / "w.pth", "the net")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float) -> None:
    for name in (LINEAR, "norm.running_var"):
        net = small()
        net.state_dict()[name].view(-1)[0] = value
        with pytest.raises(UserError, match=f"w.pth: '{name}' contains NaN or infinity"):
            check_values(net, "w.pth")


def test_a_mask_of_infinities_is_no_mistake() -> None:
    net = small()
    net.register_buffer("mask", torch.full((2, 2), -torch.inf))
    check_values(net, "the net")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.LazyLinear(3), "'weight' is not initialised; pass an image"),
        (nn.Linear(2, 2, device="meta"), "'weight' is without values"),
    ],
)
def test_networks_without_values_are_refused(net: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        check_values(net, "the net")
    with pytest.raises(UserError, match=words):
        loaded(tmp_path, SAVED, net=net)


def test_networks_of_other_formats_become_float32_and_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    say_once.cache_clear()
    for _ in range(2):
        net = as_float32(small().to(torch.bfloat16), "network mine:net")
        assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}
    assert capsys.readouterr().err == "network mine:net: bfloat16 weights, converted to float32\n"
