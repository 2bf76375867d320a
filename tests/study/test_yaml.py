"""The marked tree: what words mean, where things stand, and how broken text is told."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import StudyError
from shoal.study import dump_yaml, parse_value
from shoal.study.source import MAX_BYTES, Source
from shoal.study.yaml import Mapping, Node, Scalar, Sequence, parse, plain


def tree(text: str, name: str = "f.yaml") -> Node:
    node = parse(Source(name, text))
    assert node is not None
    return node


def mapping(text: str) -> Mapping:
    node = tree(text)
    assert isinstance(node, Mapping)
    return node


def fault(text: str) -> StudyError:
    with pytest.raises(StudyError) as caught:
        parse(Source("f.yaml", text))
    return caught.value


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-1.5e+3", -1500.0), ("+2.5", 2.5), ("0.10", 0.1),
        ("3", 3), ("-3", -3), ("+3", 3), ("0", 0), ("0x1F", 31), ("0o17", 15), ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"), ("1" * 5000, "1" * 5000), ("0x" + "f" * 40, "0x" + "f" * 40),
        ("true", True), ("True", True), ("FALSE", False),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("n", "n"),
        ("010", "010"), ("007.5", "007.5"), ("-01", "-01"), ("1_000", "1_000"), ("1,000", "1,000"),
        ("12:30:45", "12:30:45"), ("1:20", "1:20"), ("2019-06-01", "2019-06-01"),
        ("2019-06-01T10:00:00Z", "2019-06-01T10:00:00Z"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("none", "none"), ("None", "None"),
        ("'1e-3'", "1e-3"), ('"true"', "true"), ("''", ""), ("!!str 1e-3", "1e-3"), ("!!float 3", 3.0), ("! 12", "12"),
        ("1.2.3", "1.2.3"), ("-", "-"), ("1e", "1e"), ("e5", "e5"), ("0b1", "0b1"), ("=", "="), ("<<", "<<"),
        ("${HOME}", "${HOME}"), ("a b # c", "a b"), ("a#b", "a#b"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_a_researcher_means(written: str, meant: object) -> None:
    if written == "-":
        written = "'-'"
    value = plain(tree(f"a: {written}\n"))["a"]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize("written", [".inf", "-.inf", ".nan", ".NaN", "1e999", "-1e999"])
def test_numbers_are_finite(written: str) -> None:
    error = fault(f"a: [1, {written}]")
    assert (error.mark.line, error.mark.column, error.mark.length) == (1, 8, len(written))  # type: ignore[union-attr]
    assert f"{written} is not a finite number" in str(error)
    assert f'"{written}"' in str(error.hint)


def test_every_key_and_value_knows_its_place_in_characters() -> None:
    text = "é: &x [1,\r\n  '😀2' , 3]\r\nlong:\r\n  - a\r\n  - {b: 'c'}\r\nagain: *x\r\n"
    top = mapping(text)
    lines = text.split("\r\n")

    def at(node: Node) -> str:
        line = lines[node.mark.line - 1]
        return line[node.mark.column - 1 :][: node.mark.length]

    assert [str(mark) for mark, _ in top.keys.values()] == ["f.yaml:1:1", "f.yaml:3:1", "f.yaml:6:1"]
    numbers, listed = top.items["é"], top.items["long"]
    assert isinstance(numbers, Sequence)
    assert isinstance(listed, Sequence)
    assert [at(item) for item in numbers.items] == ["1", "'😀2'", "3"]
    assert at(numbers) == "&x [1,"
    assert [at(item) for item in listed.items] == ["a", "{b: 'c'}"]
    assert top.items["again"] is numbers, "an alias points to where its value was written"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("run: a {x} b {y} {x}", 1, 18),
        ("run: 'it''s {x} {y} {x}'", 1, 21),
        ('run: "\\t{x} {x}"', 1, 13),
        ("run: |\n  one {x}\n  two {x}\n", 3, 7),
        ("run: >-\n  one {x}\n  two\n  {x}\n", 4, 3),
        ("run: one {x}\n  two {x}\n", 2, 7),
        ("run: # {x}\n  {z} {x} \n".replace("{z}", "z {x}"), 2, 9),
    ],
)
def test_a_reference_is_found_inside_of_quotes_blocks_and_folds(text: str, line: int, column: int) -> None:
    value = mapping(text).items["run"]
    assert isinstance(value, Scalar)
    start = str(value.value).rindex("{x}")
    mark = value.within(start, start + 3)
    assert (mark.line, mark.column, mark.length) == (line, column, 3)


def test_a_reference_that_an_escape_hides_points_to_the_whole_text() -> None:
    value = mapping('run: "a \\x7bx} {y}"').items["run"]
    assert isinstance(value, Scalar)
    assert value.value == "a {x} {y}"
    assert value.within(2, 5) == value.mark
    assert value.within(6, 9).column == 16


def test_anchors_aliases_and_merges_work() -> None:
    text = """
    base: &base {a: 1, b: 2}
    more: &more {b: 3, c: 4}
    one: {<<: *base, b: 5}
    two: {<<: [*more, *base], d: 6}
    three: {"<<": 7}
    """
    data = plain(tree(text))
    assert data["one"] == {"a": 1, "b": 5}
    assert data["two"] == {"a": 1, "b": 3, "c": 4, "d": 6}
    assert data["three"] == {"<<": 7}
    assert mapping(text).items["one"].keys["a"][0].line == 2  # type: ignore[union-attr]


def test_keys_are_text_whatever_they_look_like() -> None:
    assert plain(tree("1: a\ntrue: b\nnull: c\non: d\n'': e\n0x1f: f")) == {
        "1": "a", "true": "b", "null": "c", "on": "d", "": "e", "0x1f": "f",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: 1\nb: 2\na: 3", "3:1", 'key "a" is written twice, first in line 1'),
        ("x: {lr: 1, 'lr': 2}", "1:12", 'key "lr" is written twice'),
        ("a: &x {b: *x}", "1:11", "*x stands inside of what it stands for"),
        ("a: *x", "1:4", "*x stands for nothing: no &x comes before it"),
        ("a: {<<: 3}", "1:9", "<< takes a mapping"),
        ("a:\n\tb: 1", "2:1", "a tab stands where only spaces may"),
        ("a:\n  b: 1\n c: 2", "3:2", "the indentation does not fit the lines before; the block starts in line 1"),
        ("a: 1\n  b: 2", "2:4", 'a ":" is not expected here'),
        ("a: b: c", "1:5", 'a ":" is not expected here'),
        ("a: 1\nb\nc: 2", "2:1", 'a key without ":" after it'),
        ("k: v\n- item", "2:1", "a list item stands where a key belongs"),
        ("a: - b", "1:4", "a list item cannot start here"),
        ("run: {model} train.py", "1:14", "text goes on after the }"),
        ("run: 'it's'", "1:10", "text goes on after the closing quote"),
        ("a: 'x\nb: 1\n", "1:4", "this ' is never closed"),
        ("a: [1, 2\nb: 3", "1:4", "this [ is never closed"),
        ("a: {b: 3  # c}\nd: 4", "1:4", "this { is never closed"),
        ("[", "1:1", "this [ is never closed"),
        ("a: [}", "1:5", 'this } cannot close the "[" of column 4'),
        ("a: {x y: {z} k}", "1:14", 'a "," or "}" is missing before this'),
        ("a: ]", "1:4", 'a value cannot start with "]"'),
        ("a: @b", "1:4", "a value cannot start with @"),
        ("a: %b", "1:4", "a value cannot start with %"),
        ("a: ? b", "1:4", 'a value cannot start with "? "'),
        ("a: |b\n c", "1:5", "only a line break may follow"),
        ("a: &", "1:5", "& starts a name for a value"),
        ('a: "\\q"', "1:5", "this backslash is not an escape"),
        ("a: !new b", "1:4", "the tag !new means nothing here"),
        ("a: !!python/object/apply:os.system [x]", "1:4", "the tag !!python/object/apply:os.system means nothing here"),
        ("a: !!int b", "1:4", '"b" is not of the type !!int'),
        ("a: {{x}}", "1:5", "a key must be a plain word"),
        ("? [a]\n: b", "1:3", "a key must be a plain word"),
        (": a", "1:1", "a key is missing"),
        ("a: 1\n---\nb: 2", "2:1", "a second document starts here"),
        ("%YAML 3.0\n---\na: 1", "1:1", "a study file needs no % directive"),
        ("a: 1\x00", "1:5", "a NUL character"),
        ("a: \x1b[31m", "1:4", "the control character U+001B"),
        ("a: 1\n\ufeffb: 2", "2:1", "a second byte order mark"),
        ("a: " + "[" * 40, "1:35", "nested more than 32 deep"),
    ],
)  # fmt: skip
def test_broken_text_is_told_where_it_is_and_what_to_do(text: str, place: str, says: str) -> None:
    error = fault(text)
    shown = str(error)
    assert shown.startswith(f"f.yaml:{place}: ")
    assert says in shown
    assert "^" in shown.split("\n")[2]
    assert not any(ord(char) < 32 and char != "\n" for char in shown), "nothing that upsets a terminal"


@pytest.mark.parametrize(("text", "hint"), [
    ("run: {model} train.py", "A text that starts with \"{\" must be in quotes: '{model} train.py'"),
    ("a: {b: 3  # c}\nd: 4", "The } after # is part of a comment."),
    ("a:\n\tb: 1", "Indent with spaces: YAML allows no tabs."),
    ("a: 1\nb: 2\na: 3", "The other is at f.yaml:1:1. Keep one of them."),
])  # fmt: skip
def test_common_mistakes_come_with_the_way_out(text: str, hint: str) -> None:
    assert fault(text).hint == hint


def test_both_parsers_of_yaml_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ["a: b: c", "a:\n\tb: 1", "a: 'x\nb: 1\n", "a: [1, 2\nb: 3", "a:\n  b: 1\n c: 2", "a: 1\nb\nc: 2", "a: @b", "a: - b",
              "run: {model} train.py", "a: &", "a: 1\n---\nb: 2", "a: [}", 'a: "\\q"', "a: ? b"]  # fmt: skip
    good = "é: &x [1,\r\n '😀2' , 3]\r\nb: |\n  {x}\r\nc: {<<: {k: v}}\n"
    with_c = [(str(fault(text).mark), fault(text).message) for text in broken]
    marks = [str(node.mark) for node in mapping(good).items.values()]
    monkeypatch.delattr(pyyaml, "CSafeLoader", raising=False)
    assert [(str(fault(text).mark), fault(text).message) for text in broken] == with_c
    assert [str(node.mark) for node in mapping(good).items.values()] == marks


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    start = time.monotonic()
    assert "more than 200,000 values, aliases followed" in str(fault("\n".join(lines)))
    deep = "\n".join(["a0: &a0 x", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60))])
    assert "nested more than 32 deep, aliases followed" in str(fault(deep))
    merged = "\n".join(
        ["a0: &a0 {k0: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: *a{i - 1}}}" for i in range(1, 40))]
    )
    assert "f.yaml:" in str(fault(merged))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: \xff\xfe", "s.yaml:1:4: byte 0xff is not UTF-8 text"),
        ("é: 1\nb: ".encode() + b"\xe9", "s.yaml:2:4: byte 0xe9 is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "s.yaml:1:1: the file is UTF-16, not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "s.yaml: a study file may hold 1024 KiB"),
    ],
)
def test_files_that_are_no_text_are_told(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(StudyError) as caught:
        Source.read(tmp_path / "s.yaml", "s.yaml")
    assert says in str(caught.value)


def test_a_byte_order_mark_at_the_start_moves_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes("\ufeffa: @".encode())
    with pytest.raises(StudyError) as caught:
        parse(Source.read(tmp_path / "s.yaml", "s.yaml"))
    assert str(caught.value).startswith("s.yaml:1:4: ")


def test_very_long_lines_are_cut_or_left_out() -> None:
    assert len(str(fault("a: @" + "x" * 100_000))) < 700
    assert "xxx" not in str(fault("a: " + "x" * 100_000 + ": b"))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufffe\uffff\ufeff"), max_size=20),
    st.sampled_from(["yes", "no", "1e-3", "010", "0x1f", "1_000", "12:30:45", "2019-06-01", "~", "null",
                     ".inf", "<<", "=", "{a}", "a: b", "- x", "#", "1e5"]),
)  # fmt: skip
data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_1 :#", min_size=1), inner, max_size=4),
)


@given(data)
def test_what_is_dumped_reads_back_as_the_same_data(value: object) -> None:
    again = parse_value(dump_yaml(value))
    assert again == value
    assert repr(again) == repr(value), "types too"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_as_python_writes_them(number: float) -> None:
    assert parse_value(repr(number)) == number
    assert math.copysign(1, parse_value(repr(number))) == math.copysign(1, number)


def test_a_value_from_the_command_line_is_read_as_in_a_file() -> None:
    assert parse_value("1e-3") == 0.001
    assert parse_value("[a, 2]") == ["a", 2]
    assert parse_value("") is None
    with pytest.raises(StudyError, match=r"^--where lr: this \[ is never closed"):
        parse_value("[1", "--where lr")
