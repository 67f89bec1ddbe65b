"""Learning rules: `nmnc.rule_kinds.RULES` names them.

A rule turns the output error into a signal for every hidden stage, the (estimated) gradient of the loss with respect
to that stage's output. The loop (`nmnc.training.trainer`), the optimiser, the seeds and the order of the data are the
same for all.
"""

from importlib import import_module

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.rule_kinds import OPTIONS, rule_kind
from nmnc.rules.base import Rule
from nmnc.settings import Noise

__all__ = ["Rule", "make_rule"]


def make_rule(kind: str, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> Rule:
    """The rule named `kind` (see `Rule.__init__`); UserError for an unknown name or impossible settings."""
    try:
        entry = rule_kind(kind)
    except ValueError as error:
        raise UserError(f"rules: {error}") from None
    forms = [place for name, place in entry.options.items() if place and OPTIONS[name].given(noise)]
    module, _, name = next(iter(forms), entry.rule).partition(":")
    rule: Rule = getattr(import_module(module), name)(network, sizes, classes, noise, seed)
    return rule
