"""Between a step's first and last operation nothing is read back from the device, whatever the rule."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmnc.data.dataset import Dataset
from nmnc.rule_kinds import RULES
from nmnc.training.trainer import Trainer

KINDS = sorted(set(RULES) - {"untrained"})
READING = (
    "item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__len__",
    "__array__", "__format__", "__repr__", "__contains__",
)  # fmt: skip
FREE = {"__len__"}  # known without asking the device
REFRESH = 5
SETTINGS: dict[str, Any] = {
    "training": {"optimiser": "adam", "schedule": "cosine", "augmentation": "crop_flip"},
    "noise": {"basis_every": REFRESH, "refresh_every": 2},
    "networks": {
        "net": {"kind": "convnet", "arguments": {"channels": [4], "hidden": [8], "batch_norm": True, "dropout": 0.1}}
    },
}
CASES = [
    *((kind, {}) for kind in KINDS),
    ("nmnc", {"noise": {"basis": "incremental"}}),
    ("nmnc", {"training": {"precision": "bfloat16"}}),
]


def settings_with(changes: dict[str, Any]) -> dict[str, Any]:
    return SETTINGS | {section: SETTINGS[section] | values for section, values in changes.items()}


@contextmanager
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count within how often Python asks a tensor for its values, or picks by a mask, whose count it must know."""
    found: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def method(self: Tensor, *arguments: Any, **options: Any) -> Any:
            masks = [part for part in arguments if isinstance(part, Tensor) and part.dtype == torch.bool]
            inside = [part for part in arguments if isinstance(part, tuple)]
            masks += [
                part for parts in inside for part in parts if isinstance(part, Tensor) and part.dtype == torch.bool
            ]
            found[name] += bool(masks) if name in ("__getitem__", "__setitem__") else 1
            return original(self, *arguments, **options)

        return method

    with monkeypatch.context() as patch:
        for name in (*(set(READING) - FREE), "__getitem__", "__setitem__"):
            patch.setattr(Tensor, name, counted(name))
        yield found


def step(run: Trainer, number: int) -> None:
    """One step as the loop makes it."""
    chosen = slice(0, run.run.training.batch_size)
    run.step = number
    run._step(run.augment(run.images[chosen]), run.labels[chosen])


def test_the_counter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(3.0)
    for read in (
        lambda: x.sum().item(), lambda: bool(x[0]), lambda: float(x[0]), lambda: x.tolist(), lambda: x.cpu(),
        lambda: x[x > 0], lambda: x.numpy(), lambda: x.isfinite().all() and 1, lambda: x[None, x > 0],
    ):  # fmt: skip
        with reads(monkeypatch) as found:
            read()
        assert found.total() == 1, found
    with reads(monkeypatch) as found:
        torch.where(x > 0, x, 0) + x[torch.tensor([1, 0, 2])]
    assert found.total() == 0


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_step_reads_nothing_back(
    toy: Any, monkeypatch: pytest.MonkeyPatch, kind: str, changes: dict[str, Any]
) -> None:
    run = toy.trainer(kind, **settings_with(changes))
    run.network.train()
    run.rule.start(run._first_outputs())
    step(run, 0)
    counts = {}
    for number in range(1, 2 * REFRESH + 2):  # with and without perturbations, looks at the activity, refreshes
        with reads(monkeypatch) as found:
            step(run, number)
        counts[number] = found
    refreshes = {number for number in counts if number % REFRESH == 0 and run.rule.bases}
    assert {number: +found for number, found in counts.items() if number not in refreshes and found.total()} == {}
    # A basis keeps what can be told from rounding, and how much that is decides its shape.
    assert all(counts[number].total() <= 4 * len(run.rule.sizes) for number in refreshes), counts


def test_the_optimiser_and_the_schedule_read_nothing_back(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for training in ({"optimiser": "sgd"}, {"optimiser": "sgd", "schedule": "step", "clip_norm": None}):
        run = toy.trainer("backprop", training=training)
        step(run, 0)
        with reads(monkeypatch) as found:
            step(run, 1)
        assert found.total() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_step_on_a_gpu_waits_for_nothing(toy: Any, kind: str, changes: dict[str, Any]) -> None:
    data: Dataset = toy.dataset
    settings = toy.study(**settings_with(changes) | {"device": "cuda"})
    run = Trainer(data, settings.networks["net"], settings.run(kind), 0, torch.device("cuda"))
    run.network.train()
    run.rule.start(run._first_outputs())
    for number in range(3):
        step(run, number)
    torch.cuda.synchronize()
    batches = torch.from_numpy(np.arange(toy.batch)).to("cuda")
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for number in range(REFRESH + 1, 2 * REFRESH):
            run.step = number
            run._step(run.augment(run.images[batches]), run.labels[batches])
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert run.watch.looked >= 0
