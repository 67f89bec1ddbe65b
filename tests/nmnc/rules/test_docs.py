"""The rule that docs/adding-a-rule.md teaches works as it stands there."""

import sys
import textwrap
from types import ModuleType

import pytest
import torch

from nmnc import rules
from nmnc.networks.mlp import mlp
from nmnc.rule_kinds import RULES, RuleKind
from nmnc.settings import Noise
from tests.places import ROOT

DOCS = ROOT / "docs" / "adding-a-rule.md"


def test_the_rule_of_the_docs_can_be_registered_and_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = DOCS.read_text(encoding="utf-8")
    code = [line for line in text.splitlines() if line.startswith("       ")]
    module = ModuleType("random_feedback_of_the_docs")
    vars(module).update({"Rule": rules.Rule, "torch": torch})
    exec(textwrap.dedent("\n".join(code)), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(RULES, "random_feedback", RuleKind(f"{module.__name__}:RandomFeedback"))
    network = mlp((1, 2, 2), 3, hidden=[6, 5])
    rule, other = (rules.make_rule("random_feedback", network, [6, 5], 3, Noise(), seed) for seed in (1, 2))
    rule.start([])
    error = torch.randn(4, 3)
    assert [signal.shape for signal in rule.signals(error)] == [(4, 6), (4, 5)]
    other.start([])
    other.load_state_dict(rule.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(rule.signals(error), other.signals(error), strict=True))
    assert rule.local
