"""What somebody does on the first day, and what Shoal says to it."""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shoal_demo import Run

from processes import until


def test_every_command_that_is_suggested_can_be_pasted(folder: Path, shoal: Run) -> None:
    file = folder / "my study's.yaml"
    file.write_text(
        """
study: s
steps:
  choose: {gate: Look at it}
  go: {run: 'echo {x}; exit 3', matrix: {x: [a b]}}
report: {objective: {metric: y, goal: max}}
"""
    )
    (folder / "bin").mkdir()
    (folder / "bin" / "shoal").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m shoal "$@"\n')
    (folder / "bin" / "shoal").chmod(0o755)
    env = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    given = (file.name, "--store", "my results")

    def suggested(*arguments: str) -> list[str]:
        done = shoal(*arguments, code=None)
        said = done.stdout + done.stderr
        found = re.findall(
            r"shoal (?:plan|run|approve|results|report|status|logs)\b.*?(?= ·|, and |\. Once|$)", said, re.MULTILINE
        )
        assert found, said
        return found

    used = set()
    asked = [("run", *given, "--set", "steps.go.matrix.x=[c d]"), ("status", *given), ("logs", *given, "choose")]
    asked.append(("plan", *given, "--on", "local"))
    for arguments in asked:
        for command in suggested(*arguments):
            done = subprocess.run(
                ["sh", "-c", command.replace(" TASK", " go")], cwd=folder, env=env, capture_output=True, text=True
            )
            assert "there is no such file" not in done.stderr, command
            assert "Usage:" not in done.stderr, (command, done.stderr)
            used.add(command.split()[1])
    assert used == {"plan", "run", "approve", "status", "logs"}


def test_code_that_is_edited_while_tasks_wait_is_written_down_as_it_ran(folder: Path, shoal: Run) -> None:
    (folder / "s.yaml").write_text("study: c\nsteps: {a: {run: sleep 3}, b: {needs: a, run: sh say.sh}}\n")
    say = folder / "say.sh"
    say.write_text("echo first")
    runner = subprocess.Popen([sys.executable, "-m", "shoal", "run", "s.yaml"], cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: list((folder / "runs").glob("c/a/*/attempts/1/attempt.json")))
    say.write_text("echo second")
    assert runner.wait(timeout=60) == 0
    assert shoal("logs", "s.yaml", "b").stdout == "second\n"
    assert "All 2 tasks are done" in shoal("plan", "s.yaml").stdout, "it ran what is there now"
    say.write_text("echo first")
    assert "1 stale code" in shoal("plan", "s.yaml").stdout, "what the run began with is not what it was made with"


def test_an_objective_that_nothing_reports_is_told_when_the_run_ends(folder: Path, shoal: Run) -> None:
    (folder / "s.yaml").write_text(
        "study: c\nsteps: {a: {run: 'echo \\{\\\"iou\\\": 1\\} > {out}/metrics.json'}}\n"
        "report: {objective: {metric: val/iou, goal: max}}\n"
    )
    said = shoal("run", "s.yaml").stderr
    assert "no task reports a metric 'val/iou'" in said
    assert "Did you mean a/iou?" in said
    assert "objective" not in shoal("run", "s.yaml", "--set", "report.objective.metric=iou").stderr


def test_text_in_braces_that_is_the_shells_stays_so(folder: Path, shoal: Run) -> None:
    (folder / "s.yaml").write_text(
        "study: c\nsteps: {a: {matrix: {x: [1]}, run: 'y={x}; { echo ${y} $y {{x}}; } > {out}/x; cat {out}/x'}}\n"
    )
    shoal("run", "s.yaml")
    assert shoal("logs", "s.yaml", "a").stdout == "1 1 {x}\n"


def test_a_disk_that_is_full_is_told_with_the_file_that_did_not_fit(folder: Path, shoal: Run) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    said = shoal("run", "s.yaml", code=1, preexec_fn=little_room).stderr
    assert re.search(r"^error: .*/runs/demo/.*json: File too large", said, re.MULTILINE), said


def test_what_status_leaves_out_is_counted(folder: Path, shoal: Run) -> None:
    words = list("abcdefghijkl")
    run = "echo it was {x} no {n} >&2; exit 1"
    (folder / "s.yaml").write_text(
        f"study: c\nsteps: {{a: {{canary: 0, matrix: {{x: {words}, n: [1, 2]}}, run: {run!r}}}}}\n"
    )
    shoal("run", "s.yaml", code=1)
    said = shoal("status", "s.yaml").stdout
    assert said.count("2 tasks of a: The command ended with exit code 1: it was ") == 10
    assert "… and 4 tasks that failed in other ways" in said


def test_a_pipe_that_hides_a_failure_is_told_before_it_can(folder: Path, shoal: Run) -> None:
    (folder / "s.yaml").write_text(
        """
study: c
steps:
  a: {run: 'false | tee {out}/log'}
  b: {run: "false || echo 'a | b' > {out}/x"}
  c: {run: 'set -o pipefail; false | cat'}
  d: {run: [echo, '|', x]}
"""
    )
    note = "note: a: of a pipe only the last command's exit code counts"
    for said in (shoal("plan", "s.yaml").stdout, shoal("run", "s.yaml", code=None).stderr):
        assert note in said
        assert said.count("note:") == 1
    assert "note:" not in shoal("run", "s.yaml", "--only", "a").stderr, "once is enough"


def test_a_secret_that_is_not_there_is_told(folder: Path, shoal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "s.yaml").write_text("study: c\nsteps:\n  a: {run: [env], secrets: [SOME_KEY, OTHER_KEY]}\n")
    monkeypatch.setenv("OTHER_KEY", "x")
    for said in (shoal("plan", "s.yaml").stdout, shoal("run", "s.yaml").stderr):
        assert "note: a: the secret SOME_KEY is not in this environment" in said
        assert said.count("note:") == 1


def test_a_table_that_is_added_after_the_run_is_shown_without_another(folder: Path, shoal: Run) -> None:
    shoal("run", "s.yaml", "--profile", "smoke")
    file = folder / "s.yaml"
    file.write_text(file.read_text().replace("rows: model, columns: lr", "title: Afterwards, rows: [model, lr]"))
    done = shoal("results", "s.yaml")
    assert done.stdout.startswith("Afterwards: ")
    assert done.stderr == "(as last run: --profile smoke)\n"
    assert "Afterwards" in Path(shoal("report", "s.yaml").stdout.strip()).read_text()
    file.write_text(file.read_text().replace("smoke", "small"))
    assert shoal("results", "s.yaml").stdout.startswith("Afterwards: "), "the profile's name has changed since"


def test_two_files_of_one_name_are_told_apart(folder: Path, shoal: Run) -> None:
    shoal("run", "s.yaml", "--profile", "smoke")
    copy = folder / "copy.yaml"
    copy.write_text((folder / "s.yaml").read_text().replace("model: [a, b]", "model: [c]").partition("profiles")[0])
    assert shoal("results", "copy.yaml").stderr == "(as last run: s.yaml --profile smoke)\n"
    assert re.search(r"train +4 +4 to run", shoal("status", "copy.yaml").stdout)
    assert "was last run from s.yaml" in shoal("run", "copy.yaml").stderr
    assert "was last run" not in shoal("run", "copy.yaml").stderr


def test_a_script_that_is_not_there_is_told_by_the_plan(folder: Path, shoal: Run) -> None:
    (folder / "s.yaml").write_text(
        """
study: c
steps:
  a: {run: 'sh trian.sh --out {out}'}
  b: {run: [sh, train.sh]}
  c: {run: 'cd elsewhere; sh far.sh'}
  d: {run: 'python -m package.train'}
"""
    )
    said = shoal("plan", "s.yaml").stdout
    assert "note: a names a script that is not there: trian.sh; did you mean train.sh?" in said
    assert said.count("note:") == 1


def test_a_run_can_be_stopped_while_its_file_is_being_edited(folder: Path, shoal: Run) -> None:
    file = folder / "s.yaml"
    file.write_text("study: c\nsteps: {a: {run: sleep 60}}\n")
    runner = subprocess.Popen([sys.executable, "-m", "shoal", "run", "s.yaml"], cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: list((folder / "runs").glob("c/a/*/attempts/1/attempt.json")))
    file.write_text("study: c\nsteps: {a: [")
    assert shoal("stop", "s.yaml").stdout == "c: stopped\n"
    assert runner.wait(timeout=60) == 130
    assert "never closed" in shoal("stop", "s.yaml", code=2).stderr, "nothing runs, so the file is what is wrong"
