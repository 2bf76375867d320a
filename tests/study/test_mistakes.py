"""Every mistake in a study file: what is said, at which place, what is underlined, and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo import DEMO, bent, problems, sound, underlined

from shoal.errors import StudyError
from shoal.study import StudyErrors, load_study, parse_study

TEST_RUN = "    run: test.py {inputs.train} {model}\n"

# what is replaced, by what, the place, what is underlined, what is said, what the hint says
MISTAKES = [
    # names in templates
    ("--lr {lr}", "--lr {learning_rate}", "14:24", "{learning_rate}",
     'unknown name {learning_rate} in the command of step "train"',
     "This step knows: model, lr, seed, epochs, inputs.chips, data, out, checkpoints, task, study, step.  Did you mean {lr}?"),
    ("{inputs.chips}", "{inputs.chip}", "14:77", "{inputs.chip}", "unknown name {inputs.chip}",
     "Did you mean {inputs.chips}?"),
    ("{inputs.chips}", "{chips}", "14:77", "{chips}", "unknown name {chips}", "Did you mean {inputs.chips}?"),
    ("{inputs.chips}", "{inputs.test}", "14:77", "{inputs.test}", "unknown name",
     'Step "train" does not need "test": add it to needs.'),
    ("{inputs.train} {model}", "{size}", "19:18", "{size}", "unknown name",
     '"size" is an axis of step "chips" only.'),
    ("{inputs.train} {model}", "{print}", "19:18", "{print}", "unknown name",
     "For the text {print} itself, write {{print}}."),
    ("{inputs.train} {model}", "{data.x}", "19:18", "{data.x}", "unknown name", "Did you mean {data}?"),
    ("data: /data", "data: {a: /x, b: /y}", "6:23", "{data}", "unknown name {data}",
     "The data has names: {data.a}, {data.b}."),
    ("for_each: train", "needs: train", "19:33", "{model}", "unknown name {model}",
     "with for_each: train it would run for each of them"),
    (TEST_RUN, "    run: |\n      echo hi\n      test.py {modl}\n", "21:15", "{modl}", "unknown name {modl}",
     "Did you mean {model}?"),
    (TEST_RUN, '    run: [python, "{modl}"]\n', "19:20", "{modl}", "unknown name {modl}", "Did you mean {model}?"),
    ("--lr {lr}", "--lr ${{ matrix.lr }}", "14:24", "${{ matrix.lr }}", "${{ }} is not read here: write {name}", ""),
    ("retries: 2", "env: {RUN: 'r-{modle}'}", "16:19", "{modle}", "in the environment of step",
     "Did you mean {model}?"),
    ("gpu: 1", "gpu: '{out}'", "15:23", "{out}", "in the resources of step",
     "{out} is known only when the task has been placed."),
    # keys
    ("retries: 2", "retires: 2", "16:5", "retires", 'unknown key "retires" in step "train"',
     'Did you mean "retries"?'),
    ("retries: 2", "gpu: 2", "16:5", "gpu", 'unknown key "gpu" in step "train"',
     '"gpu" belongs under resources: of the step.'),
    ("retries: 2", "dropout: 2", "16:5", "dropout", 'unknown key "dropout"',
     "A parameter of the step goes under matrix: matrix: {dropout: [...]}"),
    ("retries: 2", "depends_on: chips", "16:5", "depends_on", "unknown key", 'Here that is called "needs".'),
    ("memory: 8Gi", "gpus: 8", "15:25", "gpus", 'in the resources of step "train"', 'Here that is called "gpu".'),
    ("memory: 8Gi", "timeout: 8", "15:25", "timeout", "unknown key",
     '"timeout" belongs beside resources:, in the step itself.'),
    ("study: demo", "study: demo\nretries: 2", "2:1", "retries", 'unknown key "retries"',
     "belongs under a step (or under defaults:"),
    ("study: demo", "name: demo", "1:1", "name", 'unknown key "name"', 'Here that is called "study".'),
    ("goal: max", "gaol: max", "21:33", "gaol", 'unknown key "gaol" in the objective', 'Did you mean "goal"?'),
    ("over: seed", "overr: seed", "22:39", "overr", 'unknown key "overr" in table 1', 'Did you mean "over"?'),
    ("report:\n", "report:\n  scatter: [{x: speed, color: model}]\n", "21:24", "color", 'unknown key "color" in chart 1',
     'Here that is called "colour".'),
    ("report:\n", "report:\n  scatter: {x: speed}\n", "21:3", "scatter", '"scatter" of the report must be a list of charts',
     "For example scatter: ["),
    # types
    ("retries: 2", "retries: two", "16:14", "two",
     '"retries" of step "train" must be a whole number, 0 or more, not "two"', ""),
    ("retries: 2", "retries: yes", "16:14", "yes", 'a whole number, 0 or more, not "yes"', ""),
    ("retries: 2", "retries: true", "16:14", "true", "a whole number, 0 or more, not true", ""),
    ("retries: 2", "retries: [1]", "16:5", "retries", "a whole number, 0 or more, not a list", ""),
    ("retries: 2", "max_parallel: 0", "16:19", "0", "a whole number, 1 or more, not 0", ""),
    ("retries: 2", "timeout: soon", "16:14", "soon", '"timeout" of step "train" is not a length of time: "soon"',
     '"1h30m"'),
    ("retries: 2", "timeout: 12:30:00", "16:14", "12:30:00", "is not a length of time", 'write "12h30m".'),
    ("retries: 2", "timeout: 0", "16:14", "0", "must be longer than nothing", '"90s"'),
    ("8Gi", "8gi", "15:33", "8gi", 'has an unknown unit "gi": "8gi"', 'Did you mean "8Gi"?'),
    ("8Gi", "-8", "15:33", "-8", "must be a size of at least one byte: -8", '"24Gi"'),
    ("gpu: 1", "gpu: {gpus}", "15:17", "gpu", "must be a whole number, 0 or more, not a mapping",
     'A text that starts with { needs quotes: "{gpus}"'),
    ("gpu: 1", 'gpu: "{model}"', "15:22", '"{model}"',
     'must be a whole number, 0 or more, not "unet", where model is "unet"', ""),
    ("retries: 2", "image: {reg}", "16:5", "image", "must be text, not a mapping",
     'A text that starts with { needs quotes: "{reg}"'),
    ("retries: 2", "params: script", "16:13", "script", 'must be command or task, not "script"', ""),
    ("goal: max", "goal: maximize", "21:39", "maximize", '"goal" of the objective must be max or min', ""),
    (", goal: max", "", "21:3", "objective", '"goal" of the objective is missing', "goal: max, or goal: min"),
    ("tables: [{rows: model, columns: lr, over: seed}]", "tables: {rows: model}", "22:3", "tables",
     "must be a list of tables, not a mapping", ""),
    ("tables: [{rows: model, columns: lr, over: seed}]", "tables: [x]", "22:12", "x",
     'item 1 of "tables" must be a mapping, not "x"', "rows"),
    ("steps:\n", "steps: x\nstepz:\n", "4:8", "x", '"steps" must be a mapping of step names to steps, not "x"', ""),
    ("study: demo", "study: Demo Study", "1:8", "Demo Study", '"study" cannot be "Demo Study"', "lower-case letters"),
    ("study: demo", "title: demo", "1:1", "title", '"study" is missing', "for example study: burned-area"),
    # steps
    (TEST_RUN, "", "17:3", "test", 'step "test" has neither "run" nor "gate"', "run: python ..."),
    (TEST_RUN, TEST_RUN + "    gate: look\n", "20:5", "gate", 'step "test" has both "run" and "gate"',
     "A gate only waits"),
    ("  test:\n    for_each: train\n" + TEST_RUN, "  test: {gate: look, needs: train, retries: 3}\n", "17:36",
     "retries", 'a gate cannot have "retries", as step "test" has', "A gate runs nothing"),
    ("  test:\n", "  Train: {run: x}\n  test:\n", "17:3", "Train", 'steps "train" and "Train" differ in case only',
     "macOS"),
    ("  test:\n", "  runs: {run: x}\n  test:\n", "17:3", "runs", 'a step cannot be named "runs"',
     "The store keeps its own folders"),
    ("  test:\n", "  a.b: {run: x}\n  test:\n", "17:3", "a.b", 'a step cannot be named "a.b"', "letters, digits"),
    ("  test:\n", "  x:\n  test:\n", "17:3", "x", 'step "x" has nothing in it', "It can hold: run, gate"),
    ("needs: chips", "needs: chip", "9:12", "chip", 'step "train" needs "chip", which is no step',
     'Did you mean "chips"?'),
    ("needs: chips", "needs: [chips, tset]", "9:20", "tset", 'needs "tset", which is no step',
     'Did you mean "test"?'),
    ("for_each: train", "for_each: trian", "18:15", "trian", 'needs "trian", which is no step',
     'Did you mean "train"?'),
    ("needs: chips", "needs: train", "9:12", "train", 'step "train" needs itself', "Name another step"),
    ("needs: chips", "needs: test", "18:5", "for_each", "steps need each other in a circle: train -> test -> train",
     "Remove one"),
    ("for_each: train", "for_each: train\n    needs: train", "19:12", "train",
     'names "train" in needs and in for_each', "{inputs.train}"),
    ("needs: chips", "needs: [chips, chips]", "9:20", "chips", '"needs" of step "train" names "chips" twice', ""),
    # axes
    ("[256, 512]", "[256, 256.0]", "7:26", "256.0", 'gives the axis "size" the value 256.0 twice', "remove one"),
    ("[256, 512]", "[]", "7:14", "size", 'gives the axis "size" no values', "size: [a, b]"),
    ("[256, 512]", "[[1, [2]]]", "7:25", "[2]", "holds a list of lists", ""),
    ("[256, 512]", "[256], out: [1]", "7:27", "out", 'an axis cannot be named "out"',
     "These names have a meaning already"),
    ("[256, 512]", "[256], a.b: [1]", "7:27", "a.b", 'holds an axis that cannot be named "a.b"',
     "Names have no dots: a_b"),
    ("[256, 512]", "[256], drop: [1]", "7:27", "drop",
     'axis "drop" is declared, but step "chips" uses {drop} nowhere', "params: task"),
    ("[256, 512]", "[256], epochs: [1]", "7:27", "epochs", 'axis "epochs" of step "chips" has the name of a variable',
     "The variable is at demo.yaml:2:16."),
    ("seeds: 3", "seeds: 3\n    zip: {lr: [1, 2], x: [1, 2]}", "14:11", "lr",
     'axis "lr" of step "train" is declared twice', "one zip"),
    ("seeds: 3", "seeds: 3\n    zip: {a: [1, 2], b: [1]}", "14:22", "b", "needs axes of one length: a has 2, b has 1",
     "first value with first"),
    ("seeds: 3", "seeds: 3\n    zip: [{a: [1], b: [1]}, {c: [1]}]", "14:29", "{c: [1]}", "needs at least two axes",
     "under matrix"),
    ("lr: [1e-3, 1e-4]", "lr: [1e-3, 1e-4]\n      seed: [1]", "14:5", "seeds",
     'axis "seed" of step "train" is declared twice', "comes from seeds"),
    ("model: [unet, vit]", "model: unet, vit", "11:14", "unet, vit",
     'axis "model" of step "train" has one value, the text "unet, vit"', "Several values are a list: model: [unet, vit]."),
    ("seeds: 3", "seeds: -1", "13:12", "-1", "must be from 1 to 10000 seeds, not -1",
     "seeds: 3 means the seeds 0, 1 and 2"),
    ("seeds: 3", "seeds: [0, -1]", "13:16", "-1", "must be from 0 to 4294967295, not -1", ""),
    ("seeds: 3", "seeds: [0, 1, 0]", "13:19", "0", "names 0 twice", ""),
    ("--seed {seed} ", "", "13:5", "seeds", 'seeds are given, but step "train" uses {seed} nowhere',
     "Use it as {seed}"),
    (TEST_RUN, TEST_RUN + "    matrix: {lr: [1]}\n", "20:14", "lr",
     'axis "lr" of step "test" is inherited from "train" already', "Remove it"),
    ("seeds: 3", "seeds: 3\n    exclude: [{modle: vit}]", "14:16", "modle",
     'has "modle", which is no axis of the step', 'Did you mean "model"?'),
    ("seeds: 3", "seeds: 3\n    exclude: [{lr: 1e-5}]", "14:20", "1e-5", "matches nothing: lr is never 1e-05",
     "Values of lr: 0.001, 0.0001."),
    ("seeds: 3", "seeds: 3\n    exclude: [{}]", "14:15", "{}", "holds an empty entry", ""),
    ("seeds: 3", "seeds: 3\n    exclude: {lr: 1}", "14:5", "exclude", "must be a list of mappings",
     "[{model: unet, lr: 1e-3}]"),
    (TEST_RUN, TEST_RUN + "    exclude: [{model: vit}]\n", "20:16", "model", "is inherited",
     'Write the exclude into step "train".'),
    ("seeds: 3", "seeds: 3\n    include: [{model: x, lr: 1}]", "14:15", "{model: x, lr: 1}",
     "gives no value for seed", "model, lr, seed"),
    ("seeds: 3", "seeds: 3\n    include: [{model: vit, w: 1}]", "14:5", "include",
     'gives "w" to some tasks of step "train" only: it has no value where model is "unet"', "use zip"),
    ("seeds: 3", "seeds: 3\n    include: [{model: vit}]", "14:15", "{model: vit}", "adds nothing", "Remove it"),
    # the rest
    ("epochs: 3}", "epochs: 3, spare: 4}", "2:19", "spare", 'nothing uses the variable "spare"', "Use it as {spare}"),
    ("epochs: 3}", "epochs: 3, out: 4}", "2:19", "out", 'a variable cannot be named "out"', ""),
    ("epochs: 3}", "epochs: {a: 1}}", "2:8", "epochs", '"vars" must hold plain values, not a mapping', ""),
    ("--data {data}", "", "3:1", "data", "no step uses the data {data}", "so that Shoal knows who reads it"),
    ("rows: model", "rows: modle", "22:19", "modle", 'table 1 names "modle" in rows, which is no axis of any step',
     'Did you mean "model"?'),
    ("over: seed", "over: lr", "22:45", "lr", 'table 1 names "lr" in columns and in over', ""),
    ("over: seed", "where: {lr: 3}", "22:51", "3", "table 1 would be empty: lr is never 3",
     "Values of lr: 0.001, 0.0001."),
    ("over: seed", "groups: {modle: {a: [unet]}}", "22:48", "modle",
     'table 1 groups "modle", which makes neither its rows nor its columns', 'Did you mean "model"?'),
    ("over: seed", "groups: {model: {a: unet}}", "22:48", "model", "the groups of model are no lists of values by name",
     "{first: [a, b], second: [c]}"),
    ("over: seed", "groups: {model: {a: [unnet]}}", "22:56", "a", 'table 1: model is never "unnet"', "Values of model:"),
    ("over: seed", "groups: {model: {a: [unet], b: [unet]}}", "22:67", "b", '"unet" is in the groups a and b', ""),
    ("report:", "report:\n  scatter: [{x: a, colour: modle}]", "21:28", "modle",
     'chart 1 names "modle" in colour, which is no axis of any step', 'Did you mean "model"?'),
    ("report:", "report:\n  scatter: [{x: a, log: z}]", "21:25", "z", 'log is x, y or both, not "z"', ""),
    ("over: seed", "where: {rl: 3}", "22:47", "rl", 'table 1 chooses by "rl", which is no axis',
     "Axes of this study"),
    ("over: seed", "best: {over: sead}", "22:52", "sead", 'names "sead" in best', 'Did you mean "seed"?'),
    ("over: seed", "best: {over: seed, by: val/iou}", "22:39", "best",
     "does not say whether more of the metric is better", "goal: max"),
    ("rows: model, columns: lr, over: seed", "over: seed", "22:12", "{over: seed}",
     'has neither "rows" nor "columns"', "rows: model"),
    ("  objective: {metric: test/iou, goal: max}\n", "", "21:12", "{rows: model, columns: lr, over: seed}",
     "does not say which metric", "objective"),
    ("retries: 2", "env: {A-B: 1}", "16:11", "A-B", 'holds "A-B", which cannot name a variable',
     "letters, digits and _"),
    ("retries: 2", "env: {SHOAL_X: 1}", "16:11", "SHOAL_X", 'holds "SHOAL_X"', "set by Shoal itself"),
    ("retries: 2", "secrets: [1A]", "16:15", "1A", 'holds "1A", which cannot name a variable', ""),
    ("retries: 2", "secrets: A\n    env: {A: 1}", "16:14", "A", '"A" of step "train" is both a secret and in env',
     "remove it from env"),
    ("retries: 2", "code: ../lib", "16:11", "../lib", "leads out of the study's folder",
     "below the study file's folder"),
    ("retries: 2", "code: [x.py, /etc]", "16:18", "/etc", "leads out of the study's folder", ""),
    ("retries: 2", "image: Not An Image", "16:12", "Not An Image", "is not the name of an image",
     "ghcr.io/example/train:2.1"),
    ("epochs: 1}", "epoch: 1}", "24:18", "epoch", 'with the profile smoke: nothing uses the variable "epoch"', ""),
    ("[unet]}}}}", "[unet]}, retires: 1}}}", "24:71", "retires", 'with the profile smoke: unknown key "retires"',
     'Did you mean "retries"?'),
    ("smoke: {vars", "smoke: {extends: x, vars", "24:11", "extends", 'a profile cannot hold "extends"', "at the top"),
    ("smoke: {vars: {epochs: 1}, steps: {train: {matrix: {model: [unet]}}}}", "smoke: [x]", "24:3", "smoke",
     "must give the profile \"smoke\" a mapping", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "place", "culprit", "says", "hint"), MISTAKES, ids=[mistake[1].strip()[:40] for mistake in MISTAKES]
)
def test_a_mistake_is_told_in_one_clear_message(
    old: str, new: str, place: str, culprit: str, says: str, hint: str
) -> None:
    found = problems(bent(old, new))
    error = next((one for one in found if says in str(one)), None)
    assert error is not None, "\n".join(map(str, found))
    assert str(error).startswith(f"demo.yaml:{place}: ")
    assert underlined(error) == culprit
    assert hint in (error.hint or "")
    assert len(found) <= 2, "one mistake is not told as many"


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = bent("retries: 2", "retires: 2\n    timeout: soon", ("study: demo", "study: demo\nzzz: 1"), ("8Gi", "8gi"))
    with pytest.raises(StudyErrors) as caught:
        parse_study(text, "demo.yaml")
    assert [str(error.mark) for error in caught.value.errors] == [
        "demo.yaml:2:1",
        "demo.yaml:16:33",
        "demo.yaml:17:5",
        "demo.yaml:18:14",
    ]
    assert str(caught.value.mark) == "demo.yaml:2:1"
    assert str(caught.value).endswith("\n\n4 problems.")
    many = "study: demo\nsteps: {a: {run: x}}\n" + "".join(f"k{i}: 1\n" for i in range(50))
    with pytest.raises(StudyErrors, match=r"50 problems; the first 20 are shown\.$"):
        parse_study(many)


def test_a_mistake_in_the_defaults_is_told_once() -> None:
    (wrong, unknown) = problems(DEMO + "defaults: {retries: x, retires: 3}\n")
    assert (str(wrong.mark), str(unknown.mark)) == ("demo.yaml:25:21", "demo.yaml:25:24")
    assert wrong.message == '"retries" of the defaults must be a whole number, 0 or more, not "x"'


def test_a_value_that_quotes_cannot_protect_is_told_before_anything_runs() -> None:
    (error,) = problems(bent("--model {model}", '"--model {model}"', ("[unet, vit]", "[unet, 'a b']")))
    assert underlined(error) == "{model}"
    assert "cannot be made safe inside double quotes" in error.message
    assert "Shoal quotes values itself" in str(error.hint)


def test_an_axis_may_be_used_in_env_or_resources_by_joining_or_by_the_script() -> None:
    sound(
        bent(
            "[256, 512]",
            "[256], a: [1, 2]",
            ("{data} --size", "{data} {size}"),
            ("--out {out}\n", "--out {out}\n    env: {A: '{a}'}\n"),
        )
    )
    sound(
        bent(
            "gpu: 1, memory: 8Gi",
            'gpu: "{gpus}", memory: "{mem}"',
            ("seeds: 3", "seeds: 3\n    zip: {gpus: [1, 4], mem: [8Gi, 500M]}"),
        )
    )
    sound(bent("lr: [1e-3, 1e-4]", "lr: [1e-3, 1e-4]\n      size: [256, 512]"))
    sound(
        bent("--lr {lr} --model {model} --seed {seed}", "", (TEST_RUN, "    run: x\n"), ("retries: 2", "params: task"))
    )
    sound(
        bent(
            "chips --data {data} --size {size}",
            "chips --size {size}",
            ("matrix: {size: [256, 512]}", "matrix: {size: [1]}\n    params: task"),
        )
    )


def test_include_may_give_every_task_a_value_of_a_further_axis() -> None:
    entries = "[{model: unet, w: 1}, {model: vit, w: 2}, {model: big, lr: 1, seed: 7, w: 3}]"
    text = bent("seeds: 3", f"seeds: 3\n    include: {entries}", ("--lr {lr}", "--lr {lr} -w {w}"))
    study = sound(text.partition("profiles:")[0])
    assert len(study.steps["train"].include) == 3
    (error,) = problems(text)
    assert "with the profile smoke: this include" in error.message, "there, the entry of vit would make half a task"
    only = bent("matrix: {size: [256, 512]}", "include: [{size: 1, x: a}, {size: 2, x: b}]", ("{data}", "{data} {x}"))
    sound(only)
    (error,) = problems(only.replace(", x: b", ""))
    assert "gives no value for x" in error.message


def test_an_exclude_that_zip_makes_impossible_is_told() -> None:
    text = bent(
        "seeds: 3",
        "seeds: 3\n    zip: {a: [1, 2], b: [x, y]}\n    exclude: [{a: 1, b: y}]",
        ("--lr {lr}", "--lr {lr} {a} {b}"),
    )
    (error,) = problems(text)
    assert 'matches nothing: a 1 and b "y" never meet' in error.message
    sound(text.replace("{a: 1, b: y}", "{a: 1, b: x}"))


@pytest.mark.parametrize(
    "image",
    [
        "pytorch/pytorch:2.4.0-cuda12",
        "ghcr.io/example/train:2.1",
        "localhost:5000/a/b_c",
        "a@sha256:" + "0" * 64,
        "python",
    ],
)
def test_real_names_of_images_pass(image: str) -> None:
    assert sound(bent("retries: 2", f"image: {image}")).steps["train"].image == image


def test_code_must_exist_when_the_study_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(bent("retries: 2", "code: [train.py, 'models/**/*.py']"))
    with pytest.raises(StudyErrors) as caught:
        load_study(file)
    assert [error.message for error in caught.value.errors] == [
        '"code" of step "train": train.py does not exist',
        '"code" of step "train": models/**/*.py matches no file',
    ]
    (tmp_path / "train.py").touch()
    (tmp_path / "models/deep").mkdir(parents=True)
    (tmp_path / "models/deep/net.py").touch()
    assert load_study(file).steps["train"].code == ("train.py", "models/**/*.py")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "demo.yaml: the file is empty"),
        ("# nothing\n", "demo.yaml: the file is empty"),
        ("{}", "demo.yaml: the file is empty"),
        ("- a\n- b", "demo.yaml:1:1: a study file is a mapping of keys to values, and this is a list"),
        ("hello", "demo.yaml:1:1: a study file is a mapping of keys to values, and this is a single value"),
        ("study: a\nsteps: {}", "demo.yaml:2:1: the study has no steps"),
        ("study: a", 'demo.yaml:1:1: "steps" is missing'),
    ],
)
def test_a_file_that_is_no_study_says_what_one_looks_like(text: str, says: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(text, "demo.yaml")
    assert str(caught.value).startswith(says)
    assert "steps" in str(caught.value.hint)
