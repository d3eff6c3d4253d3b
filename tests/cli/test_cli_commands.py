"""The commands as a newcomer meets them: version, help, and 80 columns."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import wherefrom
from wherefrom.cli.main import app
from wherefrom.report.files import slug
from wherefrom.report.images import block_picture as picture


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip() == f"wherefrom {wherefrom.__version__}"


COMMANDS = ("audit", "labels", "slices", "flip", "change", "attack", "spectrum", "geometry", "run", "demo")


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_fits_80_columns(arguments):
    result = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(app, arguments)
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("slices", "With a validation set it also finds clusters of training examples that hurt it"),
        ("run", "--help after the file shows its options."),
    ],
)
def test_paragraphs_of_help_break_only_where_the_line_is_full(command, line):
    runner = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    shown = [text.strip() for text in runner.invoke(app, [command, "--help"]).output.splitlines()]
    assert line in shown


def test_a_missing_argument_is_a_usage_error():
    assert CliRunner().invoke(app, ["audit"]).exit_code == 2
    assert CliRunner().invoke(app, ["no-such-command"]).exit_code == 2


@pytest.mark.slow
def test_the_package_runs_as_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "wherefrom", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == f"wherefrom {wherefrom.__version__}"


def test_pictures_in_block_characters():
    assert str(picture(np.array([[0.0, 1.0], [0.5, 0.25]]))) == "  ██\n▒▒░░"
    lines = str(picture(np.ones((3, 48, 30)))).splitlines()
    assert len(lines) == 12 and {len(line) for line in lines} == {14}


def test_folder_names():
    assert [slug(name) for name in ("MLP, 64-32-10 tanh", "../..", "Ünï")] == [
        "mlp-64-32-10-tanh",
        "model",
        "n",
    ]
