"""What can be seen in a command without running it: sleeping, and environments that are made on the fly."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["commands_of", "ends_in_sleep", "installs", "sleeps"]

_SEPARATORS = frozenset({";", ";;", "&", "&&", "|", "||", "|&", "(", ")", "\n"})
_KEYWORDS = frozenset(
    {"then", "do", "else", "if", "while", "until", "elif", "{", "!", "time", "exec", "nohup", "command"}
)
_CLOSING = frozenset({"fi", "done", "}", "esac"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash"})


def commands_of(run: str | Sequence[str]) -> list[list[str]]:
    """The simple commands of a command line, each as its words; what cannot be read as a shell command is left out."""
    if not isinstance(run, str):
        words = [str(word) for word in run]
        name = words[0].rpartition("/")[2] if words else ""
        if name in _SHELLS and any(re.fullmatch(r"-[a-z]*c", word) for word in words[1:-1]):
            return commands_of(words[-1])
        return [words] if words else []
    text = _without_comments(run).replace("\\\n", " ").replace("\n", " ; ")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return [words for words in (_plain(words) for words in _split(lexer)) if words]
    except ValueError:
        return []


def _without_comments(text: str) -> str:
    kept: list[str] = []
    quote, i = "", 0
    while i < len(text):
        char = text[i]
        if char == "\\" and quote != "'":
            kept.append(text[i : i + 2])
            i += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (i == 0 or text[i - 1] in " \t\n;&|()"):
            end = text.find("\n", i)
            i = len(text) if end < 0 else end
            continue
        kept.append(char)
        i += 1
    return "".join(kept)


def _split(tokens: Iterable[str]) -> Iterator[list[str]]:
    words: list[str] = []
    for token in tokens:
        if token in _SEPARATORS or (token and set(token) <= set(";&|()")):
            yield words
            words = []
        else:
            words.append(token)
    yield words


def _plain(words: list[str]) -> list[str]:
    while words and (words[0] in _KEYWORDS or words[0] in _CLOSING or _ASSIGNMENT.match(words[0])):
        words = words[1:]
    if words and words[0] == "timeout":
        words = [word for word in words[1:] if not word.startswith("-")][1:]
    return words


def _name(words: Sequence[str]) -> str:
    return words[0].rpartition("/")[2]


def _sleeping(words: Sequence[str]) -> bool:
    follows = _name(words) == "tail" and "/dev/null" in words and any(word.startswith("-f") for word in words)
    return _name(words) == "sleep" or follows


def sleeps(run: str | Sequence[str]) -> bool:
    """Whether a command sleeps anywhere."""
    return any(_sleeping(words) for words in commands_of(run))


def ends_in_sleep(run: str | Sequence[str]) -> bool:
    """Whether a command ends in sleeping, or sleeps for ever."""
    found = commands_of(run)
    for words in found:
        if _sleeping(words) and (_name(words) == "tail" or "infinity" in words or "inf" in words):
            return True
    return bool(found) and _sleeping(found[-1])


def installs(run: str | Sequence[str]) -> list[list[str]]:
    """The commands that install packages or make an environment."""
    return [words for words in commands_of(run) if _installs(words)]


def _installs(words: Sequence[str]) -> bool:
    name, rest = _name(words), list(words[1:])
    if re.fullmatch(r"python[0-9.]*", name) and rest[:1] == ["-m"]:
        name, rest = (rest[1] if len(rest) > 1 else ""), rest[2:]
    if name == "uv" and rest[:1] == ["pip"]:
        name, rest = "pip", rest[1:]
    verbs = [word for word in rest if not word.startswith("-")]
    verb = verbs[0] if verbs else ""
    if re.fullmatch(r"pip[0-9.]*", name):
        return verb == "install"
    if name in ("conda", "mamba", "micromamba"):
        return verb in ("create", "install", "env", "update")
    if name in ("uv", "poetry", "pipenv", "pdm"):
        return verb in ("sync", "venv", "install", "add")
    return name in ("venv", "virtualenv")
