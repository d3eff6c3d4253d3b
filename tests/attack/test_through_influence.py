"""What `Influence` hands down: inputs, tokens, attacks, with a run directory and in single precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.attack.attack_problems import OPTIONS, data, frozen_network, recipe
from wherefrom import FullBatch, Influence
from wherefrom.influence import input_influence
from wherefrom.studies.attack import Budget

BUDGET = Budget(0.25, low=0.0, high=1.0)


def right() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data(30, start=100)
    with torch.no_grad():
        kept = frozen_network()(x).argmax(1) == y
    return x[kept][:6], y[kept][:6]


def test_finished_retrainings_are_kept(tmp_path):
    influence = Influence(frozen_network(), data(60), run_dir=tmp_path, progress=False, **OPTIONS).fit()
    options = {"budget": BUDGET, "edits": 3, "steps": 2, "controls": data(10, start=300)}
    first = influence.attack(right(), recipe=recipe(), **options)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("retrained/*")}
    assert len(kept) == 2
    again = influence.attack(right(), recipe=recipe(), **options)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("retrained/*")} == kept
    assert again.after.tolist() == first.after.tolist() and again.controls == first.controls


def test_inputs_and_tokens():
    influence = Influence(frozen_network(), data(60), progress=False, **OPTIONS).fit()
    found = influence.input_influence(right(), examples=[4])
    torch.testing.assert_close(found.values, input_influence(influence, right(), examples=[4]).values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(6, 2)).double()
        words = torch.randint(6, (20, 2)), torch.randint(2, (20,))
    sentences = Influence(model, words, loss="cross_entropy", curvature="ggn", damping=0.1, progress=False)
    assert len(sentences.fit().token_replacements(2, words, embedding="0", top=3, rescore=5)) == 3


@pytest.mark.slow
def test_a_convolutional_network_in_single_precision():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
        ).eval()
    model[:4].requires_grad_(False)
    x, y = data(60)
    train = x.float(), y
    trained = FullBatch(model, **OPTIONS)((x, y), 0).eval()
    fitted = Influence(trained, (x, y), progress=False, **OPTIONS).fit()
    influence = Influence(copy.deepcopy(trained).float(), train, progress=False, **OPTIONS).fit()
    queries = tuple(part[:12] for part in data(40, start=100))
    single = influence.poisoning((queries[0].float(), queries[1]), budget=BUDGET, edits=(1, 4), steps=5)
    double = fitted.poisoning(queries, budget=BUDGET, edits=(1, 4), steps=5)
    assert not single.not_converged and single.attacked == double.attacked
    assert [e.flipped for e in single.queries] == [e.flipped for e in double.queries]


@pytest.mark.parametrize("classes", [None, "soft"])
def test_soft_targets_have_no_correct_class(classes):
    x, y = data(60)
    targets = torch.nn.functional.one_hot(y, 3).double()
    targets = 0.9 * targets + 0.1 / 3 if classes == "soft" else targets
    influence = Influence(frozen_network(), (x, targets), progress=False, **OPTIONS).fit()
    queries = tuple(part[:4] for part in (data(30, start=100)[0], targets))
    found = influence.attack(queries, budget=BUDGET, edits=2, steps=2)
    assert found.queries.tolist() == [0, 1, 2, 3] and found.already_wrong == []
