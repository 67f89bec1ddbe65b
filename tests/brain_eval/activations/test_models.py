"""Models from every source: the right module, layers and weights, or one line that says what is wrong."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from brain_eval.activations.models import load_model
from nmnc.errors import UserError
from nmnc.networks import build_network
from nmnc.networks.weights import say_once
from nmnc.training.checkpoint import save_network

SEEN = '{"image_size": 8, "channels": 3, "mean": [0, 0, 0], "std": [1, 1, 1]}'
USER_MODULE = """
import torch
from torch import nn
from torch.nn import functional as F

class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.head = nn.Linear(width * 36, 5)

    def forward(self, x):
        return self.head(F.relu(self.body(self.norm(self.conv(x)))))

def small(width=4):
    return Small(width)

def broken():
    raise RuntimeError("two\\nlines")

def not_a_module():
    return 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A file of the user's in the current directory; returns its module name."""
    name = f"user_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Any, Path]:
    """A small network as the training loop saves it, and its file."""
    torch.manual_seed(3)
    network = build_network("convnet", (3, 8, 8), 4, {"channels": [2, 3], "hidden": [5]})
    path = tmp_path / "convnet" / "nmnc" / "seed1" / "network.pt"
    recipe = {"kind": "convnet", "image_shape": [3, 8, 8], "classes": 4}
    save_network(
        path,
        network,
        {
            "network": recipe | {"arguments": {"channels": [2, 3], "hidden": [5]}},
            "preprocessing": {"image_size": 8, "channels": 3, "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]},
        },
    )
    return network, path


def test_a_checkpoint_gives_its_network_stages_and_preprocessing(checkpoint: tuple[Any, Path]) -> None:
    network, path = checkpoint
    model = load_model(str(path))
    assert model.name == "convnet/nmnc/seed1"
    assert tuple(model.layers) == network.stage_names == ("conv1", "conv2", "fc1", "logits")
    assert model.preprocessing.describe().startswith("8x8 RGB, antialiased bilinear, mean 0.1 0.2 0.3, std 1.0 2.0 3.0")
    assert not model.module.training
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.module(images), network.eval()(images), rtol=0, atol=0)
    assert model.layers["fc1"] is model.module.stages[2]


def test_layers_keep_the_order_asked_for_and_may_lie_inside_a_stage(checkpoint: tuple[Any, Path]) -> None:
    model = load_model(str(checkpoint[1]), layers="logits, stages.0.0,conv1")
    assert list(model.layers) == ["logits", "stages.0.0", "conv1"]
    assert isinstance(model.layers["stages.0.0"], nn.Conv2d)


def test_preprocessing_can_be_overridden(checkpoint: tuple[Any, Path]) -> None:
    assert load_model(str(checkpoint[1]), preprocessing=SEEN).preprocessing.mean == (0, 0, 0)


def test_weights_decide_the_hash(checkpoint: tuple[Any, Path], tmp_path: Path) -> None:
    path = checkpoint[1]
    first = load_model(str(path)).weights_sha256
    content = torch.load(path, weights_only=True)
    content["state_dict"]["stages.3.1.bias"][0] += 1e-6
    torch.save(content, path)
    assert load_model(str(path)).weights_sha256 != first


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "truncated"),
        (lambda path: torch.save({"a": 1}, path), "not a network.pt"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    checkpoint: tuple[Any, Path], damage: Callable[..., Any], message: str
) -> None:
    damage(checkpoint[1])
    with pytest.raises(UserError, match=message) as error:
        load_model(str(checkpoint[1]))
    assert "\n" not in str(error.value)


def test_a_checkpoint_takes_no_weights_or_arguments(checkpoint: tuple[Any, Path]) -> None:
    for options in ({"weights": checkpoint[1]}, {"arguments": '{"width": 3}'}):
        with pytest.raises(UserError, match="contains its weights"):
            load_model(str(checkpoint[1]), **options)
    with pytest.raises(UserError, match="built by convnet, not by mine:net; fix or remove --network"):
        load_model(str(checkpoint[1]), kind="mine:net")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_networks_of_other_number_formats_become_float32(
    user_module: str, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_once.cache_clear()
    (tmp_path / f"other_{dtype}.py").write_text(
        f"import torch\nfrom {user_module} import Small\ndef net(): return Small(4).to(torch.{dtype})\n"
    )
    model = load_model(f"other_{dtype}:net", preprocessing=SEEN)
    assert capsys.readouterr().err == f"other_{dtype}:net: {dtype} weights, converted to float32\n"
    assert model.module(torch.zeros(2, 3, 8, 8)).dtype == torch.float32
    weights = load_model(f"{user_module}:small", preprocessing=SEEN).module.state_dict()
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, weights[name].to(getattr(torch, dtype)).to(tensor.dtype))


def test_of_several_sets_of_weights_one_is_chosen(user_module: str, tmp_path: Path) -> None:
    other, ema = (load_model(f"{user_module}:small", preprocessing=SEEN).module.state_dict() for _ in range(2))
    ema["head.bias"] += 1
    torch.save({"model": other, "model_ema": ema}, tmp_path / "w.pt")
    options = {"weights": tmp_path / "w.pt", "preprocessing": SEEN}
    with pytest.raises(UserError, match="'model', 'model_ema'; choose one with --weights-key"):
        load_model(f"{user_module}:small", **options)
    chosen = load_model(f"{user_module}:small", weights_key="model_ema", **options)
    assert torch.equal(chosen.module.head.bias, ema["head.bias"])
    with pytest.raises(UserError, match="chooses from a file; set --weights FILE too"):
        load_model(f"{user_module}:small", weights_key="model", preprocessing=SEEN)


def test_a_function_of_the_users_is_found_in_the_current_directory(user_module: str) -> None:
    model = load_model(f"{user_module}:small", arguments='{"width": 6}', preprocessing=SEEN)
    assert model.name == f"{user_module}:small"
    assert list(model.layers) == ["conv", "norm", "body", "head"]
    assert model.layers["conv"].out_channels == 6
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.module(images), model.module(images), rtol=0, atol=0)  # dropout is off


def test_initial_weights_are_the_same_every_time_and_leave_the_random_state_alone(user_module: str) -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first = load_model(f"{user_module}:small", preprocessing=SEEN)
    assert torch.rand(1) == expected
    assert load_model(f"{user_module}:small", preprocessing=SEEN).weights_sha256 == first.weights_sha256


@pytest.mark.parametrize("form", ["plain", "nested", "parallel", "old batch norm"])
def test_weights_are_loaded_in_every_common_form(user_module: str, tmp_path: Path, form: str) -> None:
    source = load_model(f"{user_module}:small", preprocessing=SEEN).module
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    weights = dict(source.state_dict())
    if form == "old batch norm":  # files from before torch 0.4.1
        del weights["norm.num_batches_tracked"]
    if form == "parallel":
        weights = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": weights, "epoch": 3} if form in ("nested", "parallel") else weights, tmp_path / "w.th")
    model = load_model(f"{user_module}:small", weights=tmp_path / "w.th", preprocessing=SEEN)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.module(images), source(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), r"1 missing, first 'head.bias'"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 unexpected, first 'extra'"),
        (lambda w: w.update({"head.bias": torch.zeros(6)}), r"'head.bias' is \(6,\) in the file, \(5,\) in the"),
        (lambda w: w.clear(), "contains no state dict"),
        (lambda w: w.update(a=3), "contains no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    user_module: str, tmp_path: Path, change: Callable[..., Any], message: str
) -> None:
    weights = dict(load_model(f"{user_module}:small", preprocessing=SEEN).module.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(UserError, match=message) as error:
        load_model(f"{user_module}:small", weights=tmp_path / "w.pt", preprocessing=SEEN)
    assert "\n" not in str(error.value)


def test_weights_cut_off_anywhere_are_refused(user_module: str, tmp_path: Path) -> None:
    torch.save(load_model(f"{user_module}:small", preprocessing=SEEN).module.state_dict(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    for length in (0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w.pt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"w\.pt: not weights that torch loads as plain data") as error:
            load_model(f"{user_module}:small", weights=tmp_path / "w.pt", preprocessing=SEEN)
        assert "\n" not in str(error.value)


def test_weights_that_hold_code_are_never_run(user_module: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"GLOBAL io\.open was not an allowed global"):
        load_model(f"{user_module}:small", weights=tmp_path / "w.pt", preprocessing=SEEN)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("{}:smal", {}, "no function 'smal'; did you mean 'small'"),
        ("{}_x:small", {}, "importing .*_x failed: ModuleNotFoundError"),
        ("{}:broken", {}, "failed: RuntimeError: two lines"),
        ("{}:not_a_module", {}, "returned int"),
        ("{}:small", {"arguments": '{"depth": 3}'}, "TypeError: .*'depth'"),
        ("{}:small", {"arguments": "width=3"}, "--arguments: not JSON"),
        ("{}:small", {"arguments": "[3]"}, "not a JSON object; write"),
        ("{}:small", {"layers": "cnov"}, "no layer 'cnov'; did you mean 'conv'"),
        ("{}:small", {"layers": "xyz"}, "no layer 'xyz'; known: body, conv, head, norm"),
        ("{}:small", {"preprocessing": ""}, "preprocessing is missing; set it"),
        ("torchvision:resnet19", {}, "no such model; did you mean 'resnet1"),
        ("torchvision:xyzxyz", {}, "list_models"),
        ("pixels", {"arguments": '{"a": 1}'}, "takes no arguments"),
        ("pixels", {"layers": "conv1"}, "no layer 'conv1'; known: pixels"),
        ("network.pt", {}, "no such file"),
    ],
)
def test_mistakes_are_one_line(user_module: str, source: str, options: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_model(source.format(user_module), **({"preprocessing": SEEN} | options))
    assert "\n" not in str(error.value)


def test_missing_weights_are_named(user_module: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights"):
        load_model(f"{user_module}:small", weights=tmp_path / "none.pt", preprocessing=SEEN)


def test_the_code_hash_sees_what_structure_and_weights_do_not(user_module: str, tmp_path: Path) -> None:
    source = f"{user_module}:small"
    before = load_model(source, preprocessing=SEEN)
    path = tmp_path / f"{user_module}.py"
    path.write_text(path.read_text().replace("F.relu", "F.gelu"))
    after = load_model(source, preprocessing=SEEN)
    assert repr(before.module) == repr(after.module)
    assert before.weights_sha256 == after.weights_sha256
    assert before.code_sha256 != after.code_sha256


def test_pixels_are_the_images_themselves() -> None:
    model = load_model("pixels", preprocessing=SEEN)
    images = torch.rand(2, 3, 8, 8)
    assert list(model.layers) == ["pixels"]
    assert torch.equal(model.layers["pixels"](images), images)


def test_the_code_hash_counts_the_file_of_the_function_that_builds(user_module: str, tmp_path: Path) -> None:
    (tmp_path / "builder.py").write_text(f"from {user_module} import Small\n\ndef build():\n    return Small(4)\n")
    before = load_model("builder:build", preprocessing=SEEN).code_sha256
    (tmp_path / "builder.py").write_text(f"from {user_module} import Small\n\ndef build():\n    return Small(2 + 2)\n")
    assert load_model("builder:build", preprocessing=SEEN).code_sha256 != before


def test_the_preprocessing_example_in_the_error_works() -> None:
    with pytest.raises(UserError, match="preprocessing is missing; set it") as error:
        load_model("pixels")
    example = str(error.value).split("--preprocessing ")[1].strip("'")
    assert load_model("pixels", preprocessing=example).preprocessing.image_size == json.loads(example)["image_size"]


def test_the_network_to_train_in_the_docs_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    text = (request.config.rootpath / "docs" / "adding-a-network.md").read_text()
    (tmp_path / "network_of_the_docs.py").write_text(text.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    recipe = {
        "kind": "network_of_the_docs:two_stages",
        "image_shape": [3, 8, 8],
        "classes": 4,
        "arguments": {"width": 6},
    }
    network = build_network(recipe["kind"], (3, 8, 8), 4, recipe["arguments"])
    save_network(tmp_path / "network.pt", network, {"network": recipe, "preprocessing": json.loads(SEEN)})
    with pytest.raises(
        UserError, match="asks to run the code network_of_the_docs:two_stages, which no file may choose"
    ):
        load_model("network.pt")
    with pytest.raises(
        UserError, match="asks to run the code network_of_the_docs:two_stages, which no file may choose"
    ):
        load_model("network.pt", kind="network_of_the_docs:other")
    model = load_model("network.pt", kind="network_of_the_docs:two_stages")
    assert list(model.layers) == ["conv1", "logits"]
    assert model.module(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
