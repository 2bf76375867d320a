"""Whatever stands in a study file, a StudyError is the worst that happens, with its place, and soon."""

from __future__ import annotations

import contextlib
import random
from datetime import timedelta

import pytest
from demo import DEMO
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.errors import StudyError
from shoal.study import StudyErrors, dump_yaml, parse_study
from shoal.study.schema import Best, Objective, Report, Resources, Step, Study, Table

quick = settings(max_examples=100, deadline=timedelta(seconds=2))
KEYS = sorted(
    {name for model in (Study, Step, Resources, Report, Objective, Table, Best) for name in model.model_fields}
)


def check(text: str, **options: object) -> None:
    """Load; anything but a StudyError, or one that points outside of the text, fails."""
    found: list[StudyError] = []
    try:
        study = parse_study(text, "fuzz.yaml", **options)  # type: ignore[arg-type]
    except StudyErrors as errors:
        found.extend(errors.errors)
    except StudyError as error:
        found.append(error)
    else:
        assert study.steps
        dump_yaml(study.resolved())
    lines = text.replace("\r\n", "\n").splitlines()
    for one in found:
        assert one.message
        assert str(one)
        if one.mark is None:
            assert "fuzz.yaml" in one.message or "--set" in one.message
        elif one.mark.line:
            assert one.mark.line <= len(lines) + 1
            assert min(one.mark.column, one.mark.length) >= 1


@quick
@given(st.text(max_size=300))
@example("a: &a [*a]")
@example("\ud800")
@example("a: !!binary x")
@example("- - - - - - - - - - -\n" * 5)
@example("?" * 300)
@example("{" * 300)
@example("[" * 100_000)
@example("a: 'x" * 20_000)
@example(": " * 50_000)
@example("&a " * 50_000)
@example("a: [" + '" ' * 50_000)
def test_any_text(text: str) -> None:
    check(text)


@quick
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`,?#~<= \n\t{}é1e."), max_size=120))
def test_texts_of_yaml_signs(text: str) -> None:
    check(text)
    check("study: a\nsteps:\n  b:\n    run: " + text)


pieces = st.sampled_from([*KEYS, "{lr}", "{x.y}", "{{x}}", "${X}", "${{ x }}", "null", "1e-3", "\t", "\n", "  ",
 ": ", "- ", "[", "]", "{", "}",
                          "*x", "&x ", "<<: *x", "'", '"', "#", "é", "\x00", "\u2028", "99999999999999999999", "-1",
                          ".inf", "true"])  # fmt: skip


@quick
@given(st.lists(st.tuples(st.integers(0, len(DEMO)), st.integers(0, 12), pieces), min_size=1, max_size=4))
def test_a_sound_study_with_pieces_replaced(edits: list[tuple[int, int, str]]) -> None:
    text = DEMO
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    check(text)
    check(text, profile="smoke")


@quick
@given(st.integers(0, len(DEMO)), st.integers(0, len(DEMO)), st.integers(0, len(DEMO)))
def test_a_sound_study_cut_and_shuffled(start: int, stop: int, place: int) -> None:
    check(DEMO[:start])
    check(DEMO[:place] + DEMO[start:stop] + DEMO[place:])
    lines = DEMO.splitlines(keepends=True)
    random.Random(start).shuffle(lines)
    check("".join(lines))


words = st.one_of(
    st.sampled_from([*KEYS, "a", "train", "{a}", "{inputs.a}", "{seed}", "{out}", "{data.a}", "x y", "", "1h", "8Gi",
     "*", "../x", "/", "\0", "max"]),
    st.text(max_size=5),
)  # fmt: skip
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words)
nested = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5), max_leaves=25
)
step = st.dictionaries(st.sampled_from(list(Step.model_fields)), nested, max_size=6)
whole = st.fixed_dictionaries(
    {
        "study": st.just("a"),
        "steps": st.dictionaries(st.sampled_from(["a", "b", "A", "runs"]), step | nested, min_size=1, max_size=3),
    },
    optional={name: nested for name in Study.model_fields if name not in ("study", "steps", "extends")},
)


def text_of(data: object) -> str:
    # Control characters and lone surrogates are for the tests above; here the structure matters.
    return dump_yaml(clean(data))


def clean(data: object) -> object:
    if isinstance(data, dict):
        return {str(clean(key)): clean(value) for key, value in data.items()}
    if isinstance(data, list):
        return [clean(item) for item in data]
    return "".join(char for char in data if char.isprintable()) if isinstance(data, str) else data


@quick
@given(whole)
def test_any_structure_under_known_keys(data: dict[str, object]) -> None:
    check(text_of(data))
    check(text_of({**data, "profiles": {"p": data}}), profile="p")


@quick
@given(st.lists(st.text(max_size=20), max_size=4), words, nested)
def test_any_override(parts: list[str], word: str, value: object) -> None:
    known = [part or word for part in parts]
    text = (
        "".join(char for char in text_of(value) if char != "\n") if not isinstance(value, dict | list) else str(value)
    )
    for path in (
        ".".join(parts),
        ".".join(known),
        f"steps.train.{word}",
        f"steps.train.matrix.{word}",
        f"report.tables.0.{word}",
        word,
    ):
        check(DEMO, overrides=[f"{path}={text}"])


@pytest.mark.timeout(300)
def test_large_studies_load() -> None:
    """In seconds; a step that is quadratic in them would take longer than the test may."""
    steps = "".join(
        f"  s{i}:\n    needs: [{', '.join(f's{j}' for j in range(max(0, i - 3), i))}]\n    run: x\n" for i in range(400)
    )
    parse_study(f"study: a\nsteps:\n{steps}")
    values = ", ".join(map(str, range(20_000)))
    parse_study(f"study: a\nsteps: {{b: {{run: 'x {{v}}', matrix: {{v: [{values}]}}}}}}")
    chain = "".join(f"  s{i}:\n    for_each: s{i - 1}\n    run: x\n" for i in range(1, 400))
    parse_study(f"study: a\nsteps:\n  s0: {{run: x}}\n{chain}")
    with contextlib.suppress(StudyError):
        parse_study("study: a\nsteps:\n" + "".join(f"  s{i}: {{run: 'x {{y{i}}}'}}\n" for i in range(1000)))
