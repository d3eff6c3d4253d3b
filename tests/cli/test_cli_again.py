"""A command run again finds what it computed and writes the same page; another model finds nothing."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.cli.audit_problem import TABLE, write
from tests.cli.test_cli_slices import GROUPS, VALIDATION
from wherefrom.cli.main import app
from wherefrom.interventions import Intervention
from wherefrom.studies.attack import study as attacks
from wherefrom.studies.flip import study as flips
from wherefrom.studies.labels import study as labels
from wherefrom.studies.slices import study as slices
from wherefrom.studies.spectra import study as spectra

TEXT = TABLE + GROUPS + VALIDATION


@pytest.fixture
def computed(monkeypatch):
    """What was computed, by name."""
    found: list[str] = []

    def count(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (found.append(name), original(*a, **k))[1])

    for module, name in (
        (slices, "group_influence"),
        (slices, "harmful_groups"),
        (spectra, "spectrum_report"),
        (attacks, "audit_poisoning"),
        (flips, "find_flips"),
        (labels, "label_signals"),
    ):
        count(module, name)
    predicted = Intervention.change
    monkeypatch.setattr(
        Intervention, "change", lambda *a, **k: (found.append("change"), predicted(*a, **k))[1]
    )
    return found


@pytest.mark.parametrize(
    ("command", "heavy", "option", "again"),
    [
        ("slices", ["group_influence", "harmful_groups"], ["--clusters", "4"], ["harmful_groups"]),
        ("spectrum", ["spectrum_report"], ["--starts", "3"], ["spectrum_report"]),
        ("attack", ["audit_poisoning"], ["--budget", "3"], ["audit_poisoning"]),
        ("flip --no-confirm", ["find_flips"], ["--max-share", "0.2"], ["find_flips"]),
        ("labels", ["label_signals"], ["--review", "5"], ["label_signals"]),
        ("change --remove 3", ["change"], ["--relabel", "5=above"], ["change"]),
    ],
)
def test_a_second_run_computes_nothing_and_writes_the_same(tmp_path, computed, command, heavy, option, again):
    name, *options = command.split()

    def run(text=TEXT, *more):
        result = CliRunner().invoke(
            app, [name, str(write(tmp_path, text)), "--out", str(tmp_path / "out"), *options, *more]
        )
        assert result.exit_code == 0, result.output
        files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
        summary = json.loads(files.pop(f"{name}.json"))
        return {**files, "summary": {**summary, "seconds": 0.0}}

    def new():
        made = list(computed)
        computed.clear()
        return made

    first = run()
    assert new() == heavy
    assert run() == first and new() == []
    run(TEXT, *option)
    assert new() == again
    other = TEXT + "\nwith torch.no_grad():\n    next(model.parameters()).mul_(1.01)\n"
    # An attack trains the head to its optimum, wherever the model stood.
    assert (run(other)["summary"] != first["summary"] or name == "attack") and new() == heavy
    relabelled = TEXT + "\ntrain = (train[0], train[1].clone())\ntrain[1][0] = 1 - train[1][0]\n"
    assert run(relabelled)["summary"] != first["summary"] and new() == heavy
    assert run() == first and new() == []
