"""The bench measures what it says: sizes of its studies, whole small runs of its parts, and failures that are told."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from needs import require
from shoal.plan import build, resources_of
from shoal.study import load_study

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def run(*arguments):
    command = [sys.executable, str(BENCH / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


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
    assert "* `python bench/run.py --quick --only a,b,c --sizes 40,400 --tasks 4 --peer-tasks 0`, date: " in text
    found = json.loads(figures.read_text())
    assert found["b"]["Shoal, true"]["tasks"] == 4
    assert all(seconds > 0 for seconds in found["b"]["Shoal, true"]["wall"])
    assert set(found["c"]) >= {"shoal --help", "shoal plan"}
    rows = [line for line in text.splitlines() if line.startswith("| Shoal, 4 x")]
    assert len(rows) == 2
    assert "x pool" in text

    done = run("--quick", "--only", "c", "--write", written, "--update")
    assert done.returncode == 0, done.stderr
    again = written.read_text()
    start, end = text.index("## (a)"), text.index("## (c)")
    assert again[again.index("## (a)") : again.index("## (c)")] == text[start:end]
    assert "* `python bench/run.py --quick --only c`, date: " in again
    assert [line[:5] for line in again.splitlines() if line.startswith("| (")] == [
        line[:5] for line in text.splitlines() if line.startswith("| (")
    ]


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


def test_a_part_that_fails_leaves_the_figures_of_before(bench):
    measure, table = bench("measure"), bench("table")
    facts = {"command": "one", "CPU": "x"}
    row, aim = measure.Row("a", "floor", {"s": "7"}), measure.Aim("a", "soon", "7 s", True)
    before = table.markdown({"a": measure.Part("Things", [row], [aim])}, facts)
    broken = {letter: measure.Part("Not measured", notes=["Not measured: no"]) for letter in "ab"}
    after = table.markdown(broken, {"command": "two", "CPU": "x"}, before, failed=["a", "b"])
    assert after.startswith(before.rstrip())
    assert "## (b) Not measured" in after


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


def test_the_simulated_mix_is_the_papers_and_its_bound_holds(bench, tmp_path):
    mix = bench("cluster_mix")
    work = mix.mix()
    assert work == mix.mix()
    kinds = {(step, gpus) for step, gpus in ((one.step, one.gpus) for one in work)}
    assert kinds == {("detection", 4), ("burned", 2), ("deforestation", 1), ("deforestation", 4)}
    hit = [one for one in work if one.at is not None]
    assert len(hit) == round(0.05 * len(work))
    for one in hit:
        first, second = one.attempts()
        assert first + second == pytest.approx(one.hours + one.lost)
        assert one.lost <= mix.CHECKPOINT

    file = tmp_path / "s.yaml"
    file.write_text(mix.study(work, 1.0))
    plan = build(load_study(file))
    assert [len(plan.of_step(step)) for step in ("detection", "burned", "deforestation")] == [30, 144, 60]
    asked = [resources_of(plan, task) for task in plan.tasks.values()]
    assert sum(one.gpu * one.time for one in asked) == pytest.approx(30 * 4 * 68 + 144 * 2 * 3.6 + 60 * 2.5 * 25)
    assert mix.bound(work, 10**6) == max(one.hours for one in work)
    assert mix.bound(work, 1) == pytest.approx(sum(one.gpus * one.hours for one in work))


def test_what_the_order_of_the_mix_costs_is_computed(bench):
    mix, order = bench("cluster_mix"), bench("cluster_order")
    alone = [mix.Training("burned", 2, 3.0)]
    assert order.makespan(alone, 2, 1) == 3.0
    assert order.makespan([mix.Training("burned", 2, 3.0, at=1.0, lost=0.5)], 2, 1, reaction=0.25) == 4.0
    # Long ones first, however long the others have to wait.
    long, short = mix.Training("detection", 4, 60.0), mix.Training("burned", 2, 4.0)
    assert order.makespan([long, long, short, short], 4, 1) == 124.0
    work = mix.mix()
    least = mix.bound(work, 64)
    few, all_ = order.makespan(work, 64, mix.WAITING), order.makespan(work, 64, len(work))
    assert least < few < 1.02 * least
    assert all_ > 1.05 * least
    assert order.makespan(work, 2000, 8) == pytest.approx(max(sum(one.attempts()) for one in work))


@pytest.mark.slow
def test_a_cluster_is_measured_with_small_sizes(tmp_path):
    sys.path.insert(0, str(BENCH.parent))
    from testbed import binaries

    built = all((binaries() / name).exists() for name in ("kube-apiserver", "etcd", "kwok", "kubectl"))
    require("cluster", built, "the testbed's programs are not built: `make testbed`")
    written = tmp_path / "results.md"
    sizes = ["--cluster-tasks", "10", "--cluster-cases", "floor,shoal,kubectl,stop"]
    done = run("--quick", "--only", "h,i", *sizes, "--write", written)
    assert done.returncode == 0, done.stdout + done.stderr
    text = written.read_text()
    for said in (
        "| Shoal, 10 Jobs",
        "| kubectl apply -f, one watch, 10 Jobs",
        "| shoal stop, 10",
        "12 trainings on 16 GPUs",
        "| 16 GPUs: room becomes free until a waiting pod has it |",
    ):
        assert said in text


def test_the_floor_fails_when_jobs_are_left(bench):
    floor = bench("cluster_floor")

    class Cut(floor.Server):
        """Answers two lists, and ends every watch at once."""

        def __init__(self, lists):
            self.lists = lists

        def send(self, verb, path, body=None):
            items = [
                {"metadata": {"name": name}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
                for name in self.lists.pop(0)
            ]
            return 200, json.dumps({"items": items, "metadata": {"resourceVersion": "7"}}).encode()

        def connect(self):
            raise AssertionError("no connection is to be had")

    watch = floor.Watch(Cut([["a"], ["a", "b"]]), "/jobs", {"a", "b"}, "")
    watch.start()
    watch.join(10)
    assert watch.left == {"b"}
    assert isinstance(watch.error, AssertionError)
