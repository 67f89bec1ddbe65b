"""Learning rules: `nmnc.rule_kinds.RULES` names them.

A rule turns the output error into a signal for every hidden stage, the (estimated) gradient of the loss with respect
to that stage's output. The loop (`nmnc.training.trainer`), the optimiser, the seeds and the order of the data are the
same for all rules.
"""

from importlib import import_module

from nmnc.errors import UserError
from nmnc.networks import Network
from nmnc.rule_kinds import OPTIONS, refuse_unsupported, rule_kind
from nmnc.rules.base import Rule
from nmnc.settings import Noise

__all__ = ["Rule", "make_rule"]


def make_rule(kind: str, network: Network, sizes: list[int], classes: int, noise: Noise, seed: int) -> Rule:
    """Return the rule named `kind` (see `Rule.__init__`); UserError for an unknown name or unusable settings."""
    try:
        entry = rule_kind(kind)
    except ValueError as error:
        raise UserError(f"rules: {error}") from None
    try:
        refuse_unsupported(kind, noise)
    except ValueError as error:
        raise UserError(str(error)) from None
    variants = [reference for name, reference in entry.options.items() if reference and OPTIONS[name].given(noise)]
    module, _, name = next(iter(variants), entry.rule).partition(":")
    rule: Rule = getattr(import_module(module), name)(network, sizes, classes, noise, seed)
    return rule
