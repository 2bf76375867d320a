"""JSON item by item: the same as json.load, with lines, in memory of one item."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import UsageError
from shoal_earth.detection import jsonstream
from shoal_earth.detection.jsonstream import stream

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.dictionaries(st.sampled_from(["a", "items", "z"]), VALUES),
    items=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 1]),
    chunk=st.sampled_from([1, 3, 64]),
)
def test_it_reads_what_json_reads_wherever_the_buffer_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict, items: list, indent: int | None, chunk: int
) -> None:
    path = tmp_path / "x.json"
    content = {**content, "items": items}
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "_CHUNK", chunk)
        found = list(stream(path, ("items",)))
    assert [value for key, _, value in found if key == "items"] == items
    assert {key: value for key, _, value in found if key != "items"} == {
        key: value for key, value in content.items() if key != "items"
    }
    lines = path.read_text(encoding="utf-8").split("\n")
    for _, line, value in found:
        first = json.dumps(value, ensure_ascii=False, indent=indent).split("\n")[0]
        assert first in lines[line - 1]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "ends too early"),
        ("[1]", 1, "no JSON object"),
        ('{"items": [1,\n2,\n', 3, "ends too early"),
        ('{"items": [1,\n{"a": oops}]}', 2, "not valid JSON"),
        ('{"items": [1\n2]}', 2, 'not "2"'),
        ('{\n"items" [1]}', 2, "should be here"),
        ('{"items": [\n"never closed', 2, "not valid JSON"),
        ("{\n7: 1}", 2, "name in quotes"),
        ('{"a": ' + "[" * 100_000, 1, "not valid JSON|nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", 1, "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=what) as caught:
        list(stream(path, ("items",)))
    assert str(caught.value).startswith(f"{path}:{line}:")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    row = json.dumps({"text": "x" * 200, "numbers": list(range(20))})
    with path.open("w") as file:
        file.write('{"items": [' + ",\n".join([row] * 60_000) + "]}")
    assert path.stat().st_size > 16 * 2**20
    tracemalloc.start()
    count = sum(1 for _ in stream(path, ("items",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 8 * 2**20
