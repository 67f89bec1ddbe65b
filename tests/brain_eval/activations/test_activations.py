"""Streaming activations: values against torchvision's feature extractor, coordinates against Brain-Score."""

import resource
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from brain_eval.activations import extraction as activations
from brain_eval.activations import writer as activation_files
from brain_eval.activations.extraction import extract_all
from brain_eval.activations.models import Model
from brain_eval.activations.preprocessing import Preprocessing
from brain_eval.benchmarks.base import Benchmark, Description, stimuli_in_memory
from nmnc.data.images import decoding
from nmnc.errors import UserError

SIZE = 12
LAYERS = ("conv", "pool", "fc")


class Net(nn.Module):
    """Its ReLU works in place, behind a recorded layer; its maps are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d((2, 5))
        self.flat = nn.Flatten()
        self.fc = nn.Linear(50, 7)

    def forward(self, x: Any) -> Any:
        return self.fc(self.flat(self.pool(self.relu(self.conv(x)))))


def model_of(module: Any, layers: list[str] | tuple[str, str, str], name: str = "net") -> Model:
    torch.manual_seed(0)
    chosen = {layer: module.get_submodule(layer) for layer in layers}
    seen = Preprocessing(SIZE, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Model(name, module.eval(), chosen, seen, "weights", "code")


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return model_of(Net(), LAYERS)


def benchmark_of(n: int, seed: int = 0, name: str = "toy") -> Benchmark:
    images = np.random.default_rng(seed).integers(0, 256, (n, 15, 15, 3), dtype=np.uint8)
    stimuli = stimuli_in_memory(name, [f"bild-ä{i}" for i in range(n)], images)
    return Benchmark(Description(name, 1, (), (), "", ""), stimuli)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Benchmark]:
    """Benchmark "toy" of 23 images, and the benchmarks that `load_benchmark` knows by name."""
    known = {"toy": benchmark_of(23)}
    monkeypatch.setattr(activations, "load_benchmark", lambda spec, data: known[spec])
    return known


def extract(model: Model, out: Path, specs: tuple[str, ...] = ("toy",), **options: Any) -> Path:
    options = {"batch_size": 4, "device": "cpu", "threads": 1} | options
    extract_all(model, list(specs), Path("unused"), out, **options)
    return out / f"{specs[0]}.nc"


def no_hooks(module: Any) -> bool:
    return all(not part._forward_hooks for part in module.modules())


def images_of(model: Model, benchmark: Benchmark) -> torch.Tensor:
    stimuli = benchmark.stimulus_set
    return model.preprocessing(stimuli.read(np.arange(len(stimuli.stimulus_ids))))


@pytest.mark.parametrize(("batch_size", "block_rows"), [(4, 256), (4, 8), (5, 1), (100, 256), (1, 3)])
def test_values_and_coordinates_are_the_networks(
    model: Model,
    toy: dict[str, Benchmark],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    block_rows: int,
) -> None:
    monkeypatch.setattr(activation_files, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(activation_files, "CHUNK_BYTES", 600)  # many chunks, none of them at a layer's edge
    path = extract(model, tmp_path, batch_size=batch_size)
    with torch.no_grad():
        module = Net().eval()
        module.load_state_dict(model.module.state_dict())
        module.relu = nn.ReLU()  # not in place: the oracle must not change what it gave
        oracle = create_feature_extractor(module, list(LAYERS))(images_of(model, toy["toy"]))
    with xr.open_dataset(path) as dataset:
        values = dataset["activations"]
        assert values.dims == ("presentation", "neuroid")
        assert values.dtype == np.float32
        assert list(values.stimulus_id.values) == list(toy["toy"].stimulus_set.stimulus_ids)
        assert list(values.stimulus_num.values) == list(range(23))
        assert list(dict.fromkeys(values.layer.values)) == list(LAYERS)
        for layer in LAYERS:
            part = values[:, values.layer.values == layer]
            expected = oracle[layer].numpy().reshape(23, *oracle[layer].shape[1:], *[1] * (4 - oracle[layer].ndim))
            assert list(part.neuroid_num.values) == list(range(expected[0].size))
            places = (part[name].values for name in ("channel", "channel_x", "channel_y"))
            np.testing.assert_allclose(part.values, expected[(slice(None), *places)], rtol=1e-5, atol=1e-6)
    assert (oracle["conv"] < 0).any()  # or the in-place ReLU would not have been seen
    assert no_hooks(model.module)


@pytest.mark.filterwarnings("ignore")
def test_brain_score_reads_it_and_means_the_same_by_its_coordinates(
    model: Model, toy: dict[str, Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESULTCACHING_HOME", "BRAINSCORE_HOME", "BRAINIO_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("BS_INSTALL_DEPENDENCIES", "no")
    monkeypatch.setenv("RESULTCACHING_DISABLE", "1")
    from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
    from brainscore_vision.model_helpers.activations.core import flatten

    path = extract(model, tmp_path)
    with xr.open_dataset(path) as dataset:
        assembly = NeuroidAssembly(dataset["activations"].load())
    assert list(assembly["stimulus_id"].values) == list(toy["toy"].stimulus_set.stimulus_ids)
    with torch.no_grad():
        output = model.module.conv(images_of(model, toy["toy"])).numpy()
    flat, index = flatten(output, return_index=True)
    conv = assembly.sel(layer="conv")
    np.testing.assert_allclose(conv.values, flat, rtol=1e-5, atol=1e-6)
    for axis, name in enumerate(("channel", "channel_x", "channel_y")):
        np.testing.assert_array_equal(conv[name].values, index[:, axis])


def test_the_attributes_say_where_the_values_come_from(model: Model, toy: dict[str, Benchmark], tmp_path: Path) -> None:
    with xr.open_dataset(extract(model, tmp_path)) as dataset:
        attributes = dataset.attrs
    assert attributes["model"] == "net"
    assert attributes["weights_sha256"] == "weights"
    assert attributes["preprocessing"] == model.preprocessing.to_json()
    assert attributes["decoding"] == decoding()
    assert attributes["stimulus_set"] == "toy"
    assert attributes["stimulus_set_sha256"] == toy["toy"].stimulus_set.sha256
    assert attributes["layers"] == "conv,pool,fc"


def test_the_same_inputs_give_the_same_bytes(model: Model, toy: dict[str, Benchmark], tmp_path: Path) -> None:
    first, second = (extract(model, tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_a_file_of_the_same_origin_is_kept(
    model: Model, toy: dict[str, Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = extract(model, tmp_path)
    before = path.stat()
    unreadable = replace(toy["toy"].stimulus_set, read=lambda indices: pytest.fail("read a stimulus"))
    toy["toy"] = replace(toy["toy"], stimulus_set=unreadable)
    extract(model, tmp_path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"weights_sha256": "other"},
        {"code_sha256": "other"},
        {"preprocessing": Preprocessing(SIZE, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.26))},
        {"layers": ("pool", "conv", "fc")},
        "stimuli",
        "truncated",
        "version",
    ],
    ids=str,
)
def test_a_file_of_another_origin_is_rewritten(
    model: Model,
    toy: dict[str, Benchmark],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any] | str,
) -> None:
    path = extract(model, tmp_path)
    before = path.read_bytes()
    if change == "stimuli":
        toy["toy"] = benchmark_of(23, seed=1)
    elif change == "truncated":
        path.write_bytes(before[:1000])
    elif change == "version":
        monkeypatch.setattr(activations, "version", lambda package: "99")
    else:
        if "layers" in change:
            change = {"layers": {layer: model.module.get_submodule(layer) for layer in change["layers"]}}
        model = replace(model, **change)
    extract(model, tmp_path)
    if change == "truncated":
        assert path.read_bytes() == before
    else:
        assert path.read_bytes() != before
    with xr.open_dataset(path) as dataset:
        assert dataset.attrs["model"] == model.name
        assert dataset.attrs["stimulus_set_sha256"] == toy["toy"].stimulus_set.sha256


def test_several_benchmarks_get_a_file_each(model: Model, toy: dict[str, Benchmark], tmp_path: Path) -> None:
    toy["second"] = benchmark_of(3, seed=2, name="second")
    extract(model, tmp_path, specs=("toy", "second"))
    with xr.open_dataset(tmp_path / "second.nc") as dataset:
        assert dataset.sizes["presentation"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second.nc", "toy.nc"]


def test_too_little_disk_is_refused_before_any_stimulus_is_read(
    model: Model, toy: dict[str, Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable = replace(toy["toy"].stimulus_set, read=lambda indices: pytest.fail("read a stimulus"))
    toy["toy"] = replace(toy["toy"], stimulus_set=unreadable)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(activation_files.shutil, "disk_usage", lambda path: usage(10**12, 10**12, 10**4))
    with pytest.raises(UserError, match=r"need 0\.00\d+ GB and 1e-05 GB are available; free disk space"):
        extract(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_in_the_middle_is_one_line_and_leaves_nothing(
    model: Model, toy: dict[str, Benchmark], tmp_path: Path
) -> None:
    toy["toy"] = benchmark_of(600)  # 600 x 557 x 4 bytes = 1.3 MB
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    try:
        with pytest.raises(UserError, match=r"toy.nc: cannot be written \(.*\), .* GB are available") as error:
            extract(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert no_hooks(model.module)
    with xr.open_dataset(extract(model, tmp_path)) as dataset:  # and afterwards it works
        assert dataset.sizes["presentation"] == 600


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(
    model: Model, toy: dict[str, Benchmark], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):  # the command line makes one line of it
        extract(model, tmp_path / "file")


class Dividing(Net):
    """NaN in `pool` for a blank centre after the first layer is scaled by zero over zero."""

    def __init__(self, poison: float) -> None:
        super().__init__()
        self.poison = poison

    def forward(self, x: Any) -> Any:
        x = self.relu(self.conv(x))
        bad = (x.flatten(1).sum(1) == self.poison).view(-1, 1, 1, 1)
        return self.fc(self.flat(self.pool(torch.where(bad, torch.nan, x))))


def test_nan_names_layer_and_stimulus_and_leaves_nothing(toy: dict[str, Benchmark], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Dividing(poison=0.0)
    model = model_of(module, LAYERS)
    start = 16  # the fifth batch of 4, so that the sums below are those of the same product
    with torch.no_grad():
        sums = module.relu(module.conv(images_of(model, toy["toy"])[start : start + 4])).flatten(1).sum(1)
    module.poison = float(sums[2])
    with pytest.raises(UserError, match="layer 'pool' gives NaN or infinity for stimulus 'bild-ä18' of toy"):
        extract(model, tmp_path)
    assert not list(tmp_path.iterdir())
    assert no_hooks(module)


class Odd(nn.Module):
    """Layers that cannot be recorded, each in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.twice, self.never, self.inner = nn.Tanh(), nn.Tanh(), nn.Identity()
        self.total, self.volume = nn.Identity(), nn.Identity()
        self.tokens = nn.Identity()

    def forward(self, x: Any) -> Any:
        output, _ = self.rnn(self.tokens(x.flatten(2).transpose(1, 2)))
        self.total(output.sum())
        self.volume(x[:, :, None])
        self.inner(x.transpose(0, 1))
        return self.twice(self.twice(output.mean(1)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("rnn", "layer 'rnn' gives a tuple, not a tensor"),
        ("twice", "layer 'twice' is called 2 times in a pass; choose one of its calls, such as twice@0"),
        ("never", "layer 'never' is never called"),
        ("total", r"layer 'total' gives \(\) for 2 images"),
        ("volume", r"layer 'volume' gives \(2, 3, 1, 12, 12\) for 2 images"),
        ("inner", r"layer 'inner' gives \(3, 2, 12, 12\) for 2 images"),
    ],
)
def test_layers_that_cannot_be_recorded_are_named(
    toy: dict[str, Benchmark], tmp_path: Path, layer: str, message: str
) -> None:
    model = model_of(Odd(), ["tokens", layer])
    with pytest.raises(UserError, match=message) as error:
        extract(model, tmp_path)
    assert "\n" not in str(error.value)
    assert no_hooks(model.module)
    assert not list(tmp_path.iterdir())


def test_tokens_by_embedding_lie_along_channel_and_channel_x(toy: dict[str, Benchmark], tmp_path: Path) -> None:
    model = model_of(Odd(), ["tokens"])
    with xr.open_dataset(extract(model, tmp_path)) as dataset:
        values = dataset["activations"].load()
    images = images_of(model, toy["toy"]).numpy()
    assert (values.channel_y == 0).all()
    pixels = images.reshape(23, 3, -1)
    np.testing.assert_array_equal(values.values, pixels[:, values.channel.values, values.channel_x.values])


def test_images_the_network_does_not_take_are_one_line(toy: dict[str, Benchmark], tmp_path: Path) -> None:
    model = replace(model_of(Net(), LAYERS), preprocessing=Preprocessing(SIZE, 1, (0.0,), (1.0,)))
    with pytest.raises(UserError, match=r"net: fails on images as 12x12 grey.*fix --preprocessing") as error:
        extract(model, tmp_path)
    assert "\n" not in str(error.value)
    assert no_hooks(model.module)


def test_a_failing_reader_leaves_no_hook_and_no_file(model: Model, toy: dict[str, Benchmark], tmp_path: Path) -> None:
    def read(indices: Any) -> Any:
        if indices[0] > 10:
            raise UserError("image 11 is broken")
        return benchmark_of(23).stimulus_set.read(indices)

    toy["toy"] = replace(toy["toy"], stimulus_set=replace(toy["toy"].stimulus_set, read=read))
    with pytest.raises(UserError, match="image 11"):
        extract(model, tmp_path)
    assert no_hooks(model.module)
    assert not list(tmp_path.iterdir())


def test_threads_and_device_are_as_asked(model: Model, toy: dict[str, Benchmark], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        extract(model, tmp_path, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(UserError, match="--device gpu: unknown"):
        extract(model, tmp_path, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_one_line(model: Model, toy: dict[str, Benchmark], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device cuda: torch finds no GPU"):
        extract(model, tmp_path, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_what_the_cpu_gives(model: Any, toy: Any, tmp_path: Path) -> None:
    with xr.open_dataset(extract(model, tmp_path / "cpu")) as one:
        expected = one["activations"].values
    with xr.open_dataset(extract(model, tmp_path / "gpu", device="cuda")) as other:
        np.testing.assert_allclose(other["activations"].values, expected, rtol=1e-4, atol=1e-5)
