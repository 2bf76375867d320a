"""What people write where ``{name}`` is meant."""

from __future__ import annotations

import json

import pytest

from shoal.errors import StudyError
from shoal.study import parse_study


@pytest.mark.parametrize(
    ("run", "said", "hint"),
    [
        ("echo { x } > {out}/x", "{ x } is not filled in", "Write {x}."),
        ("echo {{x}} > {out}/x", 'axis "x" of step "a" is not filled in: {{x}} is not {x}', "one pair of braces"),
        ("echo ${x} > {out}/x", "${x} is not {x}", "no $"),
        ("echo $x > {out}/x", "$x is not {x}", "no $"),
        ("echo {x > {out}/x", "{x is not {x}", "one pair of braces"),
        ("echo {x} > {{out}}/x", "{{out}} is the text {out}, not the folder", "Write {out}"),
        (["python train.py", "{x}"], 'must start with a program by itself, not "python train.py"', "[python, train.py"),
    ],
)
def test_what_is_nearly_a_name_in_braces_is_told(run: object, said: str, hint: str) -> None:
    text = f"study: c\nsteps: {{a: {{matrix: {{x: [1, 2]}}, run: {json.dumps(run)}}}}}\n"
    with pytest.raises(StudyError) as caught:
        parse_study(text, "s.yaml")
    error = str(caught.value)
    assert said in error
    assert hint in error
    assert "problems." not in error, "one slip is told once"
