"""The page on the last layer: its snippets run, and what it says of the cosine loss holds."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from wherefrom.curvature import choose_curvature
from wherefrom.gradients import GradientEngine

PAGE = Path(__file__).parents[2] / "docs" / "softmax-head.md"


def test_the_snippets_run_and_agree_with_the_text(capsys):
    made: dict[str, object] = {}
    with torch.random.fork_rng():
        for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
            exec(snippet, made)
    assert made["scores"].values.shape == (5, 300)
    assert len(made["split"]) == 300
    assert "Rank correlation" in capsys.readouterr().out
    # One loss, written in two ways: the gradients agree, the Gauss-Newton matrices differ in sign.
    batches = {name: made[name].examples.batch(range(300)) for name in ("indefinite", "same")}
    losses = [made[name].losses(made[name].parameters.values, batch) for name, batch in batches.items()]
    torch.testing.assert_close(*losses)
    smallest = []
    for name in batches:
        operator = choose_curvature(GradientEngine(made[name]), "ggn").operator
        columns = operator.matmat(torch.eye(operator.size, dtype=torch.float64))
        smallest.append(float(torch.linalg.eigvalsh(columns)[0]))
    assert smallest[0] < -1e-6 and smallest[1] > -1e-12
