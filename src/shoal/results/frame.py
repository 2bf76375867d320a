"""``shoal.load``: a study's results as data frames and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.results.build import build_table
from shoal.results.data import StudyData, json_key
from shoal.results.errors import ResultError
from shoal.results.metrics import find_metric, metric_names, metric_value, number
from shoal.results.read import read_curves, read_store
from shoal.results.tables import Best, Table
from shoal.results.usage import Usage, usage_summary

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["StudyResults", "load", "report_tables", "varying_axes"]

_FIXED = ("task", "step", "state", "seconds", "gpu_hours", "attempts")


class StudyResults:
    """A study's results; made by :func:`shoal.load`.

    What it gives is the state at the time of loading; load again to see more.

    Args:
        data: the study, from :func:`shoal.results.read.read_store`.
    """

    def __init__(self, data: StudyData) -> None:
        self.data = data

    def __repr__(self) -> str:
        done = sum(t.state == "done" for t in self.data.tasks.values())
        return f"<results of {self.data.study}: {done} of {len(self.data.tasks)} tasks done>"

    def results(self, step: str | None = None, *, metrics: Iterable[str] = ()) -> pd.DataFrame:
        """Return one row a task of the plan, in plan order.

        Columns: ``task``, ``step``, ``state`` (done, running, failed, cancelled, waiting), one for each parameter, one for
        each metric, then ``seconds`` (run time of the attempt that succeeded), ``gpu_hours`` and ``attempts``. A parameter
        with the name of another column is called ``params.NAME``, a metric with the name of a fixed one ``metrics.NAME``.
        Whole numbers stay whole (``Int64``) where some tasks do not have the parameter.

        Args:
            step: only tasks of this step.
            metrics: metrics of related tasks to add, such as ``test/iou`` to the rows of ``train``.

        Raises:
            ResultError: no such step or metric, or a metric that is not one number for a row's task.
        """
        import pandas as pd

        data = self.data
        if step is not None and step not in data.steps:
            raise ResultError(f"no step {step!r}", hint=f"Steps: {', '.join(data.steps)}.")
        tasks = [t for t in data.tasks.values() if step is None or t.step == step]
        params = dict.fromkeys(name for task in tasks for name in task.params)
        own = dict.fromkeys(name for task in tasks for name in task.metrics)
        wanted = list(metrics)
        known = metric_names(data)
        refs = [find_metric(data, reference, known) for reference in wanted]
        taken = {*_FIXED, *own, *wanted}
        columns: dict[str, list[Any]] = {
            "task": [t.id for t in tasks],
            "step": [t.step for t in tasks],
            "state": [t.state for t in tasks],
        }
        for name in params:
            column = f"params.{name}" if name in taken else name
            columns[column] = _param([t.params.get(name) for t in tasks])
        for name in own:
            column = f"metrics.{name}" if name in _FIXED else name
            columns[column] = [number(t.metrics.get(name)) for t in tasks]
        for ref in refs:
            columns[ref.label] = [metric_value(data, t, ref) for t in tasks]
        columns["seconds"] = [t.seconds for t in tasks]
        columns["gpu_hours"] = [t.gpu_hours for t in tasks]
        columns["attempts"] = [len(t.attempts) for t in tasks]
        return pd.DataFrame(columns)

    def curves(self, metric: str | None = None) -> pd.DataFrame:
        """Return what tasks logged, tidy: ``task``, ``step`` (of the study), ``attempt``, ``at``, ``time`` (UTC), ``metric`` and
        ``value``.

        ``at`` is the ``step`` that was given to ``log``. After a resume, a later attempt's values replace those of an earlier
        one at the same ``at``.

        Args:
            metric: only this metric, as it was logged.
        """
        import pandas as pd

        rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for task in self.data.tasks.values():
            if not task.attempts:
                continue
            for i, (attempt, when, at, values) in enumerate(read_curves(task.folder)):
                for name, value in values.items():
                    if metric is None or name == metric:
                        # Points without a step cannot replace each other.
                        place = (task.id, name, at, None if at is not None else i)
                        rows[place] = (task.id, task.step, attempt, at, when, name, value)
        frame = pd.DataFrame(list(rows.values()), columns=["task", "step", "attempt", "at", "time", "metric", "value"])
        frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
        return frame

    def attempts(self) -> pd.DataFrame:
        """Return one row an attempt: where and when it ran, what became of it, what it used; times in UTC, lengths in seconds."""
        import pandas as pd

        names = ["task", "step", "attempt", "executor", "state", "outcome", "failure", "message", "host"]
        names += ["device", "gpus", "cpus", "queued", "started", "ended", "queue_seconds", "pull_seconds"]
        used = ["gpu_mean", "gpu_memory_peak", "cpu_mean", "memory_peak"]
        names += ["prepare_seconds", "run_seconds", "wasted_seconds", *used]
        rows = []
        for a in self.data.attempts():
            failure = a.failure or {}
            use = [a.usage.get(name) for name in used]
            what = [a.state, a.outcome, failure.get("class"), failure.get("message"), a.host, a.device, a.gpus, a.cpus]
            times = [a.queued, a.started, a.ended, a.queue_seconds, a.pull_seconds, a.prepare_seconds]
            times += [a.run_seconds, a.wasted_seconds]
            rows.append([a.task, a.step, a.number, a.executor, *what, *times, *use])
        frame = pd.DataFrame(rows, columns=names)
        for name in ("queued", "started", "ended"):
            frame[name] = pd.to_datetime(frame[name], unit="s", utc=True)
        return frame

    def usage(self, by: str | Sequence[str] | None = None) -> Usage:
        """Return hours by step, device and the axes ``by``; see :func:`shoal.results.usage.usage_summary`."""
        return usage_summary(self.data, by)

    def table(
        self,
        rows: str | Sequence[str],
        columns: str | Sequence[str] | None = None,
        value: str | Sequence[str] | None = None,
        over: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        best: Best | Mapping[str, Any] | None = None,
        *,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        goal: str | None = None,
        title: str = "",
    ) -> Table:
        """Return a table of one metric, or of several side by side; see :func:`shoal.results.build.build_table`."""
        return build_table(
            self.data,
            rows=rows,
            columns=columns,
            value=value,
            over=over,
            where=where,
            best=best,
            groups=groups,
            goal=goal,
            title=title,
        )

    def tables(self) -> list[Table]:
        """Return the tables that the study's report names, or the default one; see :func:`report_tables`.

        Raises:
            ResultError: one of them cannot be made.
        """
        found = []
        for made in report_tables(self.data):
            if isinstance(made, ResultError):
                raise made
            found.append(made)
        return found


def _param(values: list[Any]) -> Any:
    """A parameter's column: pandas would turn whole numbers into fractions where a value is missing (``seed`` 0.0)."""
    import pandas as pd

    whole = [isinstance(one, int) and not isinstance(one, bool) and abs(one) < 1 << 63 for one in values]
    missing = [one is None for one in values]
    if any(missing) and any(whole) and all(a or b for a, b in zip(whole, missing, strict=True)):
        return pd.array(values, dtype="Int64")
    return values


def report_tables(data: StudyData) -> list[Table | ResultError]:
    """Build the tables of the study's report section; a table that cannot be made is its error.

    Without any, the default is every axis that varies as rows, and mean and spread over ``seed`` where
    there is one.
    """
    found: list[Table | ResultError] = []
    for spec in data.report.get("tables") or ():
        if not isinstance(spec, dict):
            continue
        keys = ("columns", "value", "over", "where", "best", "groups", "goal")
        try:
            found.append(
                build_table(
                    data,
                    rows=spec.get("rows") or (),
                    title=spec.get("title") or "",
                    **{k: spec.get(k) for k in keys},
                )
            )
        except ResultError as error:
            found.append(error)
    if not found and data.objective is not None:
        try:
            ref = find_metric(data, data.objective.metric)
            tasks = data.of_step(ref.step)
            rows = [a for a in varying_axes(data, ref.step) if a != "seed"]
            over = ["seed"] if any("seed" in t.params for t in tasks) else None
            found.append(build_table(data, rows=rows, over=over))
        except ResultError as error:
            found.append(error)
    return found


def varying_axes(data: StudyData, step: str) -> list[str]:
    """Return the axes of a step that take more than one value among its tasks, in the order of the study."""
    tasks = data.of_step(step)
    axes = dict.fromkeys(name for task in tasks for name in task.params)
    return [a for a in axes if len({json_key(t.params.get(a)) for t in tasks}) > 1]


def load(study: str | Path, store: str | Path | None = None) -> StudyResults:
    """Load the results of a study: the tasks of its last run, in the tables that the study file asks for now.

    Args:
        study: a study file, the folder of a study in the store, or a store that holds one study.
        store: the store, for a study file whose results are elsewhere than the file says.

    Raises:
        UsageError: there is no such study, or nothing of it has been run.
    """
    path = Path(study)
    if path.is_file():
        from shoal.results.locate import as_the_file_says, locate

        folder, now = locate(path, None if store is None else str(store))
        data = read_store(folder)
        as_the_file_says(data, path, now)
        return StudyResults(data)
    return StudyResults(read_store(path))
