"""Fixtures every test may use."""

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Workers of pytest-xdist share the processors: set before numpy and torch are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A user's proxies, colours, width of the terminal and defaults of other programs are none of the tests' business.
OF_THE_USER = re.compile(
    r"(?i:.*_proxy)|(FORCE|NO|PY)_COLOR.*|CLICOLOR.*|COLUMNS|LINES|TERM|TERMINAL_WIDTH|TTY_.*|GITHUB_ACTIONS|"
    r"(GIT|SNAKEMAKE|TQDM|MPL|HYDRA|BS|RESULTCACHING|BRAINIO|BRAINSCORE)_?[A-Z_]*"
)
for name in filter(OF_THE_USER.fullmatch, list(os.environ)):
    del os.environ[name]

# Property tests try the same examples on every machine, however slow it is; --hypothesis-profile=default tries others.
settings.register_profile(
    "everywhere", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("everywhere")

#: Set where all data sets are known to be there (CI): a test that would be skipped for want of them fails.
REQUIRED = os.environ.get("NMNC_REQUIRE_DATA") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker starts one when the other has finished."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Programs that tests start keep their caches here, and find no profile of the user's."""
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))


@pytest.fixture(scope="session")
def data_folder() -> Callable[..., Path]:
    """A function that returns the data folder, or skips where the named files are not there."""

    def find(*needed: str) -> Path:
        folder = Path(os.environ.get("NMNC_DATA", "data"))
        for name in needed:
            if not (folder / name).exists():
                pytest.skip(f"real data not here: {folder / name} (set NMNC_DATA to the data folder)")
        return folder

    return find


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Turn a skipped test of real data into a failed one where NMNC_REQUIRE_DATA=1."""
    report = yield
    needs_data = item.get_closest_marker("real_data") or "data_folder" in getattr(item, "fixturenames", ())
    if REQUIRED and report.skipped and needs_data and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although NMNC_REQUIRE_DATA=1: {report.longrepr[2]}"
    return report
