"""The first lines of a report: what was compared, what came out, how far it is, what it cost. Made from the data."""

from __future__ import annotations

import math
import statistics
from collections import Counter

from shoal.report.trials import Trials
from shoal.results import StudyData, Usage
from shoal.results.data import STATES, show_hours
from shoal.results.tables import digits_for
from shoal.results.usage_text import waited

__all__ = ["compared", "cost_line", "outcome", "progress", "state_counts", "value_digits"]


def value_digits(trials: Trials) -> int:
    """Return the decimals for the objective's values."""
    return digits_for(v for v in trials.values if v is not None)


def compared(trials: Trials) -> str:
    """Return one sentence on what was compared."""
    if not trials.tasks:
        return "The plan has no trials."
    if not trials.axes:
        return f"One configuration: {_count(len(trials.tasks), 'trial')} of step {trials.step}."
    parts = [_values(a.name, len(a.labels)) for a in trials.axes]
    product = math.prod(len(a.labels) for a in trials.axes)
    text = " × ".join(parts)
    if product == len(trials.tasks):
        return f"Compared {text}: {_count(len(trials.tasks), 'trial')}."
    return f"Compared {_count(len(trials.tasks), 'trial')} over {text}."


def outcome(trials: Trials) -> tuple[str, str]:
    """Return what came out best and by how much, and a second sentence when that may be chance."""
    if not any(v is not None for v in trials.values):
        if any(s == "done" for s in trials.states) and trials.ref:
            return f"No trial has a value of {trials.label} yet.", ""
        if trials.states and all(s == "failed" for s in trials.states):
            return "Every trial failed; the reasons are below.", ""
        return "Nothing has finished yet." if trials.tasks else "", ""
    digits = value_digits(trials)
    ranking = trials.configurations()
    members, mean = ranking[0]
    found = [v for i in members if (v := trials.values[i]) is not None]
    score = f"{mean:.{digits}f}"
    planned = trials.planned(members[0])
    seeds = f"{len(found)} of {planned} seeds" if len(found) < planned else f"{len(found)} seeds"
    if len(found) > 1:
        score += f" ± {statistics.stdev(found):.{digits}f} over {seeds}"
    elif planned > 1:
        score += f" from {seeds}"  # one lucky seed is no mean, and has to be told from one
    if len(ranking) == 1:
        return f"{trials.label} is {score}.", ""
    if trials.by is not None and (chosen := trials.chosen()) is not None:
        return _chosen(trials, *chosen), ""
    text = f"{trials.configuration_name(members[0])} came out best, with {trials.label} {score}"
    other, second = ranking[1]
    gap = abs(mean - second)
    runner_up = trials.configuration_name(other[0])
    if gap < 0.5 * 10**-digits:
        return f"{text}, level with {runner_up}.", ""
    text += f", {gap:.{digits}f} {'above' if trials.goal == 'max' else 'below'} {runner_up}."
    doubt = ""
    spread = _pooled([[v for i in g if (v := trials.values[i]) is not None] for g, _ in ranking])
    if spread is not None and gap < spread:
        doubt = f"That is less than the spread between seeds ({spread:.{digits}f}): take the two as equal."
    return text, doubt


def _chosen(trials: Trials, members: list[int], by: float) -> str:
    """What another metric chose, such as one of validation, and what the objective says of it."""
    digits = value_digits(trials)
    ranking = trials.configurations()
    place = next((n for n, (group, _) in enumerate(ranking) if group[0] in members), None)
    name = trials.configuration_name(members[0])
    assert trials.by is not None
    text = f"{name} was chosen, by {trials.by.label} {by:.{digits}f}"
    if place is None:
        return f"{text}; its {trials.label} is not there yet."
    text += f", and has {trials.label} {ranking[place][1]:.{digits}f}: "
    if place == 0:
        return text + f"the {'highest' if trials.goal == 'max' else 'lowest'} of all."
    other, best = ranking[0]
    return (
        text
        + f"rank {place + 1} of {len(ranking)}, behind {trials.configuration_name(other[0])} with {best:.{digits}f}."
    )


def progress(trials: Trials) -> str:
    """Return how many of the trials are done, and what the others are."""
    counts = Counter(trials.states)
    if not trials.tasks:
        return ""
    if counts["done"] == len(trials.tasks):
        return f"All {_count(len(trials.tasks), 'trial')} done." if len(trials.tasks) > 1 else "It is done."
    rest = ", ".join(f"{counts[s]:,} {s}" for s in STATES[1:] if counts[s])
    return f"{counts['done']:,} of {_count(len(trials.tasks), 'trial')} done; {rest}."


def cost_line(usage: Usage) -> str:
    """Return what it cost, against running one after another."""
    total = usage.total
    if not total.attempts:
        return ""
    text = f"{total.gpu:,.1f} GPU-hours, " if total.gpu >= 0.05 else ""
    text += f"{show_hours(usage.wall)} of wall-clock"
    if usage.speedup and usage.speedup > 1.05:
        text += f"; one after another it would have been {show_hours(total.run)} ({usage.speedup:.1f}×)"
    if waits := waited(total):
        text += f"; {waits}"
    return text[0].upper() + text[1:] + "."


def state_counts(data: StudyData) -> dict[str, Counter[str]]:
    """Return for each step how many tasks are in which state."""
    return {s: Counter(data.fate(t) for t in data.of_step(s)) for s in data.steps}


def _pooled(groups: list[list[float]]) -> float | None:
    several = [g for g in groups if len(g) > 1]
    freedom = sum(len(g) - 1 for g in several)
    if not freedom:
        return None
    return math.sqrt(sum(statistics.variance(g) * (len(g) - 1) for g in several) / freedom)


#: Axes whose values have a name of their own: "3 models", but "3 values of lr".
_PLURALS = {"loss": "losses", "batch_size": "batch sizes"} | {
    name: f"{name}s"
    for name in ("model", "optimizer", "seed", "dataset", "encoder", "backbone", "architecture", "detector", "fold")
}


def _values(axis: str, count: int) -> str:
    return f"{count:,} {_PLURALS[axis]}" if axis in _PLURALS else f"{count:,} values of {axis}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
