"""Files of a source: found, downloaded, refused. The server of these tests is on this machine."""

import errno
import gc
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from brain_eval.benchmarks.base import DataFile
from brain_eval.benchmarks.sources import brainio_home, ensure, place, state
from nmnc.errors import UserError

# requests leaves a socket to the garbage collector where a download ends in an error.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves /right, /wrong (other bytes), /short (too few), /broken (stops halfway), else 404."""

    served: list[str]

    def do_GET(self) -> None:
        self.served.append(self.path)
        bodies = {
            "/right": CONTENT,
            "/wrong": b"x" + CONTENT[1:],
            "/short": CONTENT[:-1],
            "/broken": CONTENT[:100],
        }
        if self.path not in bodies:
            self.send_error(404)
            return
        length = len(CONTENT) if self.path == "/broken" else len(bodies[self.path])
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(bodies[self.path])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The server's address and the list of paths it was asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served: list[str] = []
    handler = type("OwnHandler", (Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", served
        http.shutdown()
        thread.join()
    gc.collect()


def data_file(address: str, path: str = "/right", name: str = "source/part/a.bin") -> DataFile:
    return DataFile(name, address + path, len(CONTENT), SHA256)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_downloads_once_then_uses_what_is_there(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, served = server
    for _ in range(2):
        (path,) = ensure([data_file(address)], tmp_path / "data")
        assert path == tmp_path / "data/source/part/a.bin"
        assert path.read_bytes() == CONTENT
    assert served == ["/right"]
    assert files_below(tmp_path) == [path]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/wrong", f"has {len(CONTENT)} bytes and sha256 [0-9a-f]{{64}}, expected .* {SHA256}; nothing was kept"),
        ("/short", f"has {len(CONTENT) - 1} bytes and sha256 .* expected {len(CONTENT)} bytes"),
        ("/broken", "could not be downloaded"),
        ("/gone", "could not be downloaded .*the server answered 404"),
    ],
)
def test_a_bad_download_leaves_nothing(tmp_path: Path, server: tuple[str, list[str]], path: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ensure([data_file(server[0], path)], tmp_path)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []
    # After the mend the same call goes on.
    assert ensure([data_file(server[0])], tmp_path)[0].read_bytes() == CONTENT


def test_no_network_tells_file_url_hash_and_place(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    closed = "http://127.0.0.1:9"
    files = [data_file(closed), data_file(closed, name="source/b.bin")]
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        ensure(files, tmp_path / "misspelt")
    text = str(caught.value)
    place = tmp_path / "misspelt/source/part/a.bin"
    assert "\n" not in text
    for part in (f"{place} is absent", f"{closed}/right", SHA256, f"put it at {place}", "1 more file"):
        assert part in text
    assert f"the data folder {tmp_path / 'misspelt'} does not exist" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], f"truncated: {len(CONTENT) - 1} of {len(CONTENT)} bytes; delete it and rerun"),
        (b"x" + CONTENT[1:], f"wrong sha256 [0-9a-f]{{64}}, expected {SHA256}; delete it and rerun"),
        (CONTENT + b"x", f"wrong sha256 [0-9a-f]{{64}}, expected {SHA256}"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(
    tmp_path: Path, server: tuple[str, list[str]], content: bytes, message: str
) -> None:
    address, served = server
    damaged = tmp_path / "source/part/a.bin"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(content)
    # The absent neighbour comes first in the list, but is not downloaded for nothing.
    with pytest.raises(UserError, match=message):
        ensure([data_file(address, name="source/b.bin"), data_file(address)], tmp_path)
    assert damaged.read_bytes() == content
    assert served == []
    assert state([data_file(address)], tmp_path) == "damaged"


def test_a_file_that_changed_since_is_noticed(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    file = data_file(server[0])
    assert state([file], tmp_path) == "no"
    (path,) = ensure([file], tmp_path)
    assert state([file], tmp_path) == "yes"
    path.write_bytes(b"y" + CONTENT[1:])
    with pytest.raises(UserError, match="wrong sha256"):
        ensure([file], tmp_path)


def test_a_file_known_by_its_sha1_only(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """As Brain-Score pins its files: no size, no sha256."""
    sha1 = hashlib.sha1(CONTENT).hexdigest()
    right = DataFile("source/a.bin", server[0] + "/right", None, sha1=sha1)
    wrong = DataFile("source/b.bin", server[0] + "/wrong", None, sha1=sha1)
    assert ensure([right], tmp_path)[0].read_bytes() == CONTENT
    with pytest.raises(UserError, match=f"has {len(CONTENT)} bytes and sha1 [0-9a-f]{{40}}, expected {sha1}; nothing"):
        ensure([wrong], tmp_path)
    assert files_below(tmp_path) == [tmp_path / "source/a.bin"]
    (tmp_path / "source/a.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=f"wrong sha1 [0-9a-f]{{40}}, expected {sha1}; delete it"):
        ensure([right], tmp_path)


def test_a_file_without_a_hash_is_a_mistake_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with pytest.raises(ValueError, match=r"a\.bin is declared without a hash"):
        ensure([DataFile("a.bin", "", None)], tmp_path)


def test_brain_scores_files_lie_in_its_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [DataFile("brainio/sha1/a.nc", "", None, sha1="0"), DataFile("other/brainio/b", "", None, sha1="0")]
    monkeypatch.delenv("BRAINIO_HOME", raising=False)
    assert [place(file, tmp_path) for file in files] == [tmp_path / "brainio/sha1/a.nc", tmp_path / "other/brainio/b"]
    monkeypatch.setenv("BRAINIO_HOME", "~/brains")
    assert brainio_home(tmp_path) == Path.home() / "brains"
    assert [place(file, tmp_path) for file in files] == [
        Path.home() / "brains/sha1/a.nc",
        tmp_path / "other/brainio/b",
    ]


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="is not a folder; set NMNC_DATA"):
        ensure([data_file("http://127.0.0.1:9")], tmp_path / "data")


def test_a_place_that_cannot_be_written(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    (tmp_path / "source").write_text("")
    with pytest.raises(UserError, match=r"could not be written: .*free disk space or fix"):
        ensure([data_file(server[0])], tmp_path)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(self: object, url: str, output_file: str, pooch: None) -> None:
        Path(output_file).write_bytes(CONTENT[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fill)
    with pytest.raises(UserError, match="No space left on device; free disk space"):
        ensure([data_file("http://127.0.0.1:9")], tmp_path)
    assert files_below(tmp_path) == []
