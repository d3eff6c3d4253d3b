"""Budgets in bytes, allocation failures that name the setting, and bars that stay out of logs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wherefrom.errors import InputError, OutOfMemoryError, WherefromError
from wherefrom.influence.choice import say_choice
from wherefrom.memory import available_memory, memory_budget, memory_errors
from wherefrom.progress import progress_bar, progress_display, say
from wherefrom.solvers import CG, EKFAC

CPU = torch.device("cpu")
UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


@given(
    number=st.integers(1, 10**6) | st.decimals(1, 1000, places=2),
    unit=st.sampled_from(sorted(UNITS)),
    suffix=st.sampled_from(["", "B", "b"]),
    space=st.sampled_from(["", " "]),
)
def test_sizes_as_people_write_them(number, unit, suffix, space):
    found = memory_budget(f"{number}{space}{unit}{suffix}", CPU)
    assert math.isclose(found, float(number) * UNITS[unit], rel_tol=1e-12, abs_tol=1)


def test_numbers_are_bytes():
    assert memory_budget(2048, CPU) == 2048
    assert memory_budget(1e9, CPU) == 10**9


def test_auto_leaves_room():
    assert 0 < memory_budget("auto", CPU) <= min(available_memory(CPU), 4 * 2**30)


@pytest.mark.parametrize("bad", ["much", "2..3GB", "GB", "-1GB", "", "0", 0, -5, 0.5, math.nan, math.inf])
def test_what_is_no_size_is_refused(bad):
    with pytest.raises(InputError, match=r"memory="):
        memory_budget(bad, CPU)


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError("Unable to allocate 9 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    ],
)
def test_allocation_failures_name_stage_and_remedy(failure):
    with (
        pytest.raises(OutOfMemoryError, match=r"out of memory while solving\. Lower memory=") as caught,
        memory_errors("solving", "Lower memory=."),
    ):
        raise failure
    assert isinstance(caught.value, (WherefromError, MemoryError))
    assert caught.value.__cause__ is failure


def test_a_real_allocation_failure_is_recognised():
    with pytest.raises(OutOfMemoryError, match=r"while testing"), memory_errors("testing", "Use less."):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_and_errors_already_translated_pass():
    with pytest.raises(RuntimeError, match=r"shapes"), memory_errors("a", "b"):
        raise RuntimeError("shapes do not match")
    with (
        pytest.raises(OutOfMemoryError, match=r"^out of memory while inner"),
        memory_errors("outer", "b"),
        memory_errors("inner", "c"),
    ):
        raise MemoryError


@pytest.mark.parametrize("total", [3, None])
def test_bars_are_silent_when_standard_error_is_no_terminal(capsys, total):
    with progress_bar("fitting", total) as bar:
        bar.advance()
        bar.advance(2)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(("enabled", "shown"), [(True, True), (False, False)])
def test_bars_show_on_a_terminal_unless_disabled(capsys, monkeypatch, enabled, shown):
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has no bars
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bar("fitting", 2, enabled=enabled) as bar:
        bar.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("fitting" in captured.err) == shown


@pytest.mark.parametrize(("terminal", "enabled"), [(True, True), (True, False), (False, True)])
def test_lines_are_said_where_bars_would_show(capsys, monkeypatch, terminal, enabled):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    say("solver [exact]: p = 5", enabled=enabled)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ("solver [exact]: p = 5" if terminal and enabled else "")


def test_an_automatic_choice_is_said_before_the_work_and_one_that_was_asked_for_is_not(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    say_choice("auto", EKFAC(), "p = 5 is too large", enabled=True)
    say_choice("cg", CG(), "as asked", enabled=True)
    say_choice(CG(), CG(), "as given", enabled=True)
    assert capsys.readouterr().err.strip() == "solver ekfac: p = 5 is too large"


def test_a_bar_inside_a_bar_shares_its_display_and_its_silence(capsys):
    with (
        progress_display(enabled=False) as outer,
        progress_bar("outside", 2),
        progress_bar("inside", 5) as bar,
    ):
        bar.advance(5)
        assert outer.disable and len(outer.tasks) == 2
    assert not outer.tasks
    assert capsys.readouterr().err == ""
