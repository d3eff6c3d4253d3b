"""Conjugate gradients on the damped full Gauss-Newton matrix: products per query, plain and
EK-FAC-preconditioned.

A 235k-parameter MLP on 2,000 examples at the absolute damping 0.01; the count is of products of the
matrix with one vector, each query's own, until the true relative residual is at most 1e-3. A Nyström
preconditioner takes one product for each of its columns before that, once for all queries.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import problems
from launch import HERE, environment

QUERIES = 8
CASES = tuple((name, columns) for name in ("none", "EK-FAC", "Nyström") for columns in ("one", "block"))


def measure(
    data: Path | None, out: Path, marks: str, quick: bool, resume: bool, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One row a case, each in a process of its own; with `resume`, those found in `out` if there are."""
    kept = out / f"convergence-{marks}.json"
    if resume and kept.exists():
        return json.loads(kept.read_text())
    path = out / f"mlp-reduced-{marks}.npz"
    if not path.exists():
        problems.build("mlp-reduced", path, data, quick)
    rows = []
    for preconditioner, columns in CASES:
        tell(f"conjugate gradients: preconditioner {preconditioner}, {columns}")
        settings = {"preconditioner": preconditioner, "columns": columns, "queries": QUERIES}
        command = [sys.executable, "-W", "ignore", str(HERE / "adapters" / "wherefrom_convergence.py")]
        done = subprocess.run(
            [*command, str(path), json.dumps(settings)],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"conjugate gradients, {preconditioner}, {columns}:\n{done.stderr[-2000:]}")
        rows.append({"preconditioner": preconditioner, **json.loads(done.stdout)})
    kept.write_text(json.dumps(rows))
    return rows
