"""Data that wants to steer the terminal, the spreadsheet or the browser: every command shows it and obeys
nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import warnings
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

import wherefrom
from tests.cli.audit_problem import TABLE, write
from wherefrom.cli.console import PlainConsole, print_traceback_safely, warnings_shown_safely
from wherefrom.cli.main import app
from wherefrom.plain_text import no_formula, visible
from wherefrom.report.files import write_table

FORGED = "✓ forged"
CLASSES = [
    "=1+1\x1b[2J\x9b31m<img src=x onerror=alert(1)>",
    f"[bold red]b[/]\u202e漢字\n{FORGED}\x07</title><script>alert(1)</script>",
]
GROUPS = [f"@SUM(1)\x1b]0;owned\x07\n{FORGED}", "-2+3\t<script>alert(2)</script>ملف\u2066", "[link=x]three\r"]
TEXT = "+cmd|' /C calc'!A0 \x1b[31m[blink]<script>alert(3)</script>\u202e{}\n" + FORGED
HOSTILE = f"""
name = {"Model " + CLASSES[1]!r}
class_names = {CLASSES!r}
facts = [({GROUPS[0]!r}, {CLASSES[0]!r})]
train_groups = [{GROUPS!r}[i % 3] for i in range(40)]
query_groups = [{GROUPS!r}[i % 2] for i in range(20)]
validation = (x[40:], y[40:])
attack = {{"low": -9.0, "high": 9.0, "steps": 3}}

def describe_train(i):
    return {{"title": {GROUPS[0]!r}, "text": {TEXT!r}, {GROUPS[1]!r}: {CLASSES[0]!r}}}

def describe_query(i):
    return {{"title": {GROUPS[1]!r}, "rows": [({CLASSES[0]!r}, {TEXT!r})]}}
"""
COMMANDS = {
    "audit": ["--remove", "2", "--queries", "2", "--top", "2", "--shape"],
    "change": ["--remove", "1-4", "--relabel", "6=1", "--grow", "1,3", "--queries", "3"],
    "flip": ["--queries", "4"],
    "labels": ["--top", "4"],
    "slices": [],
    "geometry": [],
    "attack": ["--budget", "20", "--edits", "1,4", "--queries", "4"],
    "spectrum": [],
}
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?")


def check_terminal(text: str) -> None:
    assert not CONTROL.search(text), CONTROL.search(text)
    # Inside a table a cell may wrap; a line of its own is what a verdict of Wherefrom has.
    assert not [line for line in text.splitlines() if line.strip().startswith(FORGED)]


@pytest.fixture(scope="module", params=COMMANDS)
def ran(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    file = write(folder, TABLE + HOSTILE)
    runner = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    arguments = [request.param, str(file), "--out", str(folder / "out"), *COMMANDS[request.param]]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output, folder / "out"


def test_nothing_steers_the_terminal(ran):
    output, _ = ran
    check_terminal(output)
    assert "[bold red]b[/]\\u202e" in output


def test_no_table_runs_a_formula(ran):
    _, out = ran
    for file in out.rglob("*.csv"):
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
        assert len({len(row) for row in rows}) == 1, file
        for cell in (cell for row in rows for cell in row):
            assert NUMBER.fullmatch(cell) or not re.match(r"\s*[=+\-@]|[\t\r\n]", cell), (file, cell)


def test_no_page_runs_a_script(ran):
    _, out = ran
    pages = list(out.rglob("*.html"))
    assert pages
    for file in pages:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<script|<img src=x|<[^>]*\sonerror=", text)
        assert not CONTROL.search(text.replace("\t", ""))
        assert "Content-Security-Policy" in text and "default-src 'none'" in text


def test_json_is_exact(ran):
    _, out = ran
    texts = [file.read_text() for file in out.glob("*.json")]
    assert texts and all(json.loads(text) for text in texts)
    assert json.dumps("Model " + CLASSES[1])[1:-1] in " ".join(texts)


def test_errors_that_quote_data_are_plain(tmp_path, capsys, monkeypatch):
    file = write(tmp_path, f"raise ValueError({CLASSES[1]!r})")
    for command in COMMANDS:
        result = CliRunner().invoke(app, [command, str(file), "--out", str(tmp_path / "out")])
        assert result.exit_code == 2 and "[bold red]b[/]" in result.output
        assert not CONTROL.search(result.output)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    print_traceback_safely()
    try:
        raise ValueError(CLASSES[1])
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    with warnings_shown_safely(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning(UserWarning(CLASSES[0]), UserWarning, "file.py", 1)
    said = capsys.readouterr().err
    assert "Traceback" in said and "=1+1\\x1b[2J" in said and not CONTROL.search(said)


def test_a_console_keeps_its_own_colours_and_widths():
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=True, color_system="standard", width=60)
    table = Table(CLASSES[0])
    table.add_row(Text.assemble(("a\x1b[2Jb", "red"), "plain \u202e漢字"))
    table.add_row(CLASSES[1])
    console.print(table)
    console.print("[red]text[/red] \x1b[2J", Text("ends\x07", style="bold"))
    shown = stream.getvalue()
    assert "\x1b[31ma\\x1b[2Jb\x1b[0mplain \\u202e漢字" in shown and "[red]text[/red] \\x1b[2J" in shown
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == visible(re.sub(r"\x1b\[[\d;]*m", "", shown))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("-1", True),
        ("+3.5e-2", True),
        ("-.5", True),
        ("plain = text", True),
        ("", True),
        ("−1", True),
        ("=1", False),
        (" \t=1", False),
        ("-1+1", False),
        ("+", False),
        ("@a", False),
        ("\ta", False),
        ("\ra", False),
        ("＝1", False),
        ("\x00=1", False),
    ],
)
def test_formulas_get_an_apostrophe_and_numbers_do_not(text, kept):
    assert no_formula(text) == (text if kept else f"'{text}")


def test_tables_come_back_as_they_were(tmp_path):
    rows = [
        ["a;b", 'quo"ted', "two\nlines", -1.5],
        ["ünï\ud800", float("inf"), None, True],
        ["c,d", "", 0, "-1"],
    ]
    write_table(tmp_path / "t.csv", ["=x", "y", "z", "w"], rows)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as stream:
        found = list(csv.reader(stream))
    assert found == [
        ["'=x", "y", "z", "w"],
        ["a;b", 'quo"ted', "two\nlines", "-1.5"],
        ["ünï\\ud800", "", "", "True"],
        ["c,d", "", "0", "-1"],
    ]
    # Quoted also where a semicolon separates cells and a comma is a decimal point.
    assert '"a;b"' in (tmp_path / "t.csv").read_text(encoding="utf-8")


def test_everything_goes_through_the_one_console_and_the_one_table_writer():
    package = Path(wherefrom.__file__).parent
    for file in package.rglob("*.py"):
        text = file.read_text()
        name = file.relative_to(package).as_posix()
        if name.startswith("cli/"):
            assert not re.search(
                r"(?<!Plain)Console\((?!Console\))|typer\.echo\(f?.*error|\bprint\(", _code(text)
            ), name
        assert "to_csv" not in text and "csv.writer" not in text, name
        if name not in ("store/files.py", "studies/geometry/monitor_file.py"):
            assert not re.search(r"\.write_(text|bytes)\(|open\([^)]*[\"'][wax]b?[\"']", text), name


def _code(text: str) -> str:
    """Without the lines that define the console itself, or call its `print`."""
    return re.sub(
        r"class PlainConsole\(Console\):|console\.print\(|PlainConsole\(stderr=True\)\.print\(", "", text
    )
