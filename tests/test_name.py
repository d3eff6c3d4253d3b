"""The project's earlier name belongs to another package: nothing that is kept here may bear it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
FORMER = "when" + "ce"
KEPT = (
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "src",
    "tests",
    "docs",
    "examples",
    "benchmarks",
)
BUILT = {"__pycache__", ".envs"}


def files():
    for name in KEPT:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            built = BUILT & set(file.parts) or any(part.endswith(".egg-info") for part in file.parts)
            if file.is_file() and not built:
                yield file


def test_the_former_name_is_in_no_file_and_no_file_name():
    found = [
        str(file.relative_to(ROOT))
        for file in files()
        if FORMER in str(file.relative_to(ROOT)).lower() or FORMER.encode() in file.read_bytes().lower()
    ]
    assert found == []
