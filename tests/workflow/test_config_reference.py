"""config/README.md says what the models say, and every study of config/ loads."""

import difflib
import re
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from nmnc.sections import Section
from workflow.config_reference import COMMAND, README, description_of, reference, section_of, sections
from workflow.study import Study, load_study

CONFIGS = sorted(README.parent.glob("*.yaml"))


def test_the_reference_is_what_the_models_say() -> None:
    written = README.read_text(encoding="utf-8")
    lines = difflib.unified_diff(
        written.splitlines(), reference().splitlines(), "config/README.md", "nmnc/config.py", lineterm="", n=0
    )
    assert written == reference(), f"run `{COMMAND}`; it would change:\n" + "\n".join(lines)


def test_the_first_lines_say_how_to_write_it_again() -> None:
    assert COMMAND in "\n".join(reference().splitlines()[:5])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_study_loads_and_has_its_own_results_folder(path: Path) -> None:
    study = load_study(path)
    names = [load_study(other).study for other in CONFIGS]
    assert names.count(study.study) == 1


def test_every_key_has_a_description() -> None:
    silent = [f"{place}.{key}" for place, model in sections(Study) for key, field in model.model_fields.items()
              if not description_of(field).strip()]  # fmt: skip
    assert silent == []


def test_every_key_of_the_studies_stands_in_the_reference() -> None:
    known = {(place, key) for place, model in sections(Study) for key in model.model_fields}
    for path in CONFIGS:
        assert _keys(yaml.safe_load(path.read_text(encoding="utf-8")), Study, "") <= known


def _keys(content: dict, model: type[Section], place: str) -> set[tuple[str, str]]:
    """(section, key) of all that a study gives, read from the file and not through the models' values."""
    found = set()
    for key, value in content.items():
        found.add((place, key))
        below, named = section_of(model.model_fields[key].annotation)
        if below is not None and value is not None:
            inside = ".".join(filter(None, (place, key, "NAME" if named else "")))
            for entry in value.values() if named else [value]:
                found |= _keys(entry, below, inside)
    return found


def test_limits_and_defaults_are_told() -> None:
    page = reference()
    assert re.search(r"\| `rate` \| number \| `0.2` \| > 0, <= 1 \|", page)
    assert re.search(
        r"\| `seeds` \| list of whole numbers \| `\[0\]` \| at least 1, each >= 0, each < 9223372036854775808 \|", page
    )
    assert re.search(r"\| `name` \| `digits` or `cifar10` \| \*required\* \|", page)
    assert re.search(r"\| `clip_norm` \| number or empty \| `1.0` \| > 0, <= 1e\+30 \|", page)


def test_a_limit_without_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithMultiple(Section):
        """A section."""

        even: int = Field(2, multiple_of=2, description="an even number")

    monkeypatch.setattr("workflow.config_reference.Study", WithMultiple)
    with pytest.raises(NotImplementedError, match="multiple_of=2"):
        reference()
