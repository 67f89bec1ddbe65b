"""Files appear whole or not at all; where they cannot be written, one line names the right one."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import netCDF4
import numpy as np
import pytest

import brain_eval.__main__
from brain_eval.files import netcdf_errors, open_netcdf
from nmnc.command_line import system_error
from nmnc.errors import UserError
from nmnc.files.writing import replacing

Limit = Callable[[int], AbstractContextManager[None]]


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path, file_size_limit: Limit) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with file_size_limit(1000), pytest.raises(OSError, match="too large") as caught, replacing(path) as temporary:
        temporary.write_text("x" * 2000)
    assert system_error(caught.value) == f"{path}: File too large; make room there and run the same command again"
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_place_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(PermissionError) as caught, replacing(path) as temporary:
        # As open() does, also where the tests run as root, whom no mode stops.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(temporary))
    assert system_error(caught.value) == f"{path}: Permission denied; fix that and run the same command again"


def test_a_folder_in_the_files_place_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(OSError, match="directory") as caught, replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("x")
    assert caught.value.filename == str(tmp_path / "file.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_errors_about_other_files_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file.txt"):
        (tmp_path / "elsewhere").read_text()
    assert caught.value.filename == str(tmp_path / "elsewhere")


def test_hdf5s_words_for_a_full_disk_become_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UserError, match=r"a\.nc: cannot be written \(NetCDF: HDF error\), .* GB .*; free disk space"
        ) as caught,
        netcdf_errors(tmp_path / "a.nc"),
    ):
        raise RuntimeError("NetCDF: HDF error")
    assert "\n" not in str(caught.value)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    command = ["brain_eval", "fetch", "--benchmark", "simulated", "--out", str(tmp_path / "out" / "summaries")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        brain_eval.__main__.main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"brain_eval: {tmp_path / 'out'}")
    assert line.endswith("Not a directory; fix that and run the same command again")


def netcdf(path: Path, n: int = 4, write: bool = True) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", n)
        values = file.createVariable("values", "f8", ("x",), fill_value=False, chunksizes=(min(n, 2**20),))
        if write:
            values[:] = np.arange(n)
    return path


def truncated(path: Path) -> None:
    netcdf(path).write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    content = bytearray(netcdf(path).read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file; delete it"),
        (Path.mkdir, "not a file; delete it"),
        (os.mkfifo, "not a file; delete it"),
        (Path.touch, r"damaged, or not the NetCDF file it should be \("),
        (lambda path: path.write_text("text"), "damaged, or not the NetCDF file"),
        (truncated, "damaged, or not the NetCDF file"),
        (flipped, "damaged, or not the NetCDF file"),
        (lambda path: netcdf(path, 3), "damaged, or not the NetCDF file .*(4|match|short)"),
        (lambda path: netcdf(path, 10**11, write=False), "values would take 800 GB, more than the file can contain"),
    ],
)
def test_files_that_are_not_the_netcdf_wanted_are_one_line(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.nc"
    make(path)
    with (
        pytest.raises(UserError, match=rf"a\.nc: {words}") as caught,
        open_netcdf(path, "delete it and rerun") as file,
    ):
        np.zeros(4)[:] = file["values"][:]
    assert "\n" not in str(caught.value)


def test_a_whole_netcdf_file_is_read(tmp_path: Path) -> None:
    with open_netcdf(netcdf(tmp_path / "a.nc"), "delete it") as file:
        assert file["values"][:].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"^of the block$"), open_netcdf(tmp_path / "a.nc", "delete it"):
        raise UserError("of the block")
