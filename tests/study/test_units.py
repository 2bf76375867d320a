"""Lengths of time, sizes and CPU: read as people write them, and written back for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.units import UnitError, format_duration, format_size, parse_cpu, parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("30m", 1800), ("30min", 1800), ("12h", 43200), ("1h30m", 5400), ("1h 30m", 5400), ("2d", 172800),
     ("1w", 604800),
     ("1.5h", 5400), (".5m", 30), ("500ms", 0.5), (90, 90), (0.5, 0.5), ("90", 90), (" 2d ", 172800), ("1d2h3m4s", 93784)],
)  # fmt: skip
def test_lengths_of_time(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "size"),
    [("24Gi", 24 * 2**30), ("500M", 500_000_000), ("1.5T", 1_500_000_000_000), ("24GB", 24 * 10**9), ("1KiB", 1024),
     ("8k", 8000),
     ("10B", 10), (1024, 1024), ("1024", 1024), (1e9, 10**9), ("1e9", 10**9)],
)  # fmt: skip
def test_sizes(written: object, size: int) -> None:
    assert parse_size(written) == size
    assert isinstance(parse_size(written), int)


@pytest.mark.parametrize(("written", "cores"), [("500m", 0.5), (2, 2.0), (0.5, 0.5), ("2", 2.0), ("1500m", 1.5)])
def test_amounts_of_cpu(written: object, cores: float) -> None:
    assert parse_cpu(written) == cores


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_cpu])
@pytest.mark.parametrize(
    "written",
    ["", " ", "x", "-1", -1, 0, "0", True, None, [], {}, "1x", "h", "1h1h", "1m1h", "1h30", float("inf"),
     float("nan"), 10**400, "1e999",
     "9" * 400, "١", "1_000"],
)  # fmt: skip
def test_what_is_no_amount_is_refused_with_the_way_to_write_one(parse: object, written: object) -> None:
    with pytest.raises(UnitError) as caught:
        parse(written)  # type: ignore[operator]
    assert caught.value.message
    assert "rite " in caught.value.hint


def test_near_misses_are_named() -> None:
    with pytest.raises(UnitError) as caught:
        parse_size("24gi")
    assert caught.value.hint.endswith('Did you mean "24Gi"?')
    with pytest.raises(UnitError) as caught:
        parse_duration("12:30:00")
    assert '"12h30m"' in caught.value.hint


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.52, "0.5s"), (9.96, "10s"), (59.7, "1m"), (90, "1m 30s"), (3599.6, "1h"), (5400, "1h 30m"),
     (86399, "1d"), (187200, "2d 4h"),
     (-1, "?"), (float("nan"), "?")],
)  # fmt: skip
def test_lengths_of_time_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0"), (512, "512"), (1023, "1023"), (1024, "1Ki"), (1536, "1.5Ki"), (24 * 2**30, "24Gi"), (123.4 * 2**20, "123Mi"),
     (2**30 - 1, "1Gi"), (3 * 2**50, "3Pi"), (-1, "?")],
)  # fmt: skip
def test_sizes_are_shown_in_powers_of_1024(size: float, shown: str) -> None:
    assert format_size(size) == shown


@given(st.floats(0.1, 10**9), st.floats(1, 2**60))
def test_what_is_shown_reads_back_as_nearly_the_same(seconds: float, size: float) -> None:
    # The farthest is 10.5 s, which is shown as 10 s.
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.06)
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06, abs=1)
