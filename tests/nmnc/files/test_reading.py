"""Whatever a text file holds, reading it gives plain data or one line."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmnc.errors import UserError
from nmnc.files.reading import parse_json, parse_yaml, read_rows, read_text, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "s.yaml line 3: the key 'a' is given twice; remove one"),
        ("x: {a: 1, a: 1}", "s.yaml line 1: the key 'a' is given twice"),
        ("x: &k {b: 1}\ny: {<<: *k, b: 2, b: 3}", "the key 'b' is given twice"),
        (BOMB, "over 200000 values, aliases expanded"),
        ("a: &a [*a]", "nested over 50 levels"),
        ("[" * 3000 + "]" * 3000, "nested over 50 levels"),
        ("[" * 60 + "]" * 60, "nested over 50 levels"),
        ("a: .inf", "inf is not a finite number"),
        ("a: [1, {b: .nan}]", "nan is not a finite number"),
        ("a: 2024-13-45", "not valid YAML"),
        ("? [1, 2]\n: 3", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: [", "s.yaml line 1: not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("a: !!bool x", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: 0x" + "f" * 20, "a number is beyond 2"),
        ("[" + "1," * 30_000 + "]", "over 20000 values"),
        ("#" * (2**20 + 1), "at most 1048576 are read"),
        ("b: &b0 {x: 1}\n" + "".join(f"c{i}: &b{i + 1} {{<<: [*b{i}, *b{i}]}}\n" for i in range(40)), "over 200000"),
    ],
)
def test_a_yaml_that_no_study_can_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("[", r"\[")) as caught:
        parse_yaml(text, "s.yaml")
    assert "\n" not in str(caught.value)


def test_merged_keys_may_be_overridden_as_yaml_means_it() -> None:
    assert parse_yaml("x: &k {b: 1}\ny: {<<: *k, b: 2}", "s.yaml")["y"] == {"b": 2}
    inner = "x: &k {b: 1}\ny: {z: &z {<<: *k, b: 2}}\nw: {<<: *z}"  # z is merged before it is made
    assert parse_yaml(inner, "s.yaml") == {"x": {"b": 1}, "y": {"z": {"b": 2}}, "w": {"b": 2}}


def test_verbatim_yaml_keeps_labels_as_written() -> None:
    text = "session: 010124\nanimal: NO\nversion: 1.10\ntime: 1:30\nday: 2024-01-01\nempty:\n"
    assert parse_yaml(text, "b.yaml", verbatim=True) == {
        "session": "010124", "animal": "NO", "version": "1.10", "time": "1:30", "day": "2024-01-01", "empty": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": 1e999}', "inf is not a finite number"),
        ("[" * 100_000, "nested over 50 levels"),
        ("9" * 5000, "not JSON"),
        ("{", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_json_that_no_setting_can_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_json(text, "--arguments")
    assert "\n" not in str(caught.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(PLAIN)
def test_plain_data_are_read_as_they_were_written(content: object) -> None:
    assert parse_json(json.dumps(content), "x") == content
    assert parse_yaml(json.dumps(content), "x") == content or "\\u" in json.dumps(content)


@given(st.text(max_size=60))
def test_any_text_is_data_or_one_line(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        said = ""
        try:
            parse(text, "x")
        except UserError as error:
            said = str(error)
        assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; it needs a header line"),
        ("a,b,a\n1,2,3\n", "the column 'a' is given twice"),
        ("a,b\n1,2\n3\n", "line 3: 1 cells, but the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 cells, but the header has 2"),
        ("a;b\n1;2\n", "no column 'b', only a;b; its cells are separated by ';', save it with commas"),
        ("a\n1\n", "no column 'b', only a; check the path"),
        ('a,b\n1,"2\n', "not CSV"),
        ("a,b\n1,2\n3,4".replace("4", "4" * 10_000_001), "not CSV"),
    ],
)
def test_a_broken_table_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_rows(tmp_path / "t.csv", ["b"])
    assert "\n" not in str(caught.value)


def test_tables_of_other_systems_are_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    (tmp_path / "t.csv").write_text(f'\ufeffa,b\r\n1,"NA"\r\n\r\n{long},07\r\n', encoding="utf-8", newline="")
    assert read_rows(tmp_path / "t.csv", ["a"]) == (["a", "b"], [{"a": "1", "b": "NA"}, {"a": long, "b": "07"}])


def test_text_that_cannot_be_read_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file or directory\); give a YAML file"):
        read_text(tmp_path / "none.yaml", "give a YAML file")
    with pytest.raises(UserError, match="Is a directory"):
        read_text(tmp_path)
    with pytest.raises(UserError, match="embedded null"):
        read_text(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="a pipe or device, not a file"):
            read_text(path)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert read_rows(tmp_path / "t.csv.gz")[1] == [{"a": "1", "b": "2"}]
    for broken in (b"", b"text", gzip.compress(b"a,b\n" * 99)[:-12], gzip.compress(b"a" * 99)[:12] + bytes(30)):
        (tmp_path / "t.csv.gz").write_bytes(broken)
        with pytest.raises(UserError, match=r"t\.csv\.gz: (cannot be read|empty)"):
            read_rows(tmp_path / "t.csv.gz")
    (tmp_path / "latin.yaml").write_bytes("a: Gr\xfc\xdfe".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 5\); save it as UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
