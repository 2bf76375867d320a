"""What YAML's parser complains about, in the words of someone who writes study files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shoal.errors import StudyError

if TYPE_CHECKING:
    import yaml

    from shoal.study.source import Source

__all__ = ["syntax_error"]

_INDENT = "Keys of one block start in the same column; what belongs to a key starts further right."
_COLON = (
    "If the colon is part of a text, put the whole text in quotes. "
    "If a new key starts here, compare its indentation with the line before."
)
_PLAIN_PROBLEMS = {
    "sequence entries are not allowed": (
        'a list item cannot start here, after "key: "',
        "Start the list on the next line, or write it as [a, b].",
    ),
    "mapping keys are not allowed": ('a value cannot start with "? "', "Put it in quotes if it is text."),
    "while scanning an anchor": (
        "& starts a name for a value (an anchor), and none follows",
        "In a text, & needs quotes.",
    ),
    "while scanning an alias": (
        "* stands for a named value (an alias), and no name follows",
        "In a text, * needs quotes.",
    ),
    "while scanning a directive": ("a study file needs no % directive", "Remove this line."),
    "found incompatible YAML document": ("a study file needs no % directive", "Remove this line."),
    "found duplicate %": ("a study file needs no % directive", "Remove this line."),
    "while scanning a block scalar": (
        "only a line break may follow | or >",
        "The text starts on the next line, further right. A text that itself starts with | or > needs quotes.",
    ),
}


def syntax_error(source: Source, error: yaml.YAMLError) -> StudyError:
    """Turn the parser's complaint into an error with its place in ``source``."""
    problem = str(getattr(error, "problem", None) or error)
    context = str(getattr(error, "context", None) or "")
    place = getattr(error, "problem_mark", None)
    opened = getattr(error, "context_mark", None)
    if place is None:
        return StudyError(f"{source.name}: {problem.splitlines()[0]}")
    at = source.at(place.line, place.column)
    char = source.text[place.index : place.index + 1]

    if char == "\t" or "tab character" in problem:
        return source.error(at, "a tab stands where only spaces may", hint="Indent with spaces: YAML allows no tabs.")
    if "cannot start any token" in problem:
        return source.error(at, f"a value cannot start with {char}", hint=f'Put the whole value in quotes: "{char}..."')
    if "mapping values are not allowed" in problem:
        return source.error(at, 'a ":" is not expected here', hint=_COLON)
    if "quoted scalar" in context and "end of stream" in problem and opened is not None:
        sign = source.text[opened.index : opened.index + 1]
        return source.error(source.at(opened.line, opened.column), f"this {sign} is never closed")
    if "quoted scalar" in context and ("escape" in problem or "hex" in problem):
        at = source.mark(max(source.text.rfind("\\", 0, place.index + 1), 0))
        hint = "In double quotes a backslash starts an escape; in single quotes it stands for itself."
        return source.error(at, "this backslash is not an escape that YAML knows", hint=hint)
    for known, (message, hint) in _PLAIN_PROBLEMS.items():
        if known in f"{context} {problem}":
            return source.error(at, message, hint=hint)
    if "simple key" in context and opened is not None and opened.line < len(source.lines):
        # The key stands where the context started; the parser notices only at the next token.
        whole = source.at(opened.line, opened.column, len(source.lines[opened.line]))
        return source.error(whole, 'a key without ":" after it', hint=f"Write it as key: value. {_INDENT}")
    if "tag" in context:
        return source.error(at, "this tag cannot be read", hint="A text that starts with ! needs quotes.")
    if "<document start>" in problem and re.search(r"^\.\.\.", source.text[: place.index], re.MULTILINE):
        return source.error(at, "the text goes on after its end", hint="Remove the line with ... or what follows it.")
    if "expected" in problem:
        return _unexpected(source, place, opened)
    return source.error(at, f"{problem}{f' {context}' if context else ''}")


def _unexpected(source: Source, place: yaml.Mark, opened: yaml.Mark | None) -> StudyError:
    """Something stands where the parser wanted something else: tell the usual causes apart by the text around it."""
    at = source.at(place.line, place.column)
    line = source.lines[place.line] if place.line < len(source.lines) else ""
    before, char = line[: place.column], line[place.column : place.column + 1]
    bracket = _unclosed(source.text[: place.index])
    if bracket is not None:
        sign = source.text[bracket]
        close = "]" if sign == "[" else "}"
        mark = source.mark(bracket)
        if not source.text[place.index :].strip() or mark.line != place.line + 1:
            hint = f"Close it with {close}; or put the value in quotes if it is text."
            if re.search(rf"\s#[^\n]*\{close}", source.text[bracket : place.index]):
                hint = f"The {close} after # is part of a comment."
            return source.error(mark, f"this {sign} is never closed", hint=hint)
        hint = 'A text within [...] or {...} that holds any of { } [ ] , must be in quotes, as in "{name}".'
        if char in "]}":
            return source.error(at, f'this {char} cannot close the "{sign}" of column {mark.column}', hint=hint)
        return source.error(at, f'a "," or "{close}" is missing before this', hint=hint)
    if char in ("]", "}", ","):
        return source.error(at, f'a value cannot start with "{char}"', hint="Put it in quotes if it is text.")
    value = re.match(r"(?:\s*-\s)*\s*(?:[^\s:'\"{\[][^:]*:\s+)?(['\"{\[])", before)
    if value is not None:
        start = value.start(1)
        if value[1] in "{[":
            hint = f"A text that starts with \"{value[1]}\" must be in quotes: '{line[start:].strip()}'"
            return source.error(at, f"text goes on after the {'}' if value[1] == '{' else ']'}", hint=hint)
        other = '"' if value[1] == "'" else "'"
        hint = f"Quotes go around the whole text; one that holds {value[1]} may stand in {other}."
        return source.error(at, "text goes on after the closing quote", hint=hint)
    since = f"; the block starts in line {opened.line + 1}" if opened is not None else ""
    if char == ":" and not before.strip():
        return source.error(at, "a key is missing before this", hint="Write it as key: value.")
    if char == "-" and not before.strip():
        return source.error(at, f"a list item stands where a key belongs{since}", hint=_INDENT)
    if not before.strip():
        return source.error(at, f"the indentation does not fit the lines before{since}", hint=_INDENT)
    return source.error(at, f"this does not fit what stands around it{since}", hint=_INDENT)


def _unclosed(text: str) -> int | None:
    """Where the innermost bracket starts that is open at the end of ``text``; quotes and comments are skipped."""
    stack: list[int] = []
    token = re.compile(
        r"""(?:^|(?<=\s))#[^\n]*|(?<![^\s,\[{:])(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*")|[\[\]{}]""",
        re.MULTILINE | re.DOTALL,
    )
    for found in token.finditer(text):
        sign = found[0]
        if sign in "[{":
            # Within a plain text outside of brackets they are text: `run: echo {x} [y]`.
            near = max(0, found.start() - 200)
            head = text[max(near, text.rfind("\n", near, found.start()) + 1) : found.start()]
            if stack or re.search(r"(?:^|[:\-]\s)\s*(?:[&!]\S*\s+)?\Z", head):
                stack.append(found.start())
        elif sign in "]}" and stack:
            stack.pop()
    return stack[-1] if stack else None
