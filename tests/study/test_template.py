"""References in commands: what is one, what is not, and that no value gets out of its quotes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.study.template import Template, TemplateError


def render(text: str, shell: bool = True, **values: object) -> str:
    return Template.parse(text).render(values, shell=shell)  # type: ignore[arg-type]


def test_only_braces_around_a_name_are_references() -> None:
    text = """awk '{ print $1 }' ${HOME} {1..3} {a,b} '{"k": {"n": 1}}' {{lr}} {lr}"""
    assert [reference.name for reference in Template.parse(text).names] == ["lr"]
    assert render(text, lr=0.5).endswith("{lr} 0.5")
    assert render(text, lr=0.5).startswith("""awk '{ print $1 }' ${HOME} {1..3} {a,b} '{"k": {"n": 1}}'""")


def test_values_have_one_text_each() -> None:
    assert render("{a} {b} {c} {d} {e}", a=True, b=None, c=1e-5, d=[1, "x y"], e="") == ("true null 1e-05 1 'x y' ''")


def test_an_argument_that_is_only_a_list_becomes_several() -> None:
    assert Template.parse("{bands}").words({"bands": ["B4", "B 3"]}) == ["B4", "B 3"]
    assert Template.parse("--b={bands}").words({"bands": ["B4", "B3"]}) == ["--b=B4 B3"]


def test_github_expressions_are_refused_with_what_to_write_instead() -> None:
    with pytest.raises(TemplateError, match=r"write \{name\}") as caught:
        Template.parse("train ${{ matrix.lr }}")
    assert caught.value.offset == 6


def test_kept_names_stay_in_the_text() -> None:
    template = Template.parse("cp {inputs.chips} {out} {lr}")
    assert template.render({"lr": 1}, shell=True, keep=lambda name: name != "lr") == "cp {inputs.chips} {out} 1"
    with pytest.raises(TemplateError, match=r"unknown name \{out\}"):
        template.render({"lr": 1, "inputs.chips": "/x"}, shell=True)


CONTEXTS = [
    "printf '%s\\n' {x}",
    "printf '%s\\n' a{x}b",
    'printf "%s\\n" "{x}"',
    "printf '%s\\n' '{x}'",
    "printf '%s\\n' \"it's {x}\" '\"'",
    "printf '%s\\n' $(printf %s {x})",
    'printf "%s\\n" "$(printf %s "{x}")"',
    'printf "%s\\n" "$( (true) ; printf %s "b {x}" )"',
    'printf "%s\\n" "$(case a in a) printf %s "{x}";; esac)"',
    "printf '%s\\n' `printf %s {x}`",
    "printf '%s\\n' ${NOTHING:-{x}}",
    "printf '%s\\n' \"${NOTHING:-'{x}'}\"",
    "printf '%s\\n' ok # {x}",
    "printf '%s\\n' \\{x}",
    "cat <<E\n{x}\nE",
    "printf '%s\\n' $((1)) {x}",
    "printf '%s\\n' $'a' {x}",
]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "value",
    ["$(touch pwned)", "`touch pwned`", "';touch pwned;'", '";touch pwned;"', "\ntouch pwned\n", "}; touch pwned;{"],
)
def test_a_hostile_value_never_runs(context: str, value: str, tmp_path: Path) -> None:
    with contextlib.suppress(TemplateError):
        command = render(context, x=value)
        subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False, timeout=10)
    assert not list(tmp_path.iterdir())


def test_a_value_that_quotes_cannot_protect_is_refused_by_name() -> None:
    for context in ('echo "{x}"', "echo `echo {x}`", "cat <<E\n{x}\nE"):
        with pytest.raises(TemplateError, match=r"'\$\(id\)' of \{x\} cannot be made safe inside"):
            render(context, x="$(id)")
        assert "plain-value" in render(context, x="plain-value")


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40))
def test_a_plain_value_reaches_the_program_unchanged(value: str) -> None:
    shell = shutil.which("sh")
    assert shell
    command = render("printf %s {x}", x=value)
    shown = subprocess.run([shell, "-c", command], capture_output=True, check=True, timeout=10).stdout
    assert shown == value.encode()
