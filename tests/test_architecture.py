"""Imports go downwards only, between floors and inside functions too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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
    {"influence", "integrations"},
    {"evaluation", "testing"},
    {"interventions"},
    {"report"},
    {"studies"},
    {"api"},
    {"cli", "__main__", "__init__"},
]
FLOOR = {"errors": -2, "arguments": -1, "names": -1, "percentages": -1} | {
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


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_downwards(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in FLOOR, f"{part} has no floor: add it to FLOORS and to docs/architecture.md"
    if FLOOR[part] < len(FLOORS) - 1:  # the top floor may use everything
        assert upward(part, file.read_text()) == []


def test_an_upward_import_is_seen_also_inside_a_function():
    source = "def late():\n    from wherefrom.solvers import CG\n"
    assert upward("curvature", source) == ["line 2: curvature (floor 5) imports solvers"]
    assert upward("influence", source) == []
    assert upward("task", "import wherefrom") == ["line 1: task (floor 2) imports __init__"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_are_small(file):
    assert len(file.read_text().splitlines()) <= 400
