"""Files from elsewhere: found below the data folder with the right hash, or downloaded to there."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from brain_eval.benchmarks.base import DataFile
from nmnc.errors import UserError
from nmnc.files.writing import replacing

#: Seconds without an answer from the server before a download is given up.
TIMEOUT = 30


def ensure(files: Sequence[DataFile], data_folder: Path) -> list[Path]:
    """Return the path of every file, all verified; download those that are absent to `place(file, data_folder)`.

    Every call hashes every file: 25 MB take 20 ms, and a remembered hash could be stale.

    Raises:
        UserError: a file is truncated or has another hash (names both), or is absent and cannot be downloaded (names
            URL, hash and place). A file that is there is never overwritten.
    """
    if data_folder.exists() and not data_folder.is_dir():
        raise UserError(f"the data folder {data_folder} is not a folder; set NMNC_DATA or --data to one")
    paths = [place(file, data_folder) for file in files]
    # Present files are checked first, so that a damaged file is reported before any download.
    for path, file in zip(paths, files, strict=True):
        if path.exists():
            _check(path, file)
    absent = [(path, file) for path, file in zip(paths, files, strict=True) if not path.exists()]
    for number, (path, file) in enumerate(absent):
        _download(path, file, data_folder, remaining=len(absent) - number - 1)
    return paths


def brainio_home(data_folder: Path) -> Path:
    """Where Brain-Score's files lie: $BRAINIO_HOME, else the folder brainio below the data folder."""
    chosen = os.environ.get("BRAINIO_HOME")
    return Path(chosen).expanduser() if chosen else data_folder / "brainio"


def place(file: DataFile, data_folder: Path) -> Path:
    """Where a file lies: data_folder / file.path, but brainio/... in $BRAINIO_HOME where that is set."""
    first, _, rest = file.path.partition("/")
    return brainio_home(data_folder) / rest if first == "brainio" else data_folder / file.path


def state(files: Sequence[DataFile], data_folder: Path) -> str:
    """Return "yes" where every file is here and right, "no" where one is absent, else "damaged"."""
    paths = [place(file, data_folder) for file in files]
    if not all(path.is_file() for path in paths):
        return "no"
    try:
        for path, file in zip(paths, files, strict=True):
            _check(path, file)
    except UserError:
        return "damaged"
    return "yes"


def _check(path: Path, file: DataFile) -> None:
    advice = f"delete it and rerun to download it from {file.url}"
    if not path.is_file():
        raise UserError(f"{path} is not a file; move it and rerun to download it from {file.url}")
    size = path.stat().st_size
    if file.size is not None and size < file.size:
        raise UserError(f"{path} is truncated: {size} of {file.size} bytes; {advice}")
    for kind, found, expected in _wrong_hashes(path, file):
        raise UserError(f"{path} has the wrong {kind} {found}, expected {expected}; {advice}")


def _wrong_hashes(path: Path, file: DataFile) -> list[tuple[str, str, str]]:
    """(kind of hash, what the file at `path` has, what it should have) where the two differ."""
    expected = {"sha256": file.sha256, "sha1": file.sha1}
    if not any(expected.values()):
        raise ValueError(f"{file.path} is declared without a hash")
    found = {kind: _digest(path, kind) for kind, value in expected.items() if value}
    return [(kind, value, expected[kind]) for kind, value in found.items() if value != expected[kind]]


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, kind).hexdigest()


def _download(path: Path, file: DataFile, data_folder: Path, remaining: int) -> None:
    # Imported here: listing and scoring with the data in place need neither.
    import pooch
    import requests
    from tqdm import tqdm

    by_hand = f"put it at {path} by hand ({file.digest})"
    listed = "brain_eval benchmarks --files lists all"
    more = f"; {remaining} more file{'s' * (remaining > 1)} of this source absent too ({listed})" if remaining else ""
    # A misspelt data folder would otherwise look like a missing download.
    nowhere = "" if data_folder.exists() else f" (the data folder {data_folder} does not exist)"
    # Where the size is unknown any total will do, pooch takes the answer's; it cannot handle a bar without one.
    bar = tqdm(total=file.size or 1, desc=path.name, unit="B", unit_scale=True, disable=None)
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT)
    try:
        with bar, replacing(path) as temporary:
            downloader(file.url, str(temporary), None)
            _check_download(temporary, path, file)
    except requests.RequestException as error:
        reason = type(error).__name__
        if isinstance(error, requests.HTTPError) and error.response is not None:
            reason = f"the server answered {error.response.status_code}"
        raise UserError(
            f"{path} is absent{nowhere} and could not be downloaded from {file.url} ({reason}); "
            f"connect to the network and rerun, or {by_hand}{more}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}; free disk space or fix the permissions, or set "
            "NMNC_DATA to another folder, and rerun"
        ) from error


def _check_download(temporary: Path, path: Path, file: DataFile) -> None:
    size = temporary.stat().st_size
    expected_size = "" if file.size is None else f"{file.size} bytes and "
    for kind, found, expected in _wrong_hashes(temporary, file):
        raise UserError(
            f"the download of {path} from {file.url} has {size} bytes and {kind} {found}, expected "
            f"{expected_size}{expected}; nothing was kept; rerun"
        )
