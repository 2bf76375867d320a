"""Lengths of time, sizes and amounts of CPU as people write them, and back.

In Shoal's own files times are seconds, sizes are bytes and CPU is cores; these functions are the only place where
``12h``, ``24Gi`` or ``500m`` are read or made.
"""

from __future__ import annotations

import math
import re

__all__ = ["UnitError", "format_duration", "format_size", "parse_cpu", "parse_duration", "parse_size"]

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {
    "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
_NUMBER = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_PART = re.compile(rf"({_NUMBER})\s*(ms|s|min|m|h|d|w)\s*")
_PLAIN = re.compile(rf"(?:{_NUMBER})(?:[eE][-+]?[0-9]+)?\Z")
_SIZE = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)\Z")
_MILLI = re.compile(r"([0-9]+)m\Z")
_LARGEST = 2**63 - 1


class UnitError(ValueError):
    """A text is not a length of time, a size or an amount of CPU. ``hint`` says how to write one."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        number = float(value) if abs(value) <= _LARGEST else math.inf
        return number if math.isfinite(number) else None
    if isinstance(value, str) and _PLAIN.match(text := value.strip()):
        return _number(float(text))
    return None


def parse_duration(value: object) -> float:
    """Seconds from ``90s``, ``12h``, ``1h30m``, ``2d``, ``1.5h``, ``1w`` or a plain number of seconds.

    Raises:
        UnitError: for anything else, also for zero, negative and infinite lengths.
    """
    hint = 'Write it as "90s", "30m", "12h", "1h30m" or "2d"; a plain number means seconds.'
    seconds = _number(value)
    if seconds is None:
        if not isinstance(value, str):
            raise UnitError("is not a length of time", hint)
        text, seconds, position, units = value.strip(), 0.0, 0, []
        while position < len(text):
            part = _PART.match(text, position)
            if part is None:
                if re.fullmatch(r"\d+:\d+(:\d+)?", text):
                    parts = text.split(":")
                    said = f"{int(parts[0])}h{int(parts[1])}m" if len(parts) == 3 else f"{int(parts[0])}m{parts[1]}s"
                    raise UnitError("is not a length of time", f'For hours, minutes and seconds write "{said}".')
                raise UnitError("is not a length of time", hint)
            seconds += float(part[1]) * _SECONDS[part[2]]
            units.append(_SECONDS[part[2]])
            position = part.end()
        if not units or units != sorted(set(units), reverse=True):
            raise UnitError("is not a length of time", hint)
    if not 0 < seconds < _LARGEST:
        raise UnitError("must be longer than nothing", hint)
    return seconds


def parse_size(value: object) -> int:
    """Bytes from ``24Gi``, ``500M``, ``1.5T``, ``24GB`` or a plain number of bytes.

    ``Ki Mi Gi Ti Pi`` are powers of 1024; ``k M G T P`` are powers of 1000, as in Kubernetes.

    Raises:
        UnitError: for anything else, also for zero, negative and infinite sizes.
    """
    hint = 'Write it as "24Gi" (powers of 1024) or "500M" (powers of 1000); a plain number means bytes.'
    number = _number(value)
    if number is None:
        found = _SIZE.match(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise UnitError("is not a size", hint)
        unit = found[2].removesuffix("B")
        if unit not in _BYTES:
            near = next((known for known in _BYTES if known and known.lower() == unit.lower()), None)
            said = f' Did you mean "{found[1]}{near}"?' if near else ""
            raise UnitError(f'has an unknown unit "{found[2]}"', hint + said)
        number = float(found[1]) * _BYTES[unit]
    if not 1 <= number < _LARGEST:
        raise UnitError("must be a size of at least one byte", hint)
    return round(number)


def parse_cpu(value: object) -> float:
    """Cores from ``2``, ``0.5`` or ``500m`` (thousandths of a core).

    Raises:
        UnitError: for anything else, also for zero, negative and infinite amounts.
    """
    hint = 'Write cores as a number (2, 0.5) or in thousandths ("500m").'
    number = _number(value)
    if number is None:
        found = _MILLI.match(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise UnitError("is not an amount of CPU", hint)
        number = float(found[1]) / 1000
    if not 0 < number < 1e6:
        raise UnitError("must be more than no CPU, and less than a million cores", hint)
    return number


def format_duration(seconds: float) -> str:
    """The length of time in its two largest units, for people: ``1h 30m``, ``45s``, ``0.5s``, ``2d 4h``."""
    if seconds < 0 or not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{round(seconds, 1):g}s"
    left = round(seconds)
    if left >= 3600:  # seconds do not matter beside hours, nor minutes beside days
        left = round(left / 60) * 60
    if left >= 86400:
        left = round(left / 3600) * 3600
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def format_size(size: float) -> str:
    """The size with three digits at most, in powers of 1024: ``24Gi``, ``1.5Gi``, ``512``."""
    if size < 0 or not math.isfinite(size):
        return "?"
    for unit in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if size >= _BYTES[unit] * 0.9995:
            value = size / _BYTES[unit]
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{round(value, 1):g}{unit}"
    return f"{size:.0f}"
