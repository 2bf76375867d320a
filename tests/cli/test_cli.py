"""The command line, as a person and as a program use it: real processes, real store."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from shoal_demo import STUDY, TRAIN, Run

from processes import until


def states(shoal: Run, *arguments: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for task in json.loads(shoal("plan", "s.yaml", "--json", *arguments).stdout)["tasks"]:
        found.setdefault(task["step"], []).append(task["reason"] or task["state"])
    return found


def test_the_version_is_told_without_a_verb(shoal: Run) -> None:
    assert re.fullmatch(r"shoal \d+\.\d+\.\d+\n", shoal("--version").stdout)


def test_plan_run_results_and_nothing_twice(shoal: Run, folder: Path) -> None:
    planned = json.loads(shoal("plan", "s.yaml", "--json").stdout)
    assert set(planned) == {"study", "tasks"}
    assert all(set(task) == {"id", "step", "params", "needs", "state", "reason"} for task in planned["tasks"])
    assert states(shoal) == {"prep": ["new"], "train": ["new"] * 8, "test": ["new"] * 8}
    assert not (folder / "runs").exists(), "planning writes nothing"
    shoal("run", "s.yaml")
    assert states(shoal) == {"prep": ["done"], "train": ["done"] * 8, "test": ["done"] * 8}
    again = shoal("run", "s.yaml")
    assert "17 of them before this run" in again.stderr
    attempts = list((folder / "runs" / "demo").glob("*/*/attempts/*"))
    assert len(attempts) == 17
    table = json.loads(shoal("results", "s.yaml", "--json").stdout)
    assert "0.3" in json.dumps(table)
    assert shoal("results", "s.yaml", "--format", "csv").stdout.count("\n") >= 5
    asked = ("--rows", "model", "--over", "seed", "--over", "lr", "--value", "train/acc", "--value", "test/acc")
    sides = shoal("results", "s.yaml", *asked, "--format", "csv").stdout
    assert re.findall(r"^(\w+),(\w+/\w+),", sides, re.M) == [
        (model, f"{step}/acc") for model in "ab" for step in ("train", "test")
    ]
    for format_ in ("table", "md", "latex"):
        assert "test/acc" in shoal("results", "s.yaml", "--format", format_).stdout.replace("\\_", "_")
    assert json.loads(shoal("usage", "s.yaml", "--json").stdout)
    assert "prep" in shoal("usage", "s.yaml").stdout
    assert shoal("status", "s.yaml").stdout.endswith("  See: shoal results s.yaml · shoal report s.yaml\n")
    status = json.loads(shoal("status", "s.yaml", "--json").stdout)
    assert {step["step"]: step["counts"] for step in status["steps"]} == {
        "prep": {"done": 1},
        "train": {"done": 8},
        "test": {"done": 8},
    }
    some = next(task["id"] for task in status["tasks"] if task["step"] == "train")
    assert shoal("logs", "s.yaml", some[:8]).stdout == "training a 0.001 0\n"
    assert shoal("logs", "s.yaml", "train", "-n", "1", "-f").stdout.startswith("training")
    report = Path(shoal("report", "s.yaml").stdout.strip())
    assert report.read_text().startswith("<!")
    assert (folder / "runs" / ".gitignore").read_text().endswith("*\n")


def test_the_last_lines_of_a_log_are_whole_lines_however_often_they_were_drawn_anew(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(
        """
study: bars
steps: {a: {run: 'printf "one\\ntwo\\n"; for i in 1 2 3; do printf "\\r%s of 3" $i; done; printf "\\nthree"'}}
"""
    )
    shoal("run", "s.yaml")
    path = next((folder / "runs").glob("bars/a/*/attempts/1/log.txt"))
    assert path.read_bytes() == b"one\ntwo\n\r1 of 3\r2 of 3\r3 of 3\nthree"
    for lines, kept in ((1, b"three"), (3, b"two\n\r1 of 3\r2 of 3\r3 of 3\nthree"), (9, path.read_bytes())):
        done = subprocess.run(
            [sys.executable, "-m", "shoal", "logs", "s.yaml", "-n", str(lines)], cwd=folder, capture_output=True
        )
        assert done.stdout == kept


def test_a_change_runs_what_it_touches_and_no_more(shoal: Run, folder: Path) -> None:
    shoal("run", "s.yaml")
    os.utime(folder / "data.txt")
    os.utime(folder / "train.sh")
    assert states(shoal)["prep"] == ["done"], "content counts, not time"
    (folder / "train.sh").write_text(TRAIN + "# the same result by other code\n")
    assert states(shoal) == {"prep": ["done"], "train": ["stale code"] * 8, "test": ["input changed"] * 8}
    assert states(shoal)["train"] == ["stale code"] * 8
    shoal("run", "s.yaml", "--keep-stale")
    assert states(shoal)["train"] == ["stale code"] * 8
    shoal("run", "s.yaml")
    assert states(shoal) == {"prep": ["done"], "train": ["done"] * 8, "test": ["done"] * 8}
    numbers = {path.name for path in (folder / "runs" / "demo" / "test").glob("*/attempts/*")}
    assert numbers == {"1"}, "an input that was made again and came out the same changes nothing below it"
    (folder / "data.txt").write_text("three")
    assert states(shoal)["prep"] == ["input changed"]
    shoal("run", "s.yaml")
    assert "0.5" in shoal("results", "s.yaml", "--format", "csv").stdout
    shutil.rmtree(next((folder / "runs" / "demo" / "prep").iterdir()) / "out")
    assert states(shoal)["prep"] == ["missing"]


def test_only_runs_a_step_and_what_it_needs(shoal: Run) -> None:
    task = json.loads(shoal("plan", "s.yaml", "--json").stdout)["tasks"][3]
    shoal("run", "s.yaml", "--only", task["id"][:6])
    found = states(shoal)
    assert found["prep"] == ["done"]
    assert sorted(found["train"]) == ["done"] + ["new"] * 7
    assert found["test"] == ["new"] * 8
    assert "no step and no task 'tset'" in shoal("run", "s.yaml", "--only", "tset", code=2).stderr


def test_a_profile_is_remembered_by_what_looks_at_the_last_run(shoal: Run) -> None:
    shoal("run", "s.yaml", "--profile", "smoke")
    seen = shoal("status", "s.yaml", "--json")
    assert "--profile smoke" in seen.stderr
    assert sum(step["tasks"] for step in json.loads(seen.stdout)["steps"]) == 3
    assert states(shoal)["train"].count("done") == 1, "the full study counts what the profile has done"


def test_failures_are_explained_and_end_with_1(shoal: Run, folder: Path) -> None:
    (folder / "train.sh").write_text('[ "$2" = a ] || { echo "no such model: $2" >&2; exit 3; }\n' + TRAIN)
    ended = shoal("run", "s.yaml", code=1)
    assert "4 failed" in ended.stderr
    assert "4 blocked" in ended.stderr
    found = shoal("status", "s.yaml")
    assert "4 failed" in found.stdout
    assert found.stdout.endswith("  Once mended: shoal run s.yaml\n")
    failed = [t for t in json.loads(shoal("status", "s.yaml", "--json").stdout)["tasks"] if t["state"] == "failed"]
    assert "no such model: b" in shoal("logs", "s.yaml", failed[0]["id"]).stdout
    assert {task["failure"]["class"] for task in failed} == {"user"}
    (folder / "train.sh").write_text(TRAIN)
    shoal("retry", "s.yaml", "--set", "resources.cpu=0.5")
    shoal("run", "s.yaml")
    assert set(states(shoal)["test"]) == {"done"}


def test_a_step_whose_first_tasks_all_fail_alike_is_stopped(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "study: c\nsteps: {a: {matrix: {x: [1,2,3,4,5,6,7,8]}, run: 'echo broken {x} >&2; exit 1', resources: {cpu: 1}}}"
    )
    ended = shoal("run", "s.yaml", "-j", "1", code=1)
    assert "first 3 tasks all failed alike" in ended.stderr
    assert "5 halted" in ended.stderr
    assert len(list((folder / "runs" / "c" / "a").iterdir())) == 3


def test_a_gate_waits_for_a_person_and_passes_on_what_they_give(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(
        """
study: gated
steps:
  look: {run: 'echo sheet > {out}/sheet'}
  choose: {needs: look, gate: Choose the pairs and give pairs.csv}
  go: {needs: [choose, look], run: 'cat {inputs.choose}/pairs.csv > {out}/x; cat {inputs.choose}/pairs.csv'}
"""
    )
    assert "look must be done first" in shoal("approve", "s.yaml", "choose", code=2).stderr
    waits = shoal("run", "s.yaml", code=3)
    (sheet,) = folder.rglob("look/*/out/sheet")
    assert f"Choose the pairs and give pairs.csv (In {sheet.parent}.)" in waits.stderr.replace("\n", " ")
    assert "shoal approve s.yaml choose" in waits.stderr
    assert states(shoal)["choose"] == ["waits for approval"]
    (folder / "pairs.csv").write_text("a,b\n")
    assert "no such file" in shoal("approve", "s.yaml", "--file", "nothing.csv", code=2).stderr
    shoal("approve", "s.yaml", "--file", "pairs.csv", "-m", "best pairs")
    shoal("run", "s.yaml")
    assert shoal("logs", "s.yaml", "go").stdout == "a,b\n"
    assert "nothing waits" in shoal("approve", "s.yaml", code=2).stderr
    # A mistake in what was given is mended by approving again; what was made of it is made anew.
    refused = shoal("approve", "s.yaml", "choose", code=2).stderr
    assert "'choose' was approved already" in refused
    assert "--file PATH" in refused
    (folder / "pairs.csv").write_text("c,d\n")
    shoal("approve", "s.yaml", "choose", "--file", "pairs.csv")
    assert states(shoal)["go"] == ["input changed"]
    shoal("run", "s.yaml")
    assert shoal("logs", "s.yaml", "go").stdout == "c,d\n"


def test_a_retry_is_of_the_study_as_it_was_last_run(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text("study: s\nvars: {word: one}\nsteps: {a: {run: 'echo {word} >> all; test -e good'}}")
    shoal("run", "s.yaml", "--set", "vars.word=two", code=1)
    (folder / "good").touch()
    shoal("retry", "s.yaml")
    assert "two" in shoal("logs", "s.yaml", "a").stderr, "and so is whatever comes after it"
    assert states(shoal, "--set", "vars.word=two")["a"] == ["done"]


def test_a_second_runner_is_told_who_holds_the_study_and_stop_ends_it(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text("study: long\nsteps: {a: {matrix: {x: [1, 2]}, run: 'echo {x}; sleep 60'}}")
    runner = subprocess.Popen([sys.executable, "-m", "shoal", "run", "s.yaml"], cwd=folder, stderr=subprocess.PIPE)
    try:
        until(lambda: len(running(shoal)) == 2 or (os.cpu_count() == 1 and len(running(shoal)) == 1))
        held = shoal("run", "s.yaml", code=4)
        assert f"process {runner.pid}" in held.stderr
        assert "shoal status s.yaml · end it with: shoal stop s.yaml\n" in held.stderr
        assert "nothing to remove" in shoal("gc", "s.yaml").stdout, "to look needs no hold"
        assert "is being run by" in shoal("gc", "s.yaml", "--yes", code=4).stderr
        task = running(shoal)[0]
        shoal("stop", "s.yaml", task)
        until(lambda: task not in running(shoal))
        shoal("stop", "s.yaml")
        assert runner.wait(timeout=30) == 130
    finally:
        runner.kill()
        runner.wait()
    assert not running(shoal)


def test_tasks_outlive_their_runner_and_are_adopted(shoal: Run, folder: Path) -> None:
    go = folder / "go"
    waits = f"until test -e {go}; do sleep 0.05; done; echo done {{x}}"
    (folder / "s.yaml").write_text(f"study: long\nsteps: {{a: {{matrix: {{x: [1]}}, run: '{waits}'}}}}")

    def begin(*more: str) -> subprocess.Popen[bytes]:
        with (folder / "said").open("wb") as said:
            made = subprocess.Popen([sys.executable, "-m", "shoal", "run", "s.yaml", *more], cwd=folder, stderr=said)
        until(lambda: len(running(shoal)) == 1, 60)
        return made

    runner = begin()
    runner.send_signal(signal.SIGHUP)  # what a closing terminal sends
    runner.wait(60)
    assert "1 task of this run goes on running" in (folder / "said").read_text()
    assert len(running(shoal)) == 1
    assert "1 of 1 tasks are running now. See: shoal status s.yaml" in shoal("plan", "s.yaml").stdout
    runner = begin()
    until(lambda: "adopted 1" in (folder / "said").read_text(), 60)
    go.touch()
    assert runner.wait(60) == 0
    assert len(list((folder / "runs" / "long" / "a").glob("*/attempts/*"))) == 1
    go.unlink()
    runner = begin("--set", "steps.a.matrix.x=[2]")
    runner.kill()
    runner.wait()
    assert "1 running task stopped" in shoal("stop", "s.yaml").stdout
    assert not running(shoal)


def running(shoal: Run) -> list[str]:
    seen = shoal("status", "s.yaml", "--json", code=None)
    tasks = json.loads(seen.stdout)["tasks"] if seen.returncode == 0 else []
    return [task["id"] for task in tasks if task["state"] == "running"]


def test_a_plan_says_which_data_is_not_there_yet(shoal: Run, folder: Path) -> None:
    assert "not there" not in shoal("plan", "s.yaml").stdout
    (folder / "data.txt").unlink()
    said = shoal("plan", "s.yaml").stdout
    assert f"note: prep will need data that is not there: {folder / 'data.txt'}" in said
    assert "Once that data is there, start with: shoal run s.yaml" in said
    assert "step 'prep' needs data that is not there" in shoal("run", "s.yaml", code=2).stderr


@pytest.mark.parametrize("verb", ["results", "report", "usage"])
def test_who_asks_before_anything_ran_is_told_how_to_start(shoal: Run, verb: str) -> None:
    refused = shoal(verb, "s.yaml", code=2)
    assert refused.stderr.startswith("error: nothing of study 'demo' has been run yet")
    assert refused.stderr.endswith("Start with: shoal run s.yaml\n")
    assert shoal("status", "s.yaml").stdout.endswith("  Start with: shoal run s.yaml\n")


@pytest.mark.parametrize("verb", ["results", "report", "usage"])
def test_results_are_those_of_the_place_that_is_named(shoal: Run, folder: Path, verb: str) -> None:
    shoal("run", "s.yaml", "--only", "prep")
    refused = shoal(verb, "s.yaml", "--on", "nautilus", code=2).stderr
    assert (
        "nothing of study 'demo' has been run on nautilus yet\nStart with: shoal run s.yaml --on nautilus\n" in refused
    )
    (folder / "runs").rename(folder / "runs-nautilus")
    extra = ["--tasks"] if verb == "results" else []
    assert shoal(verb, "s.yaml", "--on", "nautilus", *extra).stdout
    shoal(verb, "s.yaml", "--on", "local", *extra, code=2)
    assert "goes with a study file" in shoal(verb, "runs-nautilus/demo", "--on", "nautilus", code=2).stderr


def test_ctrl_c_drains_first_and_stops_then(shoal: Run, folder: Path) -> None:
    waits = f"echo {{x}} >> {folder}/begun; until test -e {folder}/go; do sleep 0.05; done"
    (folder / "s.yaml").write_text(f"study: d\nsteps: {{a: {{matrix: {{x: [1, 2, 3]}}, run: '{waits}'}}}}")
    runner = subprocess.Popen(
        [sys.executable, "-m", "shoal", "run", "s.yaml", "-j", "1"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    until((folder / "begun").exists)
    runner.send_signal(signal.SIGINT)
    time.sleep(0.5)  # it hears of it
    (folder / "go").touch()
    _, said = runner.communicate(timeout=20)
    assert runner.returncode == 130
    assert "1 of 3 tasks done" in said
    assert said.endswith("Go on with: shoal run s.yaml\n")
    assert states(shoal)["a"] == ["done", "new", "new"]
    (folder / "go").unlink()
    runner = subprocess.Popen(
        [sys.executable, "-m", "shoal", "run", "s.yaml", "-j", "1"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    until(lambda: (folder / "begun").read_text() == "1\n2\n")
    for _ in "ab":
        runner.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, said = runner.communicate(timeout=20)
    assert runner.returncode == 130
    assert "1 of 3 tasks done" in said, "what is stopped does not count"


def test_secrets_reach_the_task_and_nothing_else(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "study: sec\nsteps: {a: {secrets: [MY_TOKEN], run: 'echo token is $MY_TOKEN; test -n \"$MY_TOKEN\"'}}"
    )
    environment = {**os.environ, "MY_TOKEN": "s3cr3t-value"}
    shoal("run", "s.yaml", env=environment)
    assert shoal("logs", "s.yaml").stdout == "token is ***\n"
    shoal("report", "s.yaml", env=environment)
    for path in (folder / "runs").rglob("*"):
        if path.is_file():
            assert b"s3cr3t-value" not in path.read_bytes(), path


def test_gc_shows_first_and_keeps_what_any_profile_needs(shoal: Run, folder: Path) -> None:
    shoal("run", "s.yaml")
    (folder / "s.yaml").write_text(STUDY.replace("lr: [1e-3, 1e-2]", "lr: [1e-3]"))
    shoal("run", "s.yaml", "--profile", "smoke")
    shown = shoal("gc", "s.yaml").stdout
    assert "8  " in shown
    assert "in the study no longer" in shown
    assert len(list((folder / "runs" / "demo" / "train").iterdir())) == 8
    shoal("gc", "s.yaml", "--yes")
    assert len(list((folder / "runs" / "demo" / "train").iterdir())) == 4
    assert set(states(shoal)["train"]) == {"done"}
    assert "nothing to remove" in shoal("gc", "s.yaml").stdout


def test_gc_leaves_alone_what_a_task_without_a_runner_works_with(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "study: g\nsteps: {a: {code: train.sh, run: 'until test -e {checkpoints}/go; do sleep 0.05; done'}}"
    )
    runner = subprocess.Popen([sys.executable, "-m", "shoal", "run", "s.yaml"], cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: len(running(shoal)) == 1)
    runner.kill()
    runner.wait()
    (task,) = (folder / "runs" / "g" / "a").iterdir()
    half_made = task / ".result.json.1.tmp"
    half_made.write_text("being written")
    assert "nothing to remove" in shoal("gc", "s.yaml", "--yes").stdout
    assert len(list((folder / "runs" / "g" / "code").iterdir())) == 1
    (task / "checkpoints" / "go").touch()
    until(lambda: (task / "result.json").exists())
    assert "left half-made by a kill" in shoal("gc", "s.yaml", "--yes").stdout
    assert not half_made.exists()


MISTAKES = [
    (["plan", "nothing.yaml"], "nothing.yaml"),
    (["plan", "s.yaml", "--profile", "smok"], "smoke"),
    (["plan", "s.yaml", "--set", "steps.train.retreis=2"], "retries"),
    (["plan", "s.yaml", "--on", "nautlius"], "nautilus"),
    (["run", "s.yaml", "--on", "nautilus"], "would refuse this; nothing was created"),
    (["plan", "s.yaml", "--store", "ftp://x/y"], "ftp://"),
    (["run", "s.yaml", "-j", "0"], "greater than or equal to 1"),
    (["results", "s.yaml", "--format", "xls"], "latex"),
    (["results", "s.yaml"], "run"),
    (["report", "s.yaml"], "run"),
    (["logs", "s.yaml"], "nothing of study 'demo' has been tried"),
    (["approve", "s.yaml"], "no gate"),
    (["retry", "s.yaml", "--set", "lr=3"], "only resources"),
    (["retry", "s.yaml", "prep", "--set", "resources.memory=lots"], '"memory" is not a size: "lots"'),
]


@pytest.mark.parametrize(
    ("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_message_and_exit_2(shoal: Run, arguments: list[str], said: str) -> None:
    done = shoal(*arguments, code=2)
    assert said in done.stderr
    assert done.stdout == ""


def test_a_study_with_a_mistake_names_file_line_and_column(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(STUDY.replace("{inputs.prep}/x {model} {lr}", "{inputs.prep}/x {model} {learning}"))
    assert "s.yaml:11:" in shoal("plan", "s.yaml", code=2).stderr


def test_data_that_is_not_there_is_said_before_anything_starts(shoal: Run, folder: Path) -> None:
    (folder / "data.txt").unlink()
    said = shoal("run", "s.yaml", code=2).stderr
    assert "s.yaml:15:7" in said
    assert "data that is not there" in said
    assert not list((folder / "runs" / "demo").glob("*/*/attempts"))


def test_a_store_that_cannot_be_written_is_said_so(shoal: Run, folder: Path) -> None:
    (folder / "file").write_text("")
    done = shoal("run", "s.yaml", "--store", "file", code=1)
    assert "file" in done.stderr
    assert "--store" in done.stderr


def test_looking_at_a_study_that_never_ran_writes_nothing(shoal: Run, folder: Path) -> None:
    for verb in ("plan", "status", "gc", "stop", "retry"):
        shoal(verb, "s.yaml")
    assert not (folder / "runs").exists()


def test_output_into_a_closed_pipe_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m shoal plan s.yaml --json | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_code_that_a_study_names_is_run_as_it_was_when_the_run_began(shoal: Run, folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "say.sh").write_text("echo first")
    (folder / "s.yaml").write_text(
        "study: c\nsteps: {a: {run: sleep 4}, b: {needs: a, code: lib, run: sh lib/say.sh}}\n"
    )
    runner = subprocess.Popen([sys.executable, "-m", "shoal", "run", "s.yaml"], cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: len(running(shoal)) == 1)
    (folder / "lib" / "say.sh").write_text("echo second")
    assert runner.wait(timeout=60) == 0
    assert shoal("logs", "s.yaml", "b").stdout == "first\n"
    assert states(shoal) == {"a": ["done"], "b": ["stale code"]}
    shoal("run", "s.yaml")
    assert shoal("logs", "s.yaml", "b").stdout == "second\n"


def test_a_live_runner_takes_a_retry_and_what_it_had_blocked_goes_on(shoal: Run, folder: Path) -> None:
    (folder / "s.yaml").write_text(
        """
study: live
steps:
  a: {matrix: {x: [1, 2]}, run: 'if test {x} = 2; then sleep 12; else test -e mended; fi'}
  b: {for_each: a, run: 'echo {x}'}
"""
    )
    runner = subprocess.Popen(
        [sys.executable, "-m", "shoal", "run", "s.yaml"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: "failed" in states(shoal)["a"])
        wrong = shoal("retry", "s.yaml", "--set", "resources.cpus=1", code=2)
        assert 'Did you mean "cpu"?' in wrong.stderr, "the runner goes on"
        (folder / "mended").touch()
        assert "asked its runner to try 1 task again" in shoal("retry", "s.yaml").stdout
        _, said = runner.communicate(timeout=60)
    finally:
        runner.kill()
        runner.wait()
    assert runner.returncode == 0, said
    assert "4 of 4 tasks done" in said


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("plan s.yaml --profile ", ["smoke"]),
        ("run s.yaml --only t", ["train", "test"]),
        ("logs s.yaml pr", ["prep"]),
        ("run s.yaml --on ", ["local", "debug", "nautilus"]),
        ("run nothing.yaml --only ", []),
    ],
)
def test_a_shell_is_offered_the_names_that_the_study_has(folder: Path, line: str, offered: list[str]) -> None:
    words = f"shoal {line}"
    asked = {"_SHOAL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [Path(sys.executable).parent / "shoal"], cwd=folder, env={**os.environ, **asked}, capture_output=True, text=True
    )
    assert done.stdout.split() == offered, done.stderr
    assert not done.stderr


def commands(app: Any) -> list[tuple[str, Any]]:
    """All commands of a command line, with their groups, by the words that call them."""
    found = []

    def walk(command: Any, words: str) -> None:
        found.append((words, command))
        for name, below in getattr(command, "commands", {}).items():
            walk(below, f"{words} {name}")

    walk(typer.main.get_command(app), "")
    return found


@pytest.mark.parametrize("module", ["shoal.cli", "shoal_earth.cli"])
def test_help_says_in_one_whole_line_what_each_command_does(module: str) -> None:
    every = commands(importlib.import_module(module).app)
    assert len(every) > 10
    for words, command in every:
        lists = [name for name, below in getattr(command, "commands", {}).items() if not below.hidden]
        said = typer.testing.CliRunner().invoke(
            importlib.import_module(module).app, [*words.split(), "-h"], terminal_width=80
        )
        assert said.exit_code == 0, words
        shown = said.output.partition("\nCommands:\n")[2].splitlines()
        assert [line.split()[0] for line in shown if line.strip()] == lists, words
        assert not [line for line in shown if line.endswith("...")], words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_lives_as_long_as_a_command_is_removed_when_it_is_ended(number: signal.Signals) -> None:
    # What starts these tests may ignore some of the signals, as nohup does, and who is started so goes on ignoring them.
    program = (
        "import shoal.cli as cli, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "def app():\n"
        "    try:\n        print('there', flush=True); time.sleep(60)\n"
        "    finally:\n        print('removed', flush=True)\n"
        "cli.app = app\ncli.main()\n"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "there\n"
        command.send_signal(number)
        assert command.stdout.read() == "removed\n"
    assert command.returncode == 128 + number
