"""Whether what is compared was made with one version of the code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shoal.results.data import StudyData, Task

__all__ = ["mixed_code"]


def mixed_code(data: StudyData, trials: Iterable[Task]) -> list[str]:
    """Return a sentence for each step whose finished tasks, of the trials or of what these were made from, used several
    versions of its code: then a difference between two trials may be one of the code.
    """
    used: dict[str, Counter[str]] = {}
    seen: set[str] = set()
    for trial in trials:
        for task in (trial, *data.ancestors(trial).values()):
            if task.id not in seen:
                seen.add(task.id)
                if isinstance(code := (task.result or {}).get("code"), str):
                    used.setdefault(task.step, Counter())[code] += 1
    return [
        f"Tasks of {step} were done with {len(codes)} versions of their code "
        f"({', '.join(f'{count:,}' for _, count in codes.most_common())} tasks): shoal plan says which are stale."
        for step, codes in used.items()
        if len(codes) > 1
    ]
