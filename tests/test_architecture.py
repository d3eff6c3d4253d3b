"""Imports go downwards only, between floors and inside functions too."""

from __future__ import annotations

import ast
from pathlib import Path

import wherefrom

PACKAGE = Path(wherefrom.__file__).parent
FLOORS = [
    {"plain_text", "progress", "memory", "store"},
    {"linalg", "losses"},
    {"task"},
    {"layers"},
    {"gradients"},
    {"curvature"},
    {"solvers"},
    {"influence"},
    {"evaluation", "testing"},
    {"interventions"},
    {"report"},
    {"studies"},
    {"api"},
    {"cli", "__main__", "__init__"},
]
FLOOR = {"version": -2, "errors": -2, "arguments": -1, "names": -1, "percentages": -1} | {
    name: number for number, names in enumerate(FLOORS) for name in names
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(source: str) -> set[tuple[int, str]]:
    """`(line, part of the package)` for every import of the package, wherever in the file it stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            modules = [node.module or ""]
            if node.module == "wherefrom":
                modules = [f"wherefrom.{alias.name}" for alias in node.names]
        for module in modules:
            if module == "wherefrom":
                found.add((node.lineno, "__init__"))
            elif module.startswith("wherefrom."):
                found.add((node.lineno, module.split(".")[1]))
    return found


def upward(part: str, source: str) -> list[str]:
    return [
        f"line {line}: {part} (floor {FLOOR[part]}) imports {other}"
        for line, other in sorted(imports(source))
        if other != part and FLOOR.get(other, len(FLOORS) - 1) >= FLOOR[part]
    ]


def test_imports_go_downwards():
    parts = {file: file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
    unknown = sorted({part for part in parts.values() if part not in FLOOR})
    assert not unknown, f"{unknown} have no floor: add them to FLOORS and to docs/architecture.md"
    below = {
        file: part for file, part in parts.items() if FLOOR[part] < len(FLOORS) - 1
    }  # the top may use all
    faults = {str(file.relative_to(PACKAGE)): upward(part, file.read_text()) for file, part in below.items()}
    assert {file: lines for file, lines in faults.items() if lines} == {}


def test_an_upward_import_is_seen_also_inside_a_function():
    source = "def late():\n    from wherefrom.solvers import CG\n"
    assert upward("curvature", source) == ["line 2: curvature (floor 5) imports solvers"]
    assert upward("influence", source) == []
    assert upward("task", "import wherefrom") == ["line 1: task (floor 2) imports __init__"]


def test_files_are_small():
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > 400} == {}


def test_nothing_above_solvers_asks_which_one_it_was():
    """A solver says its traits: asking for its type would leave one written outside behind."""
    own = {
        node.name
        for file in (PACKAGE / "solvers").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    contract = {"Solver", "PreparedSolver", "RelativeDamping", "Damping"}
    found = []
    for file in FILES:
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if FLOOR[part] <= FLOOR["solvers"]:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                found += [f"{file.name}:{node.lineno}: {name}" for name in asked & (own - contract)]
    assert found == []


def test_a_class_has_a_name_of_its_own():
    """Two of one name are taken for one another; a name that begins with an underscore is its file's own."""
    found: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
