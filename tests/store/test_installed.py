"""What is a user's own code, wherever packages are installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import textwrap

import pytest

from wherefrom.store.installed import is_installed

NAMES = ("own", "edited", "targeted", "single", "other", "spaced.inner")


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A module of each kind, loaded: `{name: whether it is installed}`."""
    plain, target, site = tmp_path / "code", tmp_path / "libraries", tmp_path / "lib" / "site-packages"
    for folder in (plain, target, site):
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(str(folder))
    (plain / "own.py").write_text("")
    # Installed in editable mode: an installer's record names it, but elsewhere.
    (plain / "edited").mkdir()
    (plain / "edited" / "__init__.py").write_text("")
    (site / "edited-1.dist-info").mkdir()
    (site / "edited-1.dist-info" / "RECORD").write_text("__editable__.edited-1.pth,,\nedited/x.py,,\n")
    # pip install --target
    (target / "targeted").mkdir()
    (target / "targeted" / "__init__.py").write_text("")
    (target / "single.py").write_text("")
    for name, file in (("targeted", "targeted/__init__.py"), ("single", "single.py")):
        (target / f"{name}-1.dist-info").mkdir()
        (target / f"{name}-1.dist-info" / "RECORD").write_text(f"{file},sha256=x,0\n")
    (site / "other.py").write_text("")
    (plain / "spaced").mkdir()
    (plain / "spaced" / "inner.py").write_text("")
    for name in NAMES:
        __import__(name)
    is_installed.cache_clear()
    yield {
        "own": False,
        "edited": False,
        "targeted": True,
        "single": True,
        "other": True,
        "spaced.inner": False,
    }
    for name in (*NAMES, "spaced"):
        sys.modules.pop(name, None)
    is_installed.cache_clear()


def test_installed_packages_are_told_from_the_users_own(modules):
    assert {name: is_installed(name) for name in modules} == modules


def test_python_torch_and_this_package_are_installed_wherever_they_lie():
    for name in ("json", "_json", "torch.nn.functional", "torch.ops", "torch._C", "numpy", "wherefrom.store"):
        assert is_installed(name)
    assert not is_installed("__main__") and not is_installed("absent") and is_installed(None)


@pytest.mark.slow
def test_a_fit_is_kept_where_packages_come_from_the_path(tmp_path):
    """Under the interpreter behind a virtual environment, which finds torch only by `sys.path`."""
    code = f"""
        import sys, torch, wherefrom
        from wherefrom.store.installed import is_installed, _OF_PYTHON
        sys.modules["wherefrom.store.installed"]._KNOWN = __import__("re").compile("wherefrom")
        assert is_installed("torch.nn") and is_installed("numpy.linalg")
        model = torch.nn.Sequential(torch.nn.Linear(3, 2))
        data = (torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 2)
        torch.nn.init.constant_(model[0].weight, 0.5), torch.nn.init.zeros_(model[0].bias)
        options = {{"loss": "cross_entropy", "solver": "ekfac", "damping": 0.1, "progress": False}}
        for _ in range(2):
            wherefrom.Influence(model, data, run_dir={str(tmp_path / "run")!r}, **options).fit()
    """
    base = getattr(sys, "_base_executable", sys.executable)
    path = [entry for entry in sys.path if entry]
    made = subprocess.run(
        [base, "-c", f"import sys; sys.path[:0] = {path!r}\n{textwrap.dedent(code)}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert sysconfig.get_path("purelib") is not None
    assert (tmp_path / "run" / "kronecker").is_dir()
