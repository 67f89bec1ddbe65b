"""One training job: from a study, a network, a rule and a seed to the files of results/STUDY/networks."""

import hashlib
import json
import os
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nmnc.config import NetworkEntry, Study
from nmnc.data.dataset import Dataset, extent_of, load_dataset
from nmnc.device import memory_of, prepare_torch, refuse_beyond_memory
from nmnc.errors import UserError, did_you_mean
from nmnc.files.reading import read_json
from nmnc.files.sources import code_digest
from nmnc.files.writing import claimed, csv_text, only_writer, write_text
from nmnc.interruption import interruptible
from nmnc.measure import diagnostics
from nmnc.modules import code_sha256
from nmnc.networks import Size, build_network, layer_sizes, size_of
from nmnc.rule_kinds import modules_of
from nmnc.rules import Rule, make_rule
from nmnc.runs import Identity, data_folder, results_folder
from nmnc.training.checkpoint import run_key, save_network, weights_sha256
from nmnc.training.provenance import git_commit, hardware, versions
from nmnc.training.trainer import EPOCH_COLUMNS, Trainer

#: Largest network, in bytes, that `check` builds.
LARGE = 10**9
#: Files of a run, in the order in which they are written.
FILES = ("provenance.json", "epochs.csv", "alignment.csv", "timing.csv", "network.pt")


def check(study: Study) -> list[str]:
    """Check networks, rules and their fit to the data before any job runs.

    Returns:
        Warnings, one line each, about settings that run but probably not as intended.

    Raises:
        UserError: the first mistake found.
    """
    warnings: list[str] = []
    if study.dataset is None:
        return warnings
    extent = extent_of(study.dataset, data_folder(study))
    shape, classes = extent.shape, extent.classes
    for name, entry in study.networks.items():
        try:
            size = size_of(entry.kind, shape, classes, entry.arguments)
            if size is not None and _refuse_large(study, name, size) > LARGE:
                continue  # it can be trained, but is too expensive to build for a check
            network = build_network(entry.kind, shape, classes, entry.arguments)
            sizes = layer_sizes(network, shape)
        except UserError as error:
            raise UserError(f"networks.{name}: {error}") from None
        if sizes[-1] != classes:
            raise UserError(f"networks.{name}: {sizes[-1]} outputs for {classes} classes; fix its last stage")
        checked_rules: dict[str, Rule] = {}  # points of a sweep over step sizes have the same rule
        for label in study.labels(name):
            run = study.run(label)
            batch = run.training.batch_size
            if batch > extent.n_train and run.training.epochs:
                raise UserError(
                    f"rules.{label}: training.batch_size {batch} exceeds the {extent.n_train} training images; lower it"
                )
            key = run.kind + run.noise.model_dump_json()
            try:
                rule = checked_rules.get(key) or make_rule(run.kind, network, sizes[:-1], classes, run.noise, 0)
            except UserError as error:
                raise UserError(f"rules.{label} on networks.{name}: {error}") from None
            checked_rules = {key: rule}
            warnings += [f"rules.{label} on networks.{name}: {warning}" for warning in rule.warnings()]
    return warnings


def _refuse_large(study: Study, name: str, size: Size) -> int:
    """Return the bytes for building a network and passing one image; UserError if its training exceeds the memory."""
    batch = max((study.run(label).training.batch_size for label in study.labels(name)), default=1)
    # Counted are weights, gradients and the optimiser's state, and each unit's activity and gradient. A GPU has its
    # own memory, which is not checked here.
    needed = 4 * (3 * size.weights + 2 * batch * sum(size.units))
    if study.device == "cpu" or not torch.cuda.is_available():
        purpose = f"training {size.weights} weights on {batch} images a step"
        refuse_beyond_memory(purpose, needed, "choose a smaller network, image_size or batch_size")
    return 4 * (size.weights + sum(size.units))


def train_job(study: Study, network: str, label: str, seed: int, out: Path | None, wait: float) -> Path:
    """Train one run, or finish a killed one, and write its files; returns their folder.

    Args:
        study: the checked study.
        network: a name of study.networks.
        label: a label of study.labels().
        seed: decides everything random.
        out: folder to write to; None: results/STUDY/networks/NETWORK/RULE/seedN.
        wait: seconds to wait for another process that trains the same run.

    Raises:
        UserError: unknown names, unusable data, a second writer, or a run that diverged.
    """
    for name, known, section in ((network, study.networks, "network"), (label, study.labels(network), "rule")):
        if name not in known:
            raise UserError(f"unknown {section} {name!r}{did_you_mean(name, known)}")
    run = study.run(label)
    identity = Identity(network, label, run.kind, seed)
    device = prepare_torch(study.device, study.threads)
    assert study.dataset is not None  # a study with networks has one (nmnc.config)
    dataset = load_dataset(study.dataset, data_folder(study))
    description = {
        "network": study.networks[network].model_dump(mode="json"),
        "run": run.model_dump(
            mode="json", exclude={"training": {"checkpoint_minutes"}}
        ),  # has no effect on the weights
        "seed": seed,
        "dataset_sha256": dataset.sha256,
        "threads": study.threads,
        "device": device.type,
        "torch": torch.__version__,
        "source": code_digest(__name__, *modules_of(run.kind)),  # changed code may train other weights
        "network_source": _network_sha256(study.networks[network], dataset),
    }
    folder = results_folder(study)
    key = run_key(description)
    checkpoints = folder / ".checkpoints" / f"{identity.stem}-{key}"
    default_out = folder / "networks" / identity.folder
    out = out or default_out
    is_elsewhere = out.resolve() != default_out.resolve()
    # The first lock belongs to the run whatever its settings are: the study may be edited while the run is trained.
    with (
        only_writer(folder / ".locks" / identity.stem, wait),
        only_writer(checkpoints, wait),
        claimed(out / ".nmnc.lock", wait, out) if is_elsewhere else nullcontext(),
    ):
        if is_elsewhere:
            _refuse_to_replace(out, key)
        started = _utc_now()
        with memory_of(device, lambda: f"training: building {network}"):
            trainer = Trainer(dataset, study.networks[network], run, seed, device)
        with interruptible() as interruption:
            trainer.train(checkpoints / "state.pt", interruption)
        # If another process finished the same run meanwhile, its files stay: others may be reading them.
        if not _is_published(out, key):
            _publish(
                out, study, identity, trainer, dataset, {"run_key": key, "started": started, "finished": _utc_now()}
            )
    return out


def _is_published(out: Path, key: str) -> bool:
    """Return whether `out` contains all files of the run with this key."""
    return all((out / name).exists() for name in FILES) and _read_key(out) == key


def _read_key(out: Path) -> str | None:
    """Return the key of the run whose files are in `out`, or None if it cannot be read."""
    try:
        provenance = read_json(out / "provenance.json")
    except UserError:
        return None
    return provenance.get("run_key") if isinstance(provenance, dict) else None


def _refuse_to_replace(out: Path, key: str) -> None:
    """Raise UserError if `out` contains files of the same names that do not belong to this run."""
    existing = [name for name in FILES if os.path.lexists(out / name)]
    if existing and _read_key(out) != key:
        raise UserError(
            f"{out / existing[0]}: belongs to another run, or is a file of yours; choose another --out, or remove it"
        )


def _publish(
    out: Path, study: Study, identity: Identity, trainer: Trainer, dataset: Dataset, when: dict[str, str]
) -> None:
    """Write all files of a run: provenance.json first, which identifies the run, and network.pt last.

    A folder that contains network.pt is therefore complete.
    """
    for name in reversed(FILES):
        (out / name).unlink(missing_ok=True)
    entry = study.networks[identity.network]
    run = trainer.run.model_dump(mode="json")
    timing = [{"stage": stage, "seconds": round(seconds, 3)} for stage, seconds in trainer.seconds.items()]
    tables = {
        "epochs.csv": csv_text(EPOCH_COLUMNS, trainer.epochs),
        "alignment.csv": csv_text(diagnostics.COLUMNS, trainer.alignment),
        "timing.csv": csv_text(("stage", "seconds"), timing),
    }
    provenance = {
        "study": study.study,
        **identity._asdict(),
        "config": run | {"network": entry.model_dump(mode="json")},
        "versions": versions(),
        "hardware": hardware(trainer.device),
        "threads": study.threads,
        "device": trainer.device.type,
        "dataset": dataset.facts(),
        **when,
        "seconds": round(sum(trainer.seconds.values()), 3),
        "git": git_commit(),
        "weights_sha256": weights_sha256(trainer.network),
        "tables_sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in tables.items()},
    }
    config: dict[str, Any] = {
        "network": {
            "name": identity.network,
            "kind": entry.kind,
            "image_shape": list(dataset.image_shape),
            "classes": dataset.classes,
            "arguments": entry.arguments,
        },
        "preprocessing": dataset.preprocessing(),
        "run": run | {"rule": identity.rule, "seed": identity.seed},
    }
    write_text(out / "provenance.json", json.dumps(provenance, indent=2) + "\n", digest=True)
    for name, text in tables.items():
        write_text(out / name, text, digest=True)
    save_network(out / "network.pt", trainer.network, config)


def _network_sha256(entry: NetworkEntry, dataset: Dataset) -> str:
    """Return the hash of the code that builds a network, the user's code included."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(entry.kind, dataset.image_shape, dataset.classes, entry.arguments)
    return code_sha256(network, entry.kind)


def _utc_now() -> str:
    """Return the current time, ISO 8601, UTC, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
