"""A study's file: what is accepted, what is refused, and in which words. And the runs it stands for."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from nmnc.config import study_from
from nmnc.errors import UserError
from nmnc.runs import data_folder, parameters, results_folder, trained
from nmnc.settings import Noise
from tests.places import CONFIG
from workflow.config_reference import sections
from workflow.study import REFERENCES, Study, load_study, references

REFERENCE = {"network": "torchvision:alexnet", "preprocessing": {"image_size": 8, "mean": [0] * 3, "std": [1] * 3}}
SWEEPS = {"images": {"rules": ["fast"], "values": {"noise.images": [1, 2, 4]}}}
LACKING = REFERENCE | {"preprocessing": {"image_size": 8, "mean": [0], "std": [1]}}
NET = {"kind": "mlp", "arguments": {"hidden": [8]}}
VNC = {"kind": "vnc"}


def content(**changes: Any) -> dict[str, Any]:
    """A study in which every section is there, with some top-level keys replaced."""
    return {
        "study": "small",
        "seeds": [0, 3],
        "paths": {"data": "images"},
        "dataset": {"name": "digits"},
        "networks": {"net": NET, "wide": NET},
        "rules": {"backprop": {"kind": "backprop"}, "fast": {"kind": "nmnc", "noise": {"images": 2}}},
        "training": {"epochs": 2},
        "noise": {"dimensions": 4},
        "diagnostics": {"images": 16},
        "evaluation": {"models": {"alexnet": REFERENCE}, "activations": {"memory_gb": 1.0}},
    } | changes


def refusal(changed: Any) -> str:
    """The error of a study: always one line that starts with where it comes from."""
    with pytest.raises(UserError, match=r"^small\.yaml: ") as caught:
        study_from(changed, "small.yaml", Study)
    message = str(caught.value)
    assert "\n" not in message
    return message


NAMES = {"networks": "net", "rules": "fast", "sweeps": "images", "models": "alexnet"}


def places() -> dict[tuple[str, ...], type[BaseModel]]:
    """Every section by its place in the study below, found as the page of all keys finds them."""
    found = {}
    for place, model in sections(Study):
        parts = place.split(".") if place else []
        found[tuple(NAMES[before] if part == "NAME" else part for before, part in pairwise(["", *parts]))] = model
    return found


SECTIONS = places()


@pytest.mark.parametrize("place", SECTIONS, ids=".".join)
def test_every_misspelt_key_is_answered_with_the_right_one(place: tuple[str, ...]) -> None:
    for key in SECTIONS[place].model_fields:
        changed = yaml.safe_load(yaml.safe_dump(content(sweeps=SWEEPS)))
        section = changed
        for part in place:
            section = section[part]
        misspelt = key[:-1] + "x"
        section[misspelt] = 1
        assert refusal(changed).startswith(
            f"small.yaml: {'.'.join((*place, misspelt))}: unknown key; did you mean {key!r}?"
        )


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_ship_are_valid_and_survive_being_written(path: Path) -> None:
    study = load_study(path)
    assert study.study == path.stem
    assert study_from(yaml.safe_load(study.model_dump_json()), "dump", Study) == study


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"epochs": -1}}, r"training\.epochs: .*greater than or equal to 0 \(got -1\)"),
        ({"training": {"learning_rate": 0}}, r"training\.learning_rate: .*greater than 0"),
        ({"training": {"learning_rate": float("nan")}}, r"training\.learning_rate: .*finite number \(got nan\)"),
        ({"training": {"clip_norm": float("inf")}}, r"training\.clip_norm: .*finite number"),
        ({"training": {"learning_rate": 1e300}}, r"training\.learning_rate: .*less than or equal to 10{30} "),
        ({"threads": 10**12}, r"threads: .*less than or equal to 1024"),
        ({"seeds": [2**63]}, r"seeds\.0: .*less than 9223372036854775808"),
        ({"training": {"epochs": True}}, r"training\.epochs: .*a number, not true or false"),
        ({"seeds": [True]}, r"seeds: .*a number, not true or false"),
        ({"noise": {"per_image": 1}}, r"noise\.per_image: .*true or false \(got 1\)"),
        ({"noise": {"adaptive": "yes"}}, r"noise\.adaptive: .*true or false"),
        ({"study": "x" * 201}, r"study: .*at most 200 characters \(got 'xx.*\.\.\..*xx'\)"),
        ({"networks": {"n" * 199: NET}, "rules": {"r" * 90: {"kind": "vnc"}}}, r"together too long for a file name"),
        ({"paths": {"results": "a{b}"}}, r"paths\.results: a path cannot have the character '{' here; rename"),
        ({"paths": {"data": "a\nb"}}, r"paths\.data: a path cannot have the character '\\n' here"),
        ({"dataset": {"name": "a\x00b.npz"}}, r"dataset\.name: a path cannot have the character '\\x00' here"),
        ({"dataset": {"name": ""}}, r"dataset\.name: .*at least 1 character"),
        ({"dataset": {"name": "d", "image_size": 10**6}}, r"dataset\.image_size: .*less than or equal to 4096"),
        ({"evaluation": {"benchmark_folders": {"mine": "x/" + "é" * 200}}}, r"mine: the path is too long"),
        ({"evaluation": {"models": {"m": REFERENCE | {"weights": "w{0}"}}}}, r"weights: a path cannot have .* '{'"),
        ({"evaluation": {"metrics": ["spearman", "spearman"]}}, r"evaluation\.metrics: metrics are repeated"),
        ({"rules": {"a": {"kind": "vnc", "seeds": [1, 1]}}}, r"rules\.a\.seeds: seeds are repeated"),
        ({"seeds": list(range(6000))}, r"36000 runs \(networks x rules x seeds\), at most 10000; split the study"),
        ({"training": {"epochs": 1.5}}, r"training\.epochs: .*integer.*\(got 1.5\)"),
        ({"noise": {"rate": 1.1}}, r"noise\.rate: .*less than or equal to 1"),
        ({"noise": {"feedback": "ful"}}, r"noise\.feedback: .*'factored', 'full' or 'layerwise' \(got 'ful'\)"),
        ({"noise": None}, r"noise: .*\(got None\)"),
        ({"threads": 0}, r"threads: "),
        ({"device": "tpu"}, r"device: .*'auto', 'cpu' or 'cuda' \(got 'tpu'\)"),
        ({"seeds": 3}, r"seeds: .*list \(got 3\)"),
        ({"seeds": [1, 2, 1]}, r"seeds are repeated; give each once"),
        ({"seeds": [-1]}, r"seeds\.0: "),
        ({"seeds": []}, r"seeds: "),
        ({"study": "../elsewhere"}, r"study: "),
        ({"networks": {"a/b": NET}}, r"networks\.a/b"),
        ({"networks": {"pixels": NET}}, r"the name 'pixels' is used twice"),
        ({"networks": {"alexnet": NET}}, r"the name 'alexnet' is used twice"),
        ({"networks": {"net": {}}}, r"networks\.net\.kind: missing; add it"),
        ({"dataset": None}, r"need a dataset to be trained on; add dataset\.name"),
        ({"networks": {}, "evaluation": {}}, r"nothing to do; add a network"),
        ({"rules": {"untrained": {"kind": "backprop"}}}, r"rules\.untrained: the label is reserved"),
        ({"rules": {"a": {"kind": "vnc", "noise": {"scal": 1}}}}, r"rules\.a\.noise\.scal: .*mean 'scale'"),
        ({"rules": {"a": {"kind": "vnc", "noise": {"scale": -1}}}}, r"rules\.a\.noise\.scale: .*greater than 0"),
        ({"rules": {"a": {"kind": "vnc", "training": {"epochs": -1}}}}, r"rules\.a\.training\.epochs: "),
        ({"rules": {"a": {"kind": "vnc", "noise": {"images": 200}}}}, r"rules\.a: noise\.images 200 exceeds batch"),
        (
            {"rules": {"a": {"kind": "vnc", "noise": {"images": 8, "per_image": True}}}},
            r"rules\.a: with noise\.per_image all images .* need noise; set noise\.images to the batch_size 128",
        ),
        (
            {"rules": {"a": {"kind": "nmnc", "noise": {"dimensions": 128}}}},
            r"rules\.a: 128 principal components need .* more images than noise\.basis_images 128; increase noise",
        ),
        (
            {"rules": {"a": {"kind": "nmnc", "noise": {"dimensions": 64, "adaptive": True}}}},
            r"rules\.a: 128 principal components need the activity of more images",
        ),
        ({"evaluation": {"metrics": ["pearsn"]}}, r"evaluation\.metrics\.0: "),
        ({"evaluation": {"models": {"m": LACKING}}}, r"mean and std need one value for each of the 3 channels"),
        ({"epochs": 3, "threads": 0, "seeds": []}, r"\(and 2 more\)$"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_their_place(changes: dict[str, Any], words: str) -> None:
    assert re.search(words, refusal(content(**changes)))


@pytest.mark.parametrize("whole", [None, [], "text", 3, {1: 2}, {}])
def test_what_is_no_study_at_all_is_refused(whole: Any) -> None:
    refusal(whole)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"study: small\nseeds: [0\n", r"small\.yaml line 3: not valid YAML"),
        (b"study: small\n\tseeds: 1\n", r"small\.yaml line 2: not valid YAML"),
        (b"study: \x00\n", r"small\.yaml: not valid YAML"),
        (b"\x80\x02PK\xff", r"small\.yaml: not UTF-8 text \(byte 0\); save it as UTF-8"),
        (b"study: small\nseeds: [0]\nseeds: [1]\n", r"small\.yaml line 3: the key 'seeds' is given twice"),
        (b"study: small\nseeds: [.inf]\n", r"small\.yaml: inf is not a finite number; set a finite one"),
        (b"study: " + b"[" * 3000, r"small\.yaml.*nested over 50 levels|not valid YAML"),
        (b"1: 2\nstudy: small\n", r"small\.yaml: "),
        (b"", r"small\.yaml: expected keys and values"),
    ],
)
def test_files_that_are_not_yaml_are_refused_in_one_line(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "small.yaml").write_bytes(text)
    with pytest.raises(UserError, match=words) as caught:
        load_study(tmp_path / "small.yaml")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file or directory\); give a YAML file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        load_study(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(.*null"):
        load_study(Path("a\0b"))


def test_only_the_noise_that_a_rule_uses_is_checked() -> None:
    small = {"batch_size": 6}
    rules = {kind: {"kind": kind} for kind in ("backprop", "fa", "dfa", "kolen_pollack", "weight_mirror", "untrained")}
    study_from(content(training=small, rules=rules, noise={"dimensions": 500, "per_image": True}), "small.yaml", Study)
    for kind in ("vnc", "nmnc", "random_subspace", "spectral", "fdfa"):
        words = rf"rules\.{kind}: noise\.images 8 exceeds batch_size 6; lower noise\.images"
        assert re.search(words, refusal(content(training=small, rules={kind: {"kind": kind}})))


@pytest.mark.parametrize(
    ("sweeps", "words"),
    [
        ({"a": {"values": {"noise.images": []}}}, r"sweeps\.a\.values\.noise\.images: .*at least 1 item"),
        ({"a": {"values": {"noise.images": [1, 2, 1.0]}}}, r"sweeps\.a: values\.noise\.images: a value is repeated"),
        (
            {"a": {"values": {"training.epochs": list(range(400)), "noise.images": list(range(1, 251))}}},
            r"sweeps\.a: 100000 points, at most 5000 are possible; set fewer values",
        ),
        ({"a": {"values": {"training.optimiser": ["a/b"]}}}, r"'fast-optimiser-a/b' cannot be a label"),
        ({"a": {"values": {"training.optimiser": [{"a": "b"}]}}}, r"cannot be a label"),
        ({"a": {"values": {"training.optimiser": ["x" * 10**5]}}}, r"cannot be a label"),
        (
            {name: {"values": {"noise.rate": [0.5]}, "noise": {"scale": len(name)}} for name in ("b", "bb")},
            r"sweeps\.bb: the label 'fast-rate-0\.5' belongs to a rule with other settings; rename",
        ),
    ],
)  # fmt: skip
def test_sweeps_that_cannot_be_run_are_refused(sweeps: dict[str, Any], words: str) -> None:
    sweeps = {name: {"rules": ["fast"]} | sweep for name, sweep in sweeps.items()}
    message = refusal(content(sweeps=sweeps))
    assert re.search(words, message), message
    assert len(message) < 500


def test_a_rule_overrides_single_values_and_leaves_the_rest() -> None:
    study = study_from(content(), "small.yaml", Study)
    assert study.run("fast").noise == Noise(dimensions=4, images=2)
    assert study.run("backprop").noise == study.noise == Noise(dimensions=4)
    assert study.run("fast").training == study.training
    with pytest.raises(ValueError, match="frozen"):
        study.threads = 2  # type: ignore[misc]


def test_the_untrained_network_is_in_every_study_once() -> None:
    assert study_from(content(), "small.yaml", Study).labels() == ["backprop", "fast", "untrained"]
    rules = {"fresh": {"kind": "untrained"}, "vnc": {"kind": "vnc"}}
    assert study_from(content(rules=rules), "small.yaml", Study).labels() == ["fresh", "vnc"]
    assert study_from(content(rules={}), "small.yaml", Study).labels() == ["untrained"]


def test_runs_are_networks_by_rules_by_seeds() -> None:
    study = study_from(content(), "small.yaml", Study)
    identities = trained(study)
    assert len(set(identities)) == len(identities) == 2 * 3 * 2
    assert {(one.rule, one.kind) for one in identities} == {
        ("backprop", "backprop"),
        ("fast", "nmnc"),
        ("untrained", "untrained"),
    }
    assert identities[0].folder == "net/backprop/seed0"
    assert [one.network for one in references(study)] == ["alexnet", "pixels"]


SEEN = {"image_size": 8, "mean": [0.0] * 3, "std": [1.0] * 3}


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ({"network": "net:small", "weights": "w.pth", "preprocessing": SEEN}, "pretrained"),
        ({"network": "torchvision:resnet18", "weights": "w.pth", "preprocessing": SEEN}, "pretrained"),
        ({"network": "elsewhere/network.pt"}, "pretrained"),
        ({"network": "elsewhere/network.pt", "kind": "net:small"}, "pretrained"),
        ({"network": "torchvision:resnet18", "preprocessing": SEEN}, "initial"),
        ({"network": "timm:resnet18", "preprocessing": SEEN}, "initial"),
        ({"network": "net:small", "arguments": {"pretrained": True}, "preprocessing": SEEN}, "as_built"),
    ],
)
def test_a_reference_model_is_labelled_by_what_is_loaded(model: dict[str, Any], label: str) -> None:
    study = study_from({"study": "one", "evaluation": {"models": {"m": model}}}, "one.yaml", Study)
    found, _ = references(study)
    assert found == ("m", label, label, 0)
    assert label in REFERENCES


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"network": "network.pt", "kind": "convnet"}, "kind 'convnet' must be what built a network.pt"),
        ({"network": "a:b", "kind": "a:b", "preprocessing": SEEN}, "kind 'a:b' must be what built a network.pt"),
        ({"network": "a:b", "weights_key": "ema", "preprocessing": SEEN}, "weights_key 'ema' chooses from a file"),
        ({"network": "pixels"}, "pixels are scored in every study"),
    ],
)
def test_models_that_say_two_things_are_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        study_from({"study": "one", "evaluation": {"models": {"m": model}}}, "one.yaml", Study)


def test_the_table_of_runs_holds_the_values_each_run_uses() -> None:
    study = study_from(content(), "small.yaml", Study)
    rows = list(parameters(study))
    assert len(rows) == 12 + 2
    for row in rows[:12]:
        run = study.run(row["rule"])
        assert (row["noise.images"], row["training.epochs"]) == (run.noise.images, 2)
    assert {row["noise.images"] for row in rows[:12]} == {2, 8}


def test_data_are_looked_for_below_nmnc_data_first(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_from(content(), "small.yaml", Study)
    monkeypatch.setenv("NMNC_DATA", "elsewhere")
    assert data_folder(study) == Path("elsewhere")
    monkeypatch.setenv("NMNC_DATA", "a{b}")
    with pytest.raises(UserError, match=r"NMNC_DATA: a path cannot have the character '\{' here"):
        data_folder(study)
    monkeypatch.delenv("NMNC_DATA")
    assert data_folder(study) == Path("images")
    assert results_folder(study) == Path("results/small")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"networks": {"a": NET, "a-b": NET}, "rules": {"b-c": VNC, "c": VNC}},
            "networks.a-b with rules.c and networks.a with rules.b-c would share the file a-b-c; rename one",
        ),
        ({"networks": {"net": NET, "Net": NET}}, "would share the file Net-vnc; rename one"),
        ({"rules": {"vnc": VNC, "VNC": VNC}}, "would share the file net-VNC; rename one"),
        (
            {"networks": {"a_b": NET, "a-b": NET}},
            "'a-b' and the name 'a_b' would share the file figure a-b; rename one",
        ),
        (
            {"networks": {"m": NET}, "rules": {"pretrained": VNC}, "evaluation": {"models": {"M": REFERENCE}}},
            "evaluation.models.M and networks.m with rules.pretrained would share the file M-pretrained; rename one",
        ),
        (
            {"evaluation": {"benchmarks": ["x", "layer_x"], "benchmark_folders": {"x": "x", "layer_x": "y"}}},
            "the benchmark 'layer_x' and the benchmark 'x' would share the file variable layer-x; rename one",
        ),
        ({"study": "Reference"}, "results/reference is reserved for published results"),
    ],
)
def test_names_that_would_share_a_file_are_refused(changes: dict[str, Any], words: str) -> None:
    plain = {"study": "s", "dataset": {"name": "digits"}, "networks": {"net": NET}, "rules": {"vnc": VNC}}
    with pytest.raises(UserError, match=re.escape(words)):
        study_from(plain | changes, "study.yaml", Study)


def test_names_that_only_look_alike_are_accepted() -> None:
    rules = {"b-c": VNC | {"networks": ["a-b"]}, "c": VNC | {"networks": ["a"]}, "b": VNC | {"networks": ["a"]}}
    alike = {"study": "s", "dataset": {"name": "digits"}, "networks": {"a": NET, "a-b": NET}, "rules": rules}
    assert study_from(alike, "study.yaml", Study).labels("a") == ["c", "b", "untrained"]
