"""Where outputs and results live: the one truth about what has been done."""

from shoal.store.index import AttemptRecord, Snapshot, TaskRecord, read_json, read_task
from shoal.store.layout import Store, StudyStore, TaskFolder, open_store
from shoal.store.lock import RunnerLock, holder, user_name
from shoal.store.place import find_store, other_file, remember_place

__all__ = [
    "AttemptRecord",
    "RunnerLock",
    "Snapshot",
    "Store",
    "StudyStore",
    "TaskFolder",
    "TaskRecord",
    "find_store",
    "holder",
    "open_store",
    "other_file",
    "read_json",
    "read_task",
    "remember_place",
    "user_name",
]
