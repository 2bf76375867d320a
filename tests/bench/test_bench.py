"""The bench measures what it says: sizes of its studies, whole small runs of its parts, and failures that are told."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.plan import build
from shoal.study import load_study

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def run(*arguments):
    command = [sys.executable, str(BENCH / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_the_studies_have_the_sizes_that_the_table_names(bench, tmp_path):
    studies = bench("studies")
    file = tmp_path / "study.yaml"
    text, axes = studies.planning(10_000)
    file.write_text(text)
    plan = build(load_study(file))
    assert len(plan.tasks) == 10_000
    assert math.prod(map(len, axes.values())) == len(plan.of_step("train"))
    assert len(plan.of_step("train")[0].needs) == 2
    _, axes = studies.planning(100_000)
    assert 10 + 3 * math.prod(map(len, axes.values())) == 100_000

    file.write_text(studies.paper())
    plan = build(load_study(file))
    assert [len(plan.of_step(step)) for step in plan.order] == [30, 144, 60]


def test_parts_run_with_small_sizes_and_are_written_down(tmp_path):
    written, figures = tmp_path / "results.md", tmp_path / "figures.json"
    sizes = ["--sizes", "40,400", "--tasks", "4", "--peer-tasks", "0"]
    done = run("--quick", "--only", "a,b,c", *sizes, "--write", written, "--json", figures)
    assert done.returncode == 0, done.stderr
    text = written.read_text()
    for heading in ("## Aims", "## (a) Planning", "## (b) Tasks that do nothing", "## (c) Start"):
        assert heading in text
    assert "(d)" not in text
    assert str(tmp_path) not in text
    assert "* command: python bench/run.py --quick --only a,b,c --sizes 40,400 --tasks 4 --peer-tasks 0\n" in text
    found = json.loads(figures.read_text())
    assert found["b"]["Shoal, true"]["tasks"] == 4
    assert all(seconds > 0 for seconds in found["b"]["Shoal, true"]["wall"])
    assert set(found["c"]) >= {"shoal --help", "shoal plan"}
    rows = [line for line in text.splitlines() if line.startswith("| Shoal, 4 x")]
    assert len(rows) == 2
    assert "x pool" in text


def test_what_cannot_be_measured_is_told_and_is_no_success(bench, tmp_path):
    measure = bench("measure")
    with pytest.raises(measure.BenchError, match=r"exited with 3:\n.*oh no"):
        measure.command([sys.executable, "-c", "import sys; print('oh no'); sys.exit(3)"])
    took = measure.command([sys.executable, "-c", "sum(range(3_000_000))"])
    assert took.seconds > 0
    assert took.cpu > 0
    done = run("--quick", "--only", "x")
    assert done.returncode == 2
    assert "parts are a, b, c, d, e, f" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to another process")
def test_cpu_time_counts_processes_that_outlive_the_command():
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}], stdout=-3, stderr=-3)"
    # In a process of its own: the bench waits for every child it has, and pytest may have some.
    code = "import measure, sys; print(measure.command([sys.executable, '-c', sys.argv[1]]).cpu)"
    command = [sys.executable, "-c", code, orphan]
    done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) >= 0.5


def test_ratios_are_taken_round_by_round(bench):
    measure = bench("measure")
    ours, floor = measure.Spread((2.0, 30.0, 4.0)), measure.Spread((1.0, 10.0, 4.0))
    assert measure.ratios(ours, floor).values == (2.0, 3.0, 1.0)
    assert measure.ratios(ours, floor).shown(1) == "2.0 (1.0..3.0)"


def test_detection_is_measured_with_small_sizes(tmp_path):
    written = tmp_path / "results.md"
    done = run("--quick", "--only", "e,f", "--write", written)
    assert done.returncode == 0, done.stdout + done.stderr
    text = written.read_text()
    for said in (
        "## (e) Detection data",
        "peer: pycocotools, 100 images",
        "## (f) Detectors in training",
        "| yolov3, tiny, 128 px",
    ):
        assert said in text
