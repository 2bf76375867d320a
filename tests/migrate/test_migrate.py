"""nautiluslauncher's configurations become studies that do exactly the same, and mistakes in them have a place."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.clusters import parse_cluster
from shoal.errors import StudyError
from shoal.migrate import Migration, migrate
from shoal.plan import Plan, build
from shoal.study import parse_study

MODELS = ["ssd", "yolov3", "yolox"]
DATASETS = ["RarePlanes", "DOTA"]


def convert(tmp_path: Path, config: Any) -> tuple[Migration, Plan]:
    """Migrate a configuration, and plan what came out."""
    path = tmp_path / "cfg.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    made = migrate(path, name="imported")
    return made, build(parse_study(made.study, "imported.yaml"))


def config(*jobs: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """A configuration of some jobs."""
    base = {"image": "registry/x:1", "command": ["python", "train.py"], **defaults}
    return {"namespace": "lab", "defaults": base, "jobs": list(jobs)}


def test_gpus_are_known_with_and_without_their_vendor(tmp_path: Path) -> None:
    names = {"A100-SXM4-80GB": "NVIDIA-A100-SXM4-80GB", "RTX-A6000": "rtxa6000", "NVIDIA-A40": "a40", "Odd-9": "Odd-9"}
    for label, known in names.items():
        _, plan = convert(tmp_path, config({"job_name": "a", "gpu": 1, "gpu_type": label}))
        assert plan.study.steps["a"].resources.gpu_type == (known,)


def test_what_cannot_be_written_is_told_of_the_configuration_and_not_of_a_file_that_is_not_there(
    tmp_path: Path,
) -> None:
    with pytest.raises(StudyError) as caught:
        convert(tmp_path, config({"job_name": "a", "tolerations": ["no key!"]}))
    assert str(caught.value).startswith(f"{tmp_path / 'cfg.yaml'}: it cannot be written as a cluster file: ")


def test_a_grid_of_jobs_becomes_a_matrix(tmp_path: Path) -> None:
    jobs = [
        {"job_name": f"train-{model}-{data.lower()}", "workingDir": f"/output/{data}/{model}"}
        for data in DATASETS
        for model in MODELS
    ]
    made, plan = convert(tmp_path, config(*jobs, gpu=4, shm=True, volumes={"jhurt-data": "/data", "out": "/output"}))
    (step,) = plan.study.steps.values()
    assert made.steps == 1
    assert dict(step.matrix) == {"workdir_1": tuple(DATASETS), "workdir_2": tuple(MODELS)}
    assert step.run == "cd /output/{workdir_1}/{workdir_2} && python train.py"
    assert (step.resources.gpu, step.resources.shm) == (4, 4 << 30)
    cluster = parse_cluster(made.cluster)
    assert [(one.claim, one.path) for one in cluster.volumes] == [("jhurt-data", "/data"), ("out", "/output")]
    assert cluster.namespace == "lab"


def test_values_that_move_together_are_zipped_and_others_are_listed(tmp_path: Path) -> None:
    pairs = [("a", 8), ("b", 4), ("c", 2)]
    zipped = [{"job_name": f"j{m}", "command": ["t", "--model", m, "--batch", str(b)]} for m, b in pairs]
    _, plan = convert(tmp_path, config(*zipped))
    (step,) = plan.study.steps.values()
    assert step.zip == ({"model": ("a", "b", "c"), "batch": (8, 4, 2)},)
    uneven = [{"job_name": f"j{i}", "command": ["t", f"--lr={lr}", f"--m={m}"]} for i, (lr, m) in
              enumerate([("0.1", "a"), ("0.1", "b"), ("1e-3", "a")])]  # fmt: skip
    _, plan = convert(tmp_path, config(*uneven))
    (step,) = plan.study.steps.values()
    assert step.include == ({"lr": 0.1, "m": "a"}, {"lr": 0.1, "m": "b"}, {"lr": "1e-3", "m": "a"})
    assert {task.command for task in plan.tasks.values()} == {("t", "--lr=0.1", "--m=a"), ("t", "--lr=0.1", "--m=b"),
                                                              ("t", "--lr=1e-3", "--m=a")}  # fmt: skip


def test_names_that_mean_something_in_a_study_are_not_taken(tmp_path: Path) -> None:
    options = ["include", "zip", "out", "seed"]
    jobs = [
        {"job_name": f"Code{i}", "command": ["t", *(f"--{name}={i + k * i}" for k, name in enumerate(options))]}
        for i in range(3)
    ]
    _, plan = convert(tmp_path, config(*jobs))
    assert list(plan.study.steps) == ["Code-jobs"]
    assert plan.axes("Code-jobs").keys() == {"include_", "zip_", "out_", "seed"}


def test_different_kinds_of_jobs_are_different_steps(tmp_path: Path) -> None:
    made, plan = convert(
        tmp_path,
        config(
            {"job_name": "train-a", "command": ["python", "train.py", "a"], "gpu": 1},
            {"job_name": "train-b", "command": ["python", "train.py", "b"], "gpu": 2},
            {"job_name": "eval", "command": ["python", "eval.py"], "image": "registry/eval:2"},
        ),
    )
    assert list(plan.study.steps) == ["train", "eval"]
    assert plan.study.steps["eval"].image == "registry/eval:2"
    assert made.jobs == 3
    assert plan.study.steps["train"].resources.gpu == "{gpu}"


def test_same_jobs_under_two_names_stay_two(tmp_path: Path) -> None:
    made, plan = convert(tmp_path, config({"job_name": "first"}, {"job_name": "second"}))
    assert len(plan.tasks) == 2
    assert any("but for their names" in note.text for note in made.notes)


def test_defaults_merge_deeply_and_lists_replace(tmp_path: Path) -> None:
    _, plan = convert(
        tmp_path,
        config(
            {"job_name": "a", "env": {"B": 2}, "command": ["other"]},
            env={"A": 1, "B": 1, "FLAG": True},
            gpu=1,
            gpu_type="NVIDIA-GeForce-RTX-3090",
        ),
    )
    (step,) = plan.study.steps.values()
    assert step.env == {"A": "1", "B": "2", "FLAG": "True"}
    assert step.run == ("other",)
    assert step.resources.gpu_type == ("rtx3090",)


def test_the_base_configuration_lies_below(tmp_path: Path) -> None:
    base, path = tmp_path / "base.yaml", tmp_path / "cfg.yaml"
    base.write_text("namespace: lab\ndefaults: {image: x, command: [a], gpu: 2}\n")
    path.write_text("defaults: {gpu: 1}\njobs: [{job_name: j}]\n")
    made = migrate(path, name="s", base=base)
    assert build(parse_study(made.study)).study.steps["j"].resources.gpu == 1


def test_what_was_wrong_is_named_where_it_was_written(tmp_path: Path) -> None:
    text = """namespace: lab
defaults:
  image: x
  command: python train.py; sleep 60
  ports: [8880]
  gpu: 1
  min_gpu_memory: 24
jobs:
  - {job_name: a, min_ram: 8, max_ram: 64, region: us-west}
  - {job_name: b, min_cpu: 8, max_cpu: 16, region: us-east, hostname: node-1}
"""
    made, _ = convert(tmp_path, text)
    said = {str(note).removeprefix(str(tmp_path) + "/") for note in made.notes}

    def has(place: str, words: str) -> bool:
        return any(note.startswith(place) and words in note for note in said)

    assert has("cfg.yaml:9:31", "limit of 64 GB for a request of 8")
    assert has("cfg.yaml:10:31", "limit of 16 CPU for a request of 8")
    assert has("cfg.yaml:7:3", 'Gt "24Gi", which matches no node')
    assert has("cfg.yaml:5:3", "ports are left out")
    assert has("cfg.yaml:4:3", "ends in sleep")
    assert has("cfg.yaml:4:3", "as text was refused")
    assert has("jobs differ in region", "us-west for 1; us-east for 1")
    assert has("The launcher ended with exit code 0", "")
    study = parse_study(made.study)
    assert next(iter(study.steps.values())).resources.gpu_memory == 24 << 30


def test_what_belongs_to_the_cluster_is_kept_apart(tmp_path: Path) -> None:
    made, _ = convert(
        tmp_path,
        config(
            {"job_name": "a"},
            region="us-west",
            hostname="n1",
            tolerations=["nautilus.io/hardware"],
            volumes={"c": "/d"},
        ),
    )
    cluster = parse_cluster(made.cluster)
    assert cluster.defaults.regions == ("us-west",)
    assert cluster.defaults.hosts == ("n1",)
    assert cluster.defaults.tolerations[0].key == "nautilus.io/hardware"
    assert "us-west" not in made.study


MISTAKES = [
    ("jobs: []\nnamespace: x", "1:7", "at least one"),
    ("jobs: [{job_name: a, image: b, command: [c]}]", "1:1", '"namespace" is missing'),
    ("namespace: x\njobs: [{job_name: a, image: b}]", "2:8", '"command" of job 1 is missing'),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], gpus: 1}]", "2:46", 'unknown key "gpus"'),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], gpu: one}]", "2:51", "a whole number"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], shm: 1}]", "2:51", "true or false"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [[c]]}]", "2:41", "a list of texts"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], env: [d]}]", "2:51", "a mapping"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], env: {d: [e]}}]", "2:55", "a single value"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], env: {d e: 1}}]", "2:52", "cannot name a variable"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], volumes: {C_d: /x}}]", "2:56", "cannot name a claim"),
    ("namespace: x\njobs: [{job_name: a, image: b, command: [c], volumes: {d: x}}]", "2:59", "no place in a pod"),
    ("namespace: X_Y\njobs: [{job_name: a, image: b, command: [c]}]", "1:12", "cannot name a namespace"),
    ("namespace: x\nimage: y\njobs: [{job_name: a, image: b, command: [c]}]", "2:1", "belongs under defaults"),
    (
        "namespace: x\ndefaults: {image: b, command: [c]}\njobs:\n  - {job_name: a}\n  - {job_name: a}",
        "5:16",
        "two jobs",
    ),
    (
        "namespace: x\njobs: [{job_name: a, image: b, command: [c], gpu_type: t, min_gpu_memory: 8}]",
        "2:75",
        "both gpu_type and min_gpu_memory",
    ),
    ("- a", "1:1", "is a mapping of keys"),
    ("namespace: x\njobs: [a", "", ""),
]


@pytest.mark.parametrize(("text", "place", "said"), MISTAKES)
def test_mistakes_have_a_place(tmp_path: Path, text: str, place: str, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        convert(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/cfg.yaml:{place}")
    assert said in str(caught.value)


words = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12).filter(str.strip)
plain = st.sampled_from(
    ["a", "b/c", "--lr=1e-3", "--lr=0.1", "{out}", "{{x}}", "${HOME}", "x y", "it's", "$(date)", "*", "7"]
)
one_job = st.fixed_dictionaries(
    {"command": st.lists(plain | words, min_size=1, max_size=4)},
    optional={
        "workingDir": st.sampled_from(["/a/b", "/a/c", "/x y/{z}", "/d"]),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "two", "{out}", "x y"])),
        "gpu": st.integers(0, 2),
        "max_ram": st.sampled_from([8, 16]),
        "shm": st.booleans(),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(one_job, min_size=1, max_size=6))
def test_every_study_does_exactly_what_the_jobs_did(tmp_path: Path, jobs: list[dict[str, Any]]) -> None:
    # `migrate` compares the tasks with the jobs itself, and fails where they differ.
    named = [{"job_name": f"job-{i}", **job} for i, job in enumerate(jobs)]
    text = json.dumps({"namespace": "lab", "defaults": {"image": "x"}, "jobs": named})
    try:
        made, plan = convert(tmp_path, text)
    except StudyError as error:
        assert "${{" in str(error) or "is not read here" in str(error)  # noqa: PT017 - the one text that studies cannot hold
        return
    assert len(plan.tasks) == made.jobs == len(jobs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["1e-3", "0.1", "0.01", "yes", "010", "x y", "null", "1_000"]),
        min_size=2,
        max_size=4,
        unique=True,
    ),
    st.lists(st.sampled_from(["ssd", "detr", "3", "{x}"]), min_size=2, max_size=3, unique=True),
)
def test_a_full_grid_is_a_matrix_of_the_very_same_texts(tmp_path: Path, rates: list[str], models: list[str]) -> None:
    jobs = [
        {"job_name": f"j{i}", "command": ["t", "--lr", lr, "--model", model]}
        for i, (lr, model) in enumerate(itertools.product(rates, models))
    ]
    made, plan = convert(tmp_path, config(*jobs))
    assert made.steps == 1
    (step,) = plan.study.steps.values()
    assert not step.include
    commands = {task.command for task in plan.tasks.values()}
    assert commands == {("t", "--lr", lr, "--model", model) for lr in rates for model in models}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["job_name", "image", "command", "env", "gpu", "shm", "volumes"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["namespace", "defaults", "jobs"]), anything))
def test_whatever_is_in_a_file_it_is_a_study_or_a_message(tmp_path: Path, data: dict[str, Any]) -> None:
    complete = {"namespace": "lab", "defaults": {"image": "x", "command": ["y"]}, "jobs": [{"job_name": "z"}], **data}
    try:
        convert(tmp_path, json.dumps(complete))
    except StudyError as error:
        assert "cfg.yaml" in str(error) or "imported.yaml" in str(error)  # noqa: PT017


def test_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text(json.dumps(config({"job_name": "a", "gpu": 1})))

    def shoal(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "shoal", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    shown = shoal("import", "cfg.yaml", "-o", "study.yaml").stdout
    assert "1 jobs became one step in study.yaml; the cluster's part is in clusters/lab.yaml" in shown
    assert "exists already" in shoal("import", "cfg.yaml", "-o", "study.yaml", code=2).stderr
    shoal("import", "cfg.yaml", "-o", "study.yaml", "--force")
    assert "policies of lab" in shoal("plan", "study.yaml", "--on", "lab").stdout
    assert "lab" in shoal("clusters").stdout
    assert "namespace" in shoal("clusters", "show", "lab").stdout
    assert json.loads(shoal("clusters", "show", "lab", "--json").stdout)["namespace"] == "lab"
    names = [one["name"] for one in json.loads(shoal("clusters", "--json").stdout)]
    assert names == ["lab", "nautilus"]
    assert "no such" in shoal("clusters", "show", "nowhere", code=2).stderr
