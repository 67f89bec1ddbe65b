"""Run the tests as on other machines: other kernels, locale, time zone, user and folders, and beside busy programs.

    python tests/anywhere.py                      the numeric tests under each kernel, then the whole suite
    python tests/anywhere.py other-kernel         one run of the matrix
    python tests/anywhere.py everything -k alpha  with arguments for pytest

Prints one line a run; status 1 where one failed. Its programs end with it and its folders are removed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEAD = "http://127.0.0.1:9"  # nobody listens there
ELSEWHERE = {"LC_ALL": "C", "TZ": "Asia/Kathmandu"}
#: Of a desktop, a cluster and a company's network, all at once.
HOSTILE = ELSEWHERE | {
    "http_proxy": DEAD, "https_proxy": DEAD, "no_proxy": "", "HOME": "/nonexistent", "CUDA_VISIBLE_DEVICES": "",
    "COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb", "PYTHONHASHSEED": "12345",
}  # fmt: skip
NUMERIC = ["-m", "numeric"]
#: Two workers; a test file goes to one of them.
WORKERS = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
#: The processor's feature that a run needs, its environment, and its tests. The kernels are those of numpy's and
#: scipy's OpenBLAS, of torch and of torch's MKL. CI makes the first run.
MATRIX: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "other-kernel": (
        "sse4_2",
        ELSEWHERE | {"OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
        NUMERIC,
    ),
    "Haswell": ("avx2", {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}, NUMERIC),
    "SkylakeX": ("avx512f", {"OPENBLAS_CORETYPE": "SkylakeX", "OMP_NUM_THREADS": "8"}, NUMERIC),
    "everything": ("", HOSTILE, []),
}
NOBODY = 65534
#: Seconds of a processor that a busy program gets, should this one be killed.
BUSY = 3600


@contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Programs that use a processor each, and do nothing."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({BUSY},) * 2)\nwhile True: pass"
    with ExitStack() as stack:
        for _ in range(number):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", code]))
            stack.callback(process.kill)
        yield


def ordinary_user() -> dict[str, Any]:
    """Arguments of subprocess that make root an ordinary user; none where nobody may read the environment or this."""
    if os.geteuid() != 0:
        return {}
    nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY}
    try:
        subprocess.run([sys.executable, "-c", "import torch"], cwd=ROOT, check=True, capture_output=True, **nobody)
    except (OSError, subprocess.CalledProcessError):
        print("anywhere: runs as root, since other users cannot read this environment")
        return {}
    return nobody


def run(name: str, more: list[str]) -> bool:
    """One run of the matrix; whether it passed or cannot be made here."""
    needed, environment, tests = MATRIX[name]
    features = Path("/proc/cpuinfo")
    if needed and features.exists() and needed not in features.read_text():
        print(f"anywhere: {name}: not run, this processor has no {needed}")
        return True
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="a b é ") as folder, ExitStack() as stack:
        as_user: dict[str, Any] = {}
        if name == "everything":
            environment = environment | {"TMPDIR": folder}
            as_user = ordinary_user() | {"umask": 0o077}
            Path(folder).chmod(0o777)
            stack.enter_context(busy_programs(2))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *WORKERS, *tests, *more]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        status = subprocess.call(command, cwd=ROOT, env=os.environ | environment | {"PATH": path}, **as_user)
    print(
        f"anywhere: {name}: {'passed' if status == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True
    )
    return status == 0


def main(arguments: list[str]) -> int:
    """Make the runs that are named first, or all; the rest is for pytest."""
    names = []
    while arguments and arguments[0] in MATRIX:
        names.append(arguments.pop(0))
    return 0 if all([run(name, arguments) for name in names or MATRIX]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
