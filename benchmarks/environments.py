"""Each library in a virtual environment of its own, with its pinned release from PyPI."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = Path(__file__).resolve().parent / ".envs"
# The CPU build of torch is pinned and named first, so that no library pulls one with CUDA packages.
TORCH = "torch==2.13.0"
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "pydvl": ("pyDVL[influence]==0.10.0",),
    "dattri": ("dattri==0.3.0",),
    "curvlinops": ("curvlinops-for-pytorch==3.0.1",),
    "kronfluence": ("kronfluence==1.0.1",),
    "logix": ("numpy", "einops", "pyyaml", "tqdm"),
    "bergson": ("bergson==2.5.1",),
    "cleanlab": ("cleanlab==2.9.0",),
    "pyhessian": ("pyhessian==0.1",),
    "hessian_eigenthings": ("hessian-eigenthings==1.0.0a5",),
}
# They work on arrays and have no use for torch.
WITHOUT_TORCH = {"cleanlab"}
# Declared for Python < 3.11 only, though it runs on later ones: installed without that check.
UNCHECKED: dict[str, tuple[str, ...]] = {"logix": ("logix-ai==0.1.1",)}
LEFT_OUT = {
    "torch-influence": "not on PyPI; its method (SciPy's CG, one query at a time) is `curvlinops scipy-cg`",
}

# PyPI's builds of these need CUDA; the library itself never imports them, transformers does if they are
# there.
REMOVED: dict[str, tuple[str, ...]] = {"bergson": ("torchvision", "torchaudio")}


def python(environment: str) -> Path:
    """The interpreter of a peer's environment; wherefrom runs in the one that runs the benchmark."""
    if environment == "wherefrom":
        return Path(sys.executable)
    return ENVIRONMENTS / environment / "bin" / "python"


def prepare(environment: str, tell: Callable[[str], None]) -> None:
    """Creates and fills the environment unless it holds exactly these requirements already."""
    if environment == "wherefrom":
        return
    first = () if environment in WITHOUT_TORCH else (TORCH,)
    checked = (*first, *REQUIREMENTS[environment])
    unchecked = UNCHECKED.get(environment, ())
    wanted = (*checked, *unchecked)
    stamp = ENVIRONMENTS / environment / ".installed"
    if stamp.exists() and stamp.read_text().split() == list(wanted):
        return
    tell(f"installing {', '.join(wanted)}")
    folder = ENVIRONMENTS / environment
    if not python(environment).exists():
        venv.create(folder, with_pip=True)
    pip = [str(python(environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [first, checked] if first else [checked]
    if unchecked:
        steps.append(("--no-deps", "--ignore-requires-python", *unchecked))
    for step in steps:
        done = subprocess.run([*pip, *step], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{environment}: pip install {' '.join(step)} failed:\n{done.stderr[-2000:]}")
    if environment in REMOVED:
        remove = [*pip[:3], "uninstall", "--quiet", "--yes", *REMOVED[environment]]
        subprocess.run(remove, capture_output=True, check=True)
    stamp.write_text("\n".join(wanted))
