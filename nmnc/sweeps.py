"""Sweeps: further rules of a study, copied from its rules with other values."""

import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from nmnc.errors import did_you_mean
from nmnc.rule_kinds import rule_kind
from nmnc.sections import MOST_CHARACTERS, NAME_PATTERN
from nmnc.settings import MOST_POINTS, Noise, RuleEntry, Sweep, Training
from nmnc.validation import overlay, short


class Point(NamedTuple):
    """One point of a sweep: the rule it copies, its values by key, its label and its entry."""

    rule: str
    values: dict[str, Any]
    label: str
    entry: RuleEntry


def points_of(rules: dict[str, RuleEntry], training: Training, noise: Noise, sweep: Sweep) -> Iterator[Point]:
    """Yield the points of a sweep over a study's rules; ValueError for an unknown rule or key."""
    number = len(sweep.rules) * math.prod(len(values) for values in sweep.values.values())
    if number > MOST_POINTS:
        raise ValueError(f"{number} points, at most {MOST_POINTS} are possible; set fewer values")
    for key, given in sweep.values.items():
        if any(value in given[:index] for index, value in enumerate(given)):
            raise ValueError(f"values.{key}: a value is repeated; give each once")
    for rule, chosen in product(sweep.rules, product(*sweep.values.values())):
        if rule not in rules:
            raise ValueError(f"unknown rule {rule!r}{did_you_mean(rule, rules)}")
        entry = rules[rule]
        settings = rule_kind(entry.kind).settings
        bases = {"training": training.model_dump(), "noise": overlay(noise, {}, "noise", settings).model_dump()}
        values = dict(zip(sweep.values, chosen, strict=True))
        sections = {"training": entry.training | sweep.training, "noise": entry.noise | sweep.noise}
        schedule = (bases["training"] | sections["training"])["schedule"]
        is_original = not sweep.noise and sweep.training.keys() <= ({"epochs"} if schedule == "constant" else set())
        for key, value in values.items():
            section, _, name = key.partition(".")
            if section not in bases or name not in bases[section]:
                known = [f"{part}.{field}" for part, fields in bases.items() for field in fields]
                raise ValueError(f"unknown key {key!r}{did_you_mean(key, known)}")
            is_original = is_original and (bases[section] | sections[section])[name] == value
            sections[section][name] = value
        if is_original:
            yield Point(rule, values, rule, entry)
            continue
        parts = [rule, *(f"{key.partition('.')[2]}-{value}" for key, value in values.items())]
        label = "-".join(parts)
        if not re.fullmatch(NAME_PATTERN, label) or len(label) > MOST_CHARACTERS:
            raise ValueError(
                f"{short(label)} cannot be a label: letters, digits, _ . - only, at most 200; choose other values"
            )
        changed = {"networks": sweep.networks or entry.networks, "seeds": sweep.seeds or entry.seeds}
        yield Point(rule, values, label, entry.model_copy(update=sections | changed))
