"""The arrow of the design, held: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"

BASE = {"errors", "units"}
# study -> plan -> store, executors -> runner; results read the store, the report reads results. Nothing points back.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "agent": set(),
    "failures": {"agent"},
    "packages": set(),
    "inside": {"errors", "packages"},
    "study": BASE,
    "plan": BASE | {"study"},
    "clusters": BASE | {"study", "plan"},
    "migrate": BASE | {"study", "plan", "clusters"},
    "store": BASE | {"agent", "failures", "study", "plan"},
    "executors": BASE | {"agent", "failures", "study", "plan", "clusters"},
    "runner": BASE | {"agent", "failures", "packages", "study", "plan", "store", "executors"},
    "results": BASE | {"agent", "failures", "study", "plan", "store"},
    "report": BASE | {"agent", "failures", "study", "plan", "store", "results"},
    "cli": BASE
    | {
        "agent",
        "failures",
        "study",
        "plan",
        "clusters",
        "migrate",
        "store",
        "executors",
        "runner",
        "results",
        "report",
    },
    "__main__": {"cli"},
    "": {"errors", "inside", "results"},
}
# The applications: what all share, then what is learned from, then what learns, then what is said of one application alone.
# Modules called cli stand above all of them.
EARTH: dict[str, set[str]] = {
    "session": set(),
    "ahead": set(),
    "options": set(),
    "pictures": set(),
    "training": set(),
    "rasters": {"ahead", "session"},
    "segmentation": {"change", "pictures", "rasters", "session", "training"},
    "change": {"segmentation", "rasters", "session", "training"},  # models of pairs; modules keep the order below
    "detection": {"ahead", "pictures", "rasters", "session", "training"},
    "burned_area": {"rasters", "session"},
    "deforestation": {"rasters", "session"},
}
PUBLIC_MODULES = ("shoal", "shoal.errors")
HEAVY = ("torch", "numpy", "pandas", "pydantic", "rich", "typer", "yaml", "jinja2", "vl_convert", "sqlite3")


def modules(package: str) -> list[Path]:
    """All files of a package."""
    found = sorted((SRC / package).rglob("*.py"))
    assert found
    return found


def dotted(path: Path) -> str:
    """The module's name."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Line, module and, of `from module import name`, the name: at the top, in functions and for type checkers alike."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                module = ".".join([*above, *([module] if module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def imports_at_work(path: Path) -> Iterator[tuple[str, str | None]]:
    """Module and name of what is imported, at the top and in functions, but for type checkers."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def part(module: str, name: str | None = None) -> str:
    """The part of the engine that an import reaches: `shoal.study.load` -> `study`, `from shoal import errors` -> `errors`."""
    words = module.split(".")
    if len(words) == 1:
        return name if name in ALLOWED else ""
    return words[1]


def test_every_part_of_the_engine_has_its_place() -> None:
    parts = {part(dotted(path)) for path in modules("shoal")}
    assert parts <= set(ALLOWED), "a new part: say in ALLOWED, and in docs/design.md, what it may import"


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_imports_follow_the_arrow(name: str) -> None:
    wrong = [
        f"{path.relative_to(SRC)}:{line}: {part(dotted(path)) or 'shoal'} imports {module}"
        for path in modules("shoal")
        if part(dotted(path)) == name
        for line, module, imported in imports(path)
        if module.split(".")[0] == "shoal" and part(module, imported) not in ALLOWED[name] | {name}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_arrow_has_no_circle() -> None:
    left = {name: set(below) for name, below in ALLOWED.items()}
    while left:
        free = {name for name, below in left.items() if not below & set(left)}
        assert free, f"these parts may import each other in a circle: {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in free}


def of_application(path: Path) -> str:
    """The part of the applications that a module belongs to: its folder; ``cli`` for what users call."""
    words = dotted(path).split(".")[1:]
    return (
        "cli" if not words or (words[-1] in ("cli", "predict") and len(words) == 1) or words[-1] == "cli" else words[0]
    )


def test_what_applications_share_knows_none_of_them() -> None:
    wrong = []
    for path in modules("shoal_earth"):
        mine = of_application(path)
        assert mine in EARTH or mine == "cli", (
            f"{mine}: a new part: say in EARTH, and in docs/design.md, what it may import"
        )
        for line, module, name in imports(path):
            words = [*module.split("."), *([name] if module == "shoal_earth" and name else [])]
            if words[0] == "shoal_earth" and mine != "cli" and len(words) > 1 and words[1] not in EARTH[mine] | {mine}:
                wrong.append(f"{path.relative_to(SRC)}:{line}: {mine} imports {'.'.join(words)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["shoal", "shoal_earth"])
def test_modules_import_each_other_in_no_circle(package: str) -> None:
    names = {dotted(path) for path in modules(package)}
    needs: dict[str, set[str]] = {}
    for path in modules(package):
        found = set()
        for module, name in imports_at_work(path):
            found.add(f"{module}.{name}" if f"{module}.{name}" in names else module)
        needs[dotted(path)] = (found & names) - {dotted(path)}
    while needs:
        free = {name for name, below in needs.items() if not below & set(needs)}
        assert free, f"a circle among: {sorted(needs)}"
        needs = {name: below for name, below in needs.items() if name not in free}


def test_files_stay_of_a_size_that_one_idea_has() -> None:
    # Some 400 lines are meant; what passes 500 is two things. Why the agent is one file: docs/decisions/agent-one-file.md.
    long = {
        str(path.relative_to(SRC)): count
        for package in ("shoal", "shoal_earth")
        for path in modules(package)
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert set(long) == {"shoal/agent/agent.py"}, long


def test_the_agent_is_one_file_of_standard_library() -> None:
    files = modules("shoal/agent")
    assert {path.name for path in files} == {"__init__.py", "agent.py"}
    for path in files:
        wrong = [
            f"{path.name}:{line}: {module}"
            for line, module, _ in imports(path)
            if module.split(".")[0] not in sys.stdlib_module_names
        ]
        assert not wrong, wrong
        ast.parse(path.read_text(), feature_version=(3, 8))


def test_the_engine_knows_nothing_of_the_applications() -> None:
    wrong = [
        f"{path.relative_to(SRC)}:{line}"
        for path in modules("shoal")
        for line, module, _ in imports(path)
        if module.split(".")[0] in ("shoal_earth", "torch", "torchvision", "rasterio", "geopandas", "timm")
    ]
    assert not wrong, wrong


def test_the_applications_use_public_names_only() -> None:
    import shoal
    import shoal.errors

    public = {"shoal": set(shoal.__all__), "shoal.errors": set(shoal.errors.__all__)}
    wrong = [
        f"{path.relative_to(SRC)}:{line}: {module}{'.' + name if name else ''}"
        for path in modules("shoal_earth")
        for line, module, name in imports(path)
        if module.split(".")[0] == "shoal"
        and (module not in PUBLIC_MODULES or (name is not None and name not in public[module]))
    ]
    assert not wrong, "\n".join(wrong)


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after `code` ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {module.split(".")[0] for module in done.stdout.split()}


def test_import_shoal_and_task_are_light() -> None:
    heavy = loaded_by("import shoal; shoal.task; shoal.ShoalError") & set(HEAVY)
    assert not heavy, heavy


def test_the_command_line_starts_light() -> None:
    heavy = loaded_by("import shoal.cli") & (set(HEAVY) - {"typer"})
    assert not heavy, heavy
