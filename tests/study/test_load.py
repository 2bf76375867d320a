"""How a study comes together: extends, profiles, --set and defaults, and what is known of where it was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from demo import DEMO, bent, sound
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import StudyError
from shoal.study import StudyErrors, dump_yaml, load_study, parse_study, step_axes, value_key


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def failure(path: Path, **options: object) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_sound_study_holds_one_form_of_everything() -> None:
    study = sound(DEMO)
    chips, train, test = study.steps.values()
    assert (study.study, study.data, study.vars) == ("demo", "/data", {"epochs": 3})
    assert train.needs == ("chips",)
    assert train.matrix == {"model": ("unet", "vit"), "lr": (0.001, 0.0001)}
    assert train.seeds == (0, 1, 2)
    assert chips.seeds is None
    assert (train.resources.gpu, train.resources.memory, train.resources.cpu) == (1, 8 * 2**30, None)
    assert (train.retries, train.grace, train.timeout, train.canary) == (2, 30.0, None, 3)
    assert test.for_each == "train"
    assert study.report.tables[0].rows == ("model",)
    assert list(step_axes(study, "test")) == ["model", "lr", "seed"]
    with pytest.raises(ValueError, match="frozen"):
        study.title = "other"  # type: ignore[misc]


def test_shorthands_and_long_forms_are_the_same_study() -> None:
    long = bent("needs: chips", "needs: [chips]", ("seeds: 3", "seeds: [0, 1, 2]"), ("rows: model", "rows: [model]"))
    assert sound(long) == sound(DEMO)
    inside = bent(
        "lr: [1e-3, 1e-4]",
        "lr: [1e-3, 1e-4]\n      exclude: [{model: vit}]\n      zip: {a: [1], b: [2]}",
        ("--lr", "{a} {b} --lr"),
    )
    beside = bent(
        "seeds: 3", "seeds: 3\n    exclude: [{model: vit}]\n    zip: [{a: [1], b: [2]}]", ("--lr", "{a} {b} --lr")
    )
    assert sound(inside) == sound(beside)
    assert sound(bent("[256, 512]", "256")) == sound(bent("[256, 512]", "[256]"))
    assert sound(bent("retries: 2", "retries:\n    timeout:\n    env:")) == sound(bent("    retries: 2\n", ""))


def test_one_key_in_the_matrix_and_beside_it_is_refused() -> None:
    text = bent(
        "seeds: 3", "exclude: [{model: vit}]", ("lr: [1e-3, 1e-4]", "lr: [1e-3]\n      exclude: [{model: vit}]")
    )
    with pytest.raises(StudyError, match=r'demo.yaml:13:7: "exclude" stands in the matrix and beside it'):
        sound(text)


def test_extends_profile_and_set_win_in_this_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        shared__base="study: base\ntitle: Base\nvars: {epochs: 1, size: 10}\n"
        "steps: {a: {run: 'a {epochs} {size}', retries: 1, env: {X: '1', Y: '1'}}}\nprofiles: {p: {vars: {epochs: 7}}}",
        shared__more="extends: base.yaml\ntitle: More\nvars: {size: 20}",
        top="extends: [shared/base.yaml, shared/more.yaml]\nstudy: top\nsteps: {a: {env: {X: null, Z: '3'}}}",
    )
    study = load_study(tmp_path / "top.yaml")
    assert (study.study, study.title, study.vars) == ("top", "More", {"epochs": 1, "size": 20})
    assert study.steps["a"].env == {"Y": "1", "Z": "3"}, "mappings merge, null removes"
    assert study.steps["a"].retries == 1
    assert (study.folder, study.path, study.profile) == (tmp_path, tmp_path / "top.yaml", None)

    changed = load_study(
        tmp_path / "top.yaml", profile="p", overrides=["vars.size=30", "steps.a.retries=5", "steps.a.env.Y="]
    )
    assert changed.vars == {"epochs": 7, "size": 30}
    assert changed.steps["a"].retries == 5
    assert changed.steps["a"].env == {"Z": "3"}
    assert changed.profile == "p"


def test_every_place_is_the_one_where_it_was_written(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="study: base\nsteps:\n  a: {run: a, retries: 1}\ndefaults: {timeout: 1h}\n",
        top="extends: base.yaml\nprofiles:\n  p: {steps: {a: {retries: 3}}}\n",
    )
    study = load_study(tmp_path / "top.yaml", profile="p", overrides=["steps.a.stall=1m"])

    def place(*path: str | int) -> str:
        return str(study.mark(*path)).removeprefix(f"{tmp_path}/")

    assert place("steps", "a") == "base.yaml:3:3"
    assert place("steps", "a", "run") == "base.yaml:3:12"
    assert place("steps", "a", "timeout") == "base.yaml:4:21"
    assert place("steps", "a", "retries") == "top.yaml:3:28"
    assert place("steps", "a", "stall") == "--set steps.a.stall=1m"
    assert study.mark("steps", "a", "grace") is None
    error = study.error(("steps", "a", "retries"), "too many", hint="Fewer.")
    assert str(error).split("\n")[1:] == [
        "    3 |   p: {steps: {a: {retries: 3}}}",
        "      |                            ^",
        "Fewer.",
    ]
    assert "base.yaml:3:3: " in str(study.error(("steps", "a", "grace"), "nothing here")), (
        "the nearest that was written"
    )


def test_mistakes_in_what_a_study_is_made_of_name_their_own_file(tmp_path: Path) -> None:
    write(tmp_path, base="study: base\nsteps:\n  a: {run: a, retires: 1}\n", top="extends: base.yaml\n")
    assert failure(tmp_path / "top.yaml").startswith(f'{tmp_path}/base.yaml:3:15: unknown key "retires"')
    write(tmp_path, top="extends: nobase.yaml\n")
    said = failure(tmp_path / "top.yaml")
    assert said.startswith(f'{tmp_path}/top.yaml:1:10: "extends": {tmp_path}/nobase.yaml: there is no such file')
    assert said.endswith("YAML files there: base.yaml, top.yaml")
    write(tmp_path, top="extends: [base.yaml, 3]\n")
    assert 'top.yaml:1:22: "extends" must be the path of a study file' in failure(tmp_path / "top.yaml")
    write(tmp_path, base="a: b: c", top="extends: base.yaml\n")
    assert failure(tmp_path / "top.yaml").startswith(f"{tmp_path}/base.yaml:1:5: ")


def test_files_that_extend_each_other_are_told_as_a_circle(tmp_path: Path) -> None:
    write(tmp_path, a="extends: sub/b.yaml\nstudy: a", sub__b="extends: ../a.yaml\nstudy: b", c="extends: c.yaml")
    said = failure(tmp_path / "a.yaml")
    assert "sub/b.yaml:1:10: these files extend each other: a.yaml -> sub/b.yaml -> a.yaml" in said
    assert "c.yaml -> c.yaml" in failure(tmp_path / "c.yaml")
    write(
        tmp_path,
        base="study: x\nsteps: {a: {run: a}}",
        l="extends: base.yaml",
        r="extends: base.yaml",
        top="extends: [l.yaml, r.yaml]",
    )
    assert load_study(tmp_path / "top.yaml").study == "x", "the same file on two ways is no circle"


def test_files_that_are_not_there_or_no_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, demo=DEMO)
    monkeypatch.chdir(tmp_path)
    assert failure(Path("demp.yaml")) == "demp.yaml: there is no such file\nYAML files there: demo.yaml"
    assert failure(Path()) == ".: is a folder, not a study file\nYAML files there: demo.yaml"
    (tmp_path / "demo.yaml").unlink()
    assert failure(Path("demo.yaml")).endswith(
        "in this folder. How to write a study: docs/tutorial.md; its words: shoal schema."
    )
    write(tmp_path, demo=DEMO)
    assert failure(Path("/dev/null")).startswith("/dev/null: is not a file")
    assert "there is no such file" in failure(Path("no/where.yaml"))
    assert "cannot be read" in failure(Path("a\0b"))
    assert load_study("./demo.yaml").mark("study") == load_study("demo.yaml").mark("study")


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(DEMO, "demo.yaml", profile="smok")
    assert str(caught.value) == 'demo.yaml: there is no profile "smok"\nIts profiles: smoke.  Did you mean "smoke"?'
    with pytest.raises(StudyError, match='It has no "profiles"'):
        parse_study("study: a\nsteps: {a: {run: a}}", profile="smoke")


def test_a_profile_may_narrow_what_an_exclude_or_a_table_speaks_of() -> None:
    text = bent(
        "seeds: 3", "seeds: 3\n    exclude: [{model: vit, lr: 1e-3}]", ("over: seed", "over: seed, where: {model: vit}")
    )
    study = sound(text, profile="smoke")
    assert study.steps["train"].exclude == ({"model": "vit", "lr": 0.001},)
    assert study.resolved()["steps"]["train"]["exclude"] == []


SET_MISTAKES = [
    ("steps.train.retires=3", 'there is no "retires" in step "train"', "Did you mean steps.train.retries?"),
    ("steps.trian.retries=3", 'there is no "trian" in the steps', "Did you mean steps.train?"),
    ("step.train.retries=3", 'there is no "step" in the study', "Did you mean steps?"),
    ("steps.train.matrix.rl=3", 'there is no "rl" in "matrix" of step "train"', "Did you mean steps.train.matrix.lr?"),
    ("steps.train.resources.gpus=3", 'no "gpus" in the resources of step "train"', "Did you mean steps.train.resources.gpu?"),
    ("vars.epoch=3", 'there is no "epoch" in "vars" of the study', "Did you mean vars.epochs?"),
    ("report.tables.0.row=x", 'there is no "row" in table 1', "Did you mean report.tables.0.rows?"),
    ("report.tables.3.rows=x", '"3" is no place in the list report.tables', "Its one place is 0."),
    ("study.name=x", '"study" holds a single value, so there is no "name" in it', ""),
    ("data.x=y", '"data" holds a single value', ""),
    ("profiles.smoke.study=x", '"profiles" cannot be set', "--profile"),
    ("extends=x", '"extends" cannot be set', ""),
    ("retries", "this is not path=value", "For example --set steps.train.retries=2"),
    ("=3", "this is not path=value", ""),
    ("steps..retries=3", "a name is missing in the path", ""),
    ("steps.train.retries=x", '"retries" of step "train" must be a whole number, 0 or more, not "x"', ""),
    ("steps.train.retries=[1", "this [ is never closed", ""),
    ("steps.train.matrix={lr: [1], model: [a]", "this { is never closed", ""),
]  # fmt: skip


@pytest.mark.parametrize(("override", "says", "hint"), SET_MISTAKES)
def test_a_set_that_leads_nowhere_names_the_nearest(override: str, says: str, hint: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(DEMO, "demo.yaml", overrides=[override])
    first = caught.value.errors[0] if isinstance(caught.value, StudyErrors) else caught.value
    assert says in first.message
    assert hint in (first.hint or "")
    assert str(first).startswith(f"--set {override}: ")


def test_set_reaches_what_is_not_written_yet_and_removes_with_null() -> None:
    overrides = [
        "steps.test.resources.gpu=2",
        "steps.train.matrix.lr=1e-5",
        "report.tables.0.over=null",
        "steps.train.env.NEW={model}x",
    ]
    with pytest.raises(StudyError, match="text goes on after the }"):
        sound(DEMO, overrides=overrides)
    overrides[-1] = 'steps.train.env.NEW="{model}x"'
    study = sound(DEMO, overrides=overrides)
    assert study.steps["test"].resources.gpu == 2
    assert study.steps["train"].matrix["lr"] == (1e-5,)
    assert study.report.tables[0].over == ()
    assert study.steps["train"].env == {"NEW": "{model}x"}
    assert sound(DEMO, overrides=["steps.train.matrix.exclude=[{model: vit}]"]).steps["train"].exclude == (
        {"model": "vit"},
    )
    assert "test" not in sound(DEMO, overrides=["steps.test=null"]).steps


def test_defaults_fill_what_steps_leave_out_but_not_gates() -> None:
    text = DEMO + "defaults: {retries: 5, resources: {cpu: 2, memory: 1Gi}, timeout: 1h}\n"
    text = text.replace("  test:\n", "  look: {gate: 'Look {here}.', needs: train}\n  test:\n    timeout: null\n")
    steps = sound(text).steps
    assert [steps[name].retries for name in ("chips", "train", "test", "look")] == [5, 2, 5, 0]
    assert (steps["train"].resources.cpu, steps["train"].resources.memory, steps["train"].resources.gpu) == (
        2.0,
        8 * 2**30,
        1,
    )
    assert steps["test"].timeout is None
    assert steps["chips"].timeout == 3600
    assert steps["look"].gate == "Look {here}."


names = st.sampled_from(
    ["steps.train.retries", "steps.train.max_parallel", "steps.chips.retries", "max_parallel", "steps.test.canary"]
)


@given(st.lists(st.tuples(names, st.integers(1, 10**6)), max_size=6))
def test_the_last_set_of_a_path_wins(chosen: list[tuple[str, int]]) -> None:
    study = sound(DEMO, overrides=[f"{path}={value}" for path, value in chosen])
    for path, value in dict(chosen).items():
        found: object = study
        for part in path.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        assert found == value


values = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("ab{}[]:'\"#,&* 1e-", max_size=8),
)


@given(st.lists(values, min_size=1, max_size=4, unique_by=value_key), st.sampled_from(["", "smoke"]))
def test_what_is_resolved_loads_as_the_same_study(listed: list[object], profile: str) -> None:
    block = dump_yaml({"x": listed})
    text = DEMO.replace("--model {model}", "{x} --model {model}").replace(
        "      lr:", "".join(f"      {line}\n" for line in block.splitlines()) + "      lr:"
    )
    study = sound(text, profile=profile or None)
    again = sound(dump_yaml(study.resolved()))
    assert again.model_dump(exclude={"profiles", "defaults"}) == study.model_dump(exclude={"profiles", "defaults"})
    assert repr(again.steps) == repr(study.steps)


def test_loading_is_quick_and_stays_clear_of_heavy_packages(tmp_path: Path) -> None:
    write(tmp_path, demo=DEMO)
    code = f"""
import sys, time
import pydantic, yaml, importlib.metadata
start = time.process_time()
from shoal.study import load_study
load_study({str(tmp_path / "demo.yaml")!r})
first = time.process_time() - start
start = time.process_time()
load_study({str(tmp_path / "demo.yaml")!r})
heavy = [name for name in ("pandas", "numpy", "torch", "rich", "typer", "jinja2", "jsonschema") if name in sys.modules]
print(first, time.process_time() - start, heavy)
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
        maxsplit=2
    )
    assert made[2].strip() == "[]"
    assert float(made[0]) < 0.5, "first load, models built"
    assert float(made[1]) < 0.05, "later loads"


RANGES = """
study: ranges
steps:
  fetch:
    run: fetch {area} {batch}/{of}
    include:
      - {area: north, of: 2, batch: {from: 1, to: 2}}
      - {area: south, of: 3, batch: {from: 1, to: 3}}
  cut:
    run: cut {size} {depth} {width}
    matrix: {size: {from: 5, to: 7}}
    zip: {depth: {from: -1, to: 0}, width: [a, b]}
    exclude: [{size: {from: 6, to: 7}, width: a}]
"""


def test_a_range_is_the_whole_numbers_from_one_end_to_the_other() -> None:
    study = sound(RANGES)
    points = [(cell["area"], cell["of"], cell["batch"]) for cell in study.steps["fetch"].include]
    assert points == [("north", 2, 1), ("north", 2, 2), ("south", 3, 1), ("south", 3, 2), ("south", 3, 3)]
    cut = study.steps["cut"]
    assert cut.matrix == {"size": (5, 6, 7)}
    assert cut.zip == ({"depth": (-1, 0), "width": ("a", "b")},)
    assert cut.exclude == ({"size": 6, "width": "a"}, {"size": 7, "width": "a"})
    assert sound(RANGES.replace("{from: 5, to: 7}", "[5, 6, 7]")) == study


@pytest.mark.parametrize(
    ("written", "said", "column"),
    [
        ("{from: 7, to: 5}", "ends before it starts", 20),
        ("{from: 1, to: 99999}", "99,999 numbers, more than 10,000", 20),
        ("{from: 5}", 'a range without "to"', 20),
        ("{from: 5, to: ten}", '"to" of a range must be a whole number', 30),
        ("{from: true, to: 5}", '"from" of a range must be a whole number', 21),
        ("{from: 5, to: 7, by: 2}", 'must give the axis "size" a list of values', 14),
    ],
)
def test_a_range_that_is_none_is_told_with_its_place(written: str, said: str, column: int, tmp_path: Path) -> None:
    write(tmp_path, study=RANGES.strip().replace("{from: 5, to: 7}", written))
    message = failure(tmp_path / "study.yaml")
    assert said in message
    assert f"study.yaml:10:{column}:" in message, message


def test_a_mistake_in_an_entry_after_a_range_keeps_its_place(tmp_path: Path) -> None:
    write(tmp_path, study=RANGES.strip().replace("{area: south, of: 3,", "{area: south,"))
    assert "study.yaml:7:" in failure(tmp_path / "study.yaml")
