"""`wherefrom geometry`, from a task file to the terminal, the files and the page; and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from tests.cli.audit_problem import TABLE, TEXT, csv_rows, run, write
from wherefrom.api import Influence
from wherefrom.cli.task_file import load_task
from wherefrom.errors import InputError
from wherefrom.studies.geometry.study import Geometry
from wherefrom.studies.runner import run_study

# Gradients do not need a minimum: the network stays as it was initialised.
MLP = TABLE.replace(
    "model = recipe(train, 0).eval()",
    "model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()",
)
SHARED = (
    MLP + "\nmodel = nn.Sequential(*[l := nn.Linear(3, 3), nn.Tanh(), l, nn.Linear(3, 2)]).double().eval()\n"
)
REGRESSION = (
    TABLE.replace("cross_entropy", "squared_error")
    .replace("y = (x @", "y = (x.clone() @")
    .replace("> 0).long()", "* 1.0)[:, None]")
    .replace("nn.Linear(3, 2)", "nn.Linear(3, 1)")
    .replace('class_names = ["below", "above"]', "")
)
TOKENS = """
import torch
from torch import nn

x = torch.arange(24).reshape(12, 2) % 5
y = torch.arange(12) % 2
train = queries = (x, y)
loss = "cross_entropy"
model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double().eval()
"""


def invoke(*arguments: object, columns: int = 80, code: int = 0) -> str:
    result = run("geometry", *arguments, columns=columns)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geometry")
    said = invoke(write(folder, MLP), "--out", folder / "out", "--top", 4)
    return folder, said


def test_the_terminal_says_what_was_found_in_80_columns(found):
    folder, said = found
    assert max(len(line) for line in said.splitlines() if str(folder) not in line) <= 80
    for expected in ("my task", "On each of the 40", "tightness", "‖W‖₂", "Steepest", "Geometric complexity"):
        assert expected in " ".join(said.split()), expected


def test_the_files_hold_what_autograd_says(found):
    folder, _ = found
    task = load_task(folder / "my_task.py")
    table = csv_rows(folder / "out" / "geometry_examples.csv")
    assert len(table) == 40
    norms = [float(row["input_norm"]) for row in table]
    assert norms == sorted(norms, reverse=True)
    x, y = task.train
    for row in (table[0], table[7], table[-1]):
        i = int(row["train"])
        task.model.zero_grad()
        point = x[i].clone().requires_grad_()
        scores = task.model(point)
        (scores[y[i]] - scores[1 - y[i]]).backward()  # log-odds of the true one of two classes
        assert float(row["input_norm"]) == pytest.approx(float(point.grad.norm()))
        squared = sum(float(p.grad.square().sum()) for p in task.model.parameters())
        assert float(row["parameter_norm"]) == pytest.approx(squared**0.5)
        assert float(row["right"]) == pytest.approx(squared) and float(row["left"]) <= squared
        assert row["label"] == task.class_names[int(y[i])]
        assert row["predicted"] == task.class_names[int(scores.argmax())]
    layers = csv_rows(folder / "out" / "geometry_layers.csv")
    assert [row["name"] for row in layers] == ["0", "2"]
    for row, module in zip(layers, (task.model[0], task.model[2])):
        assert float(row["weight_norm"]) == pytest.approx(
            float(torch.linalg.matrix_norm(module.weight.detach(), 2))
        )
    assert float(layers[0]["jacobian_norm"]) == pytest.approx(1.0)
    summary = json.loads((folder / "out" / "geometry.json").read_text())
    assert summary["steepest"] == [int(row["train"]) for row in table[:4]]
    assert summary["bound"]["violations"] == 0 and summary["outside_the_theorem"] is None
    assert summary["scalar"] == "margin" and summary["n"] == summary["looked_at"] == 40
    jacobians = torch.func.vmap(torch.func.jacrev(task.model))(x).detach()
    assert summary["geometric_complexity"]["value"] == pytest.approx(float(jacobians.square().sum() / len(x)))


def test_the_page_stands_alone(found):
    html = (found[0] / "out" / "geometry.html").read_text(encoding="utf-8")
    assert "How steep is this model, and where?" in html and "Every layer&#39;s part in the bound" in html
    assert "http" not in html.replace("http-equiv", "") and "<script" not in html


def test_shared_weights_are_outside_and_said_so(tmp_path):
    said = " ".join(invoke(write(tmp_path, SHARED), "--out", tmp_path / "out").split())
    assert "Not every layer is covered." in said and "shared" in said
    summary = json.loads((tmp_path / "out" / "geometry.json").read_text())
    assert "shared" in summary["outside_the_theorem"] and summary["bound"]["violations"] == 0
    html = (tmp_path / "out" / "geometry.html").read_text(encoding="utf-8")
    assert "Not every layer is covered." in html and "Steepest in the input" in html


def test_other_scalars_fewer_examples_and_probes(tmp_path):
    file = write(tmp_path, MLP)
    for scalar, words in (("loss", "f is the loss"), ("1", "f is output 1"), ("logit", "true class")):
        said = invoke(file, "--out", tmp_path / "out", "--scalar", scalar, "--examples", 10, "--probes", 3)
        assert words in " ".join(said.split())
        summary = json.loads((tmp_path / "out" / "geometry.json").read_text())
        assert summary["looked_at"] == 10 and summary["n"] == 40
        assert summary["geometric_complexity"]["standard_error"] > 0
    assert "(of 40, spread evenly)" in " ".join(said.split())


def test_a_regression_takes_the_loss(tmp_path):
    said = invoke(write(tmp_path, REGRESSION), "--out", tmp_path / "out", "--examples", 0)
    assert "f is the loss" in " ".join(said.split()) and "40 training examples looked at" in said


def test_texts_as_cards(tmp_path):
    invoke(write(tmp_path, TEXT), "--out", tmp_path / "out", "--top", 8, "--scalar", "loss")
    assert (tmp_path / "out" / "geometry.html").read_text(encoding="utf-8").count("<blockquote") == 8


def test_a_linear_margin_ranks_nothing(tmp_path):
    ran = invoke(write(tmp_path, TABLE), "--out", tmp_path / "out")
    assert "Nothing to rank: all 40 examples have the same gradient" in " ".join(ran.split())
    found = json.loads((tmp_path / "out" / "geometry.json").read_text())
    assert found["steepest"] == [] and "Nothing to rank" in found["nothing_to_rank"]
    assert found["trust"]["minimum"] == "not checked"
    page = (tmp_path / "out" / "geometry.html").read_text(encoding="utf-8")
    assert "Nothing to rank: all 40" in page and "look here first" not in page


@pytest.mark.parametrize(
    "text, options, message",
    [
        (TOKENS, (), "tokens"),
        (REGRESSION, ("--scalar", "margin"), "margin"),
        (MLP, ("--scalar", "slope"), "slope"),
        (MLP, ("--scalar", "7"), "scalar=7"),
        (MLP, ("--examples", "-1"), "examples=-1"),
        (MLP, ("--probes", "1"), "probes=1"),
        (MLP, ("--top", "0"), "top=0"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, text, options, message):
    said = invoke(write(tmp_path, text), "--out", tmp_path / "out", *options, columns=400, code=2)
    assert message in said
    assert not (tmp_path / "out" / "geometry.json").exists()


def test_options_are_checked():
    with pytest.raises(InputError, match="probes=1"):
        Geometry(probes=1)


def test_from_python(tmp_path):
    task = load_task(write(tmp_path, MLP))
    stages: list[str] = []
    (answer,) = run_study(Geometry(top=2), task, tmp_path / "out", say=stages.append)
    result = answer.result
    assert len(stages) == 5
    # An influence that is not fitted is enough, and gives the same.
    again = Geometry(top=2).run(Influence(task.model, task.train, loss=task.loss, progress=False), task)
    assert again.summary() == result.summary() and again.tables().keys() == result.tables().keys()
