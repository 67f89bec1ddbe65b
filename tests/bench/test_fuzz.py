"""Whatever is thrown at the checks, they end in success or in one line, soon, within their memory, and touch nothing.

Hypothesis chooses which kind of input is damaged and how; bench/fuzz.py, in a process of its own that has imported
everything, forks a child for each. `python bench/fuzz.py` throws thousands (CONTRIBUTING.md).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.places import BENCH

FUZZ = BENCH / "fuzz.py"
KINDS = ("study", "data_npz", "data_folder", "benchmark", "model", "weights", "checkpoint", "module")


@pytest.fixture(scope="module")
def thrown() -> Iterator[Callable[[str, int], dict[str, str]]]:
    """Throw input (kind, number) at its check; what came of it."""
    environment = os.environ | {"NMNC_DATA": ""}
    command = [sys.executable, str(FUZZ), "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def ask(kind: str, number: int) -> dict[str, str]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([kind, number]), file=process.stdin, flush=True)
            answer: dict[str, str] = json.loads(process.stdout.readline())
            return answer

        yield ask


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(KINDS), number=st.integers(0, 10**6))
def test_damaged_inputs_end_in_success_or_one_line(
    thrown: Callable[[str, int], dict[str, str]], kind: str, number: int
) -> None:
    found = thrown(kind, number)
    assert found["outcome"] in ("success", "refused"), found


@pytest.mark.parametrize("kind", KINDS)
def test_an_undamaged_input_is_accepted_and_a_damaged_one_refused_or_accepted(
    thrown: Callable[[str, int], dict[str, str]], kind: str
) -> None:
    assert thrown(kind, -1)["outcome"] == "success"
    found = thrown(kind, 0)
    assert found["outcome"] in ("success", "refused"), found
