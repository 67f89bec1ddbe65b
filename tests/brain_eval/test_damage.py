"""Files that were damaged after they had been written are read to the same numbers or refused in one line."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch

from brain_eval import benchmarks
from brain_eval.activations import writer as activation_files
from brain_eval.activations.reader import _refuse_another_network, open_activations
from brain_eval.benchmarks.base import Benchmark, Description, Recording, StimulusSet
from brain_eval.inference.draws import read_draws
from brain_eval.metrics.rdms import correlation_rdm
from brain_eval.scoring.scores import Outputs, score_model
from nmnc.errors import UserError
from nmnc.files.digests import check_seal, digest_file, seal
from nmnc.files.reading import read_json, read_rows
from nmnc.files.writing import replacing, write_csv, write_text
from nmnc.networks import build_network
from nmnc.runs import Identity
from nmnc.training.checkpoint import load_network, load_state, save_network, save_state, weights_sha256
from tests.sections import scoring
from workflow.analysis.report.study import model_rdms
from workflow.analysis.results import Run

N = 12
IDS = tuple(f"image{number}" for number in range(N))
#: Flips of one bit in each kind of file.
FLIPS = 60
RUN: dict[str, Any] = {"network": "net", "rule": "nmnc", "kind": "nmnc", "seed": 7}


def plain(value: Any) -> Any:
    """A value in a form in which equal ones are equal, NaN too."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(value, dict):
        return [(key, plain(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else repr(value)


def benchmark() -> Benchmark:
    rng = np.random.default_rng(0)
    recordings = [
        Recording(session, "M", "macaque", "IT", np.arange(N), 5, correlation_rdm(rng.standard_normal((N, 5))))
        for session in "AB"
    ]
    about = Description("fake", 1, ("macaque",), ("IT",), "Nobody (2026)", "CC0")
    return Benchmark(about, StimulusSet("fake", IDS, lambda indices: [], "sha"), tuple(recordings))


def read_activations(path: Path) -> Any:
    with open_activations(path, benchmark()) as found:
        values = {layer: found.read(layer, np.arange(N)) for layer in found.layers}
        return values, found.stimulus_ids, found.preprocessing


def state_and_config(network: Any, config: Any) -> Any:
    return dict(network.state_dict()), config


#: Name of a file -> how the next stage reads it.
READERS: dict[str, Callable[[Path], Any]] = {
    "network.pt": lambda path: state_and_config(*load_network(path)),
    "state.pt": load_state,
    "provenance.json": read_json,
    "epochs.csv": lambda path: read_rows(path, ("epoch",)),
    "fake.nc": read_activations,
    "rdms.nc": lambda path: model_rdms(path, Run(Identity(**RUN), True, ""), ["fake"]),
    "draws.nc": lambda path: read_draws(path, RUN),
    "scores.csv": lambda path: read_rows(path, ("layer",)),
}


@pytest.fixture
def written(once: Path, tmp_path: Path) -> Path:
    """A folder with one file of each kind."""
    return Path(shutil.copytree(once, tmp_path / "written"))


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    torch.manual_seed(0)
    arguments = {"channels": [4], "hidden": [6], "batch_norm": True}
    network = build_network("convnet", (1, 8, 8), 3, arguments).eval()
    recipe = {"name": "net", "kind": "convnet", "image_shape": [1, 8, 8], "classes": 3, "arguments": arguments}
    seen = {"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.25]}
    save_network(folder / "network.pt", network, {"network": recipe, "preprocessing": seen})
    save_state(folder / "state.pt", {"network": dict(network.state_dict()), "step": 3, "rng": torch.get_rng_state()})
    told = json.dumps({"seconds": 1.5, "weights_sha256": weights_sha256(network)}, indent=2)
    write_text(folder / "provenance.json", told, digest=True)
    rows = [{"epoch": epoch, "test_accuracy": 0.1 * epoch} for epoch in range(5)]
    write_csv(folder / "epochs.csv", ("epoch", "test_accuracy"), rows, digest=True)
    rng = np.random.default_rng(1)
    values = rng.standard_normal((N, 13)).astype(np.float32)
    about, shapes = {"preprocessing": "8 px", "stimulus_set_sha256": "sha"}, {"conv": (8, 1, 1), "fc": (5, 1, 1)}
    activation_files.write(folder / "fake.nc", IDS, shapes, about, [(0, values)], (3, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "load_benchmark", lambda spec, data: benchmark())
        outputs = Outputs(folder / "scores.csv", folder / "rdms.nc", folder / "draws.nc")
        identity = ",".join(map(str, RUN.values()))
        score_model(folder, ["fake"], folder, outputs, identity=identity, settings=scoring(metrics=["spearman"]))
    return folder


def outcome(path: Path, content: bytes) -> Any:
    """What reading a file of this content gives, in a file of its own: HDF5 keeps what it has of an open one."""
    path.unlink()
    path.write_bytes(content)
    try:
        return plain(READERS[path.name](path))
    except UserError as error:
        return "refused" if path.name in str(error) and "\n" not in str(error) else error


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_refused_or_changes_no_number(written: Path, name: str) -> None:
    path, bits = written / name, random.Random(name)
    whole = path.read_bytes()
    right, refused = plain(READERS[name](path)), 0
    for place in bits.sample(range(len(whole)), min(FLIPS, len(whole))):
        changed = bytearray(whole)
        changed[place] ^= 1 << bits.randrange(8)
        found = outcome(path, changed)
        assert found in (right, "refused"), place
        refused += found == "refused"
    assert refused >= FLIPS / 2
    assert outcome(path, whole) == right


@pytest.mark.parametrize("name", READERS)
def test_a_cut_or_longer_file_is_refused_or_changes_no_number(written: Path, name: str) -> None:
    path, places = written / name, random.Random(name)
    whole = path.read_bytes()
    right = plain(READERS[name](path))
    lines = [end for end, byte in enumerate(whole, 1) if byte == ord("\n")]
    for length in {0, 1, 20, len(whole) // 2, len(whole) - 1, len(whole) - 50, *places.choices(lines, k=10)} - {
        len(whole)
    }:
        assert outcome(path, whole[:length]) in (right, "refused"), length
    assert outcome(path, b"") == "refused"
    assert outcome(path, bytes(len(whole))) == "refused"
    for more in (b"\0", b"\n", whole, whole[-200:], bytes(300)):
        assert outcome(path, whole + more) in (right, "refused")


@pytest.mark.parametrize("name", READERS)
def test_a_file_without_a_digest_is_read_as_before(written: Path, name: str) -> None:
    path = written / name
    whole, right = path.read_bytes(), plain(READERS[name](path))
    digest_file(path).unlink(missing_ok=True)
    body = whole.rpartition(b"\nsha256 ")[0] if path.suffix in (".pt", ".nc") else whole
    assert outcome(path, body) == right


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith(("pt", "nc"))])
def test_a_damaged_digest_is_refused(written: Path, name: str) -> None:
    for digest in [b"", b"\n", b"\xff\0", b"no digest  epochs.csv\n", b"0" * 64]:
        digest_file(written / name).write_bytes(digest)
        with pytest.raises(UserError, match=rf"{name}: damaged or edited, .*{name}\.sha256; delete it and rerun"):
            READERS[name](written / name)


def test_the_digest_beside_a_file_is_that_of_sha256sum(written: Path) -> None:
    line = digest_file(written / "epochs.csv").read_text()
    assert line.split()[1] == "epochs.csv"
    assert len(line.split()[0]) == 64
    assert not digest_file(written / "network.pt").exists()


def test_other_programs_read_sealed_files(written: Path) -> None:
    content = torch.load(written / "network.pt", weights_only=True, mmap=True)
    assert set(content) == {"format", "config", "state_dict"}
    with netCDF4.Dataset(written / "fake.nc") as file:
        assert file["activations"].filters()["fletcher32"]
        assert file["activations"][:].shape == (N, 13)


@pytest.mark.parametrize("ranges", ["-", "0+0", "5+3", "0+2,9+4", "3+900", "900+1"])
def test_ranges_of_a_seal_are_what_it_leaves_out(tmp_path: Path, ranges: str) -> None:
    path, body = tmp_path / "a.nc", bytes(range(40))
    path.write_bytes(body)
    without = [tuple(map(int, part.split("+"))) for part in ranges.split(",") if part != "-"]
    seal(path, without)
    check_seal(path)
    whole = path.read_bytes()
    for place in range(len(body)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if any(start <= place < start + size for start, size in without):
            check_seal(path)
        else:
            with pytest.raises(UserError, match=r"a\.nc: damaged, its SHA-256"):
                check_seal(path)


# Files of another run under this one's name


def test_a_network_of_another_run_is_refused(written: Path) -> None:
    path = written / "network.pt"
    torch.manual_seed(1)
    network, config = load_network(path)
    for weight in network.parameters():
        torch.nn.init.normal_(weight)
    (written / "seed1").mkdir()
    save_network(written / "seed1" / "network.pt", network, config)
    shutil.copy(written / "seed1" / "network.pt", path)
    with pytest.raises(UserError, match=r"network\.pt: not the network that provenance\.json in its folder describes"):
        load_network(path)
    load_network(written / "seed1" / "network.pt")


@pytest.mark.parametrize("name", ["draws.nc", "rdms.nc"])
def test_scores_of_another_run_are_refused(written: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUN, "seed", 8)
    with pytest.raises(UserError, match=rf"{name}: of another run, net, nmnc, nmnc, 7; delete it and run"):
        READERS[name](written / name)


def test_activations_of_another_network_are_refused(written: Path) -> None:
    networks, activations = (written / "study" / part / "net/nmnc/seed0" for part in ("networks", "activations"))
    networks.mkdir(parents=True)
    for name in ("network.pt", "provenance.json"):
        shutil.copy(written / name, networks)
    for weights, right in (
        (json.loads((networks / "provenance.json").read_text())["weights_sha256"], True),
        ("0", False),
    ):
        values = np.ones((N, 3), dtype=np.float32)
        about = {"preprocessing": "8 px", "stimulus_set_sha256": "sha", "weights_sha256": weights}
        activation_files.write(activations / "fake.nc", IDS, {"fc": (3, 1, 1)}, about, [(0, values)], (N, 3))
        if right:
            read_activations(activations / "fake.nc")
        else:
            with pytest.raises(UserError, match=r"fake\.nc: of another network than .*seed0/network\.pt; delete it"):
                read_activations(activations / "fake.nc")


@pytest.mark.parametrize("path", ["/a.nc", "/a/a.nc", "/activations/n/r/s/a.nc", "/x/activations/n/r/s/a.nc", "a.nc"])
def test_activations_may_lie_anywhere(path: str) -> None:
    _refuse_another_network(Path(path), "0", "run it again")


# A kill between the moves of a file and of its digest


def test_a_kill_between_a_file_and_its_digest_leaves_no_wrong_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_text(path, '"old"', digest=True)
    moves: list[Any] = []
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if len(moves) == killed_at:
            raise KeyboardInterrupt
        moves.append(target.name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    for killed_at, expected in ((0, "old"), (1, "new"), (2, "new")):
        moves.clear()
        with suppress(KeyboardInterrupt), replacing(path, digest=True) as temporary:
            temporary.write_text('"new"')
        assert read_json(path) == expected
        assert digest_file(path).exists() == (killed_at == 2)
