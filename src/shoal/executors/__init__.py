"""Where attempts run: one contract, and an implementation for each kind of place."""

from shoal.executors.contract import (
    AttemptKey,
    AttemptSpec,
    Ended,
    Executor,
    Failure,
    Note,
    Resources,
    Site,
    Started,
    StopReason,
)

__all__ = [
    "AttemptKey",
    "AttemptSpec",
    "Ended",
    "Executor",
    "Failure",
    "Note",
    "Resources",
    "Site",
    "Started",
    "StopReason",
]
