"""What Kueue says of work that it does not let go, in plain words."""

from __future__ import annotations

import pytest

from shoal.executors.kubernetes.queued import in_plain_words, pending

FLAVORS = "couldn't assign flavors to pod set main: "


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            f"{FLAVORS}insufficient unused quota for nvidia.com/gpu in flavor a10, 2 more needed",
            "the queue's quota of nvidia.com/gpu is in use, and 2 more would have to become free",
        ),
        (
            f"{FLAVORS}insufficient quota for cpu in flavor default, previously considered podsets requests (0) + "
            "current podset request (64) > maximum capacity (8)",
            "it asks for 64 cpu, and the queue's quota is 8: it will never be let go",
        ),
        (
            f"{FLAVORS}insufficient unused quota for cpu in flavor a, 1 more needed. Pending the preemption of 3 workload(s)",
            "less urgent work (3) is being taken away for it",
        ),
        (f"{FLAVORS}something\n else.", "something else"),
        ("ClusterQueue gpus is inactive", "ClusterQueue gpus is inactive"),
    ],
)
def test_in_plain_words(said: str, words: str) -> None:
    assert in_plain_words(said) == words


def test_the_last_word_counts() -> None:
    def event(name: str, at: str | None, said: str) -> dict[str, object]:
        return {"involvedObject": {"name": name}, "lastTimestamp": at, "message": said}

    events = [
        event("a", "2026-01-02", "late"),
        event("a", "2026-01-01", "early"),
        event("b", None, "once"),
        event("c", "x", ""),
    ]
    assert pending(events) == {"a": "late", "b": "once"}
