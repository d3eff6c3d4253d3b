"""Scores know what they are of: those of other queries, another measurement or another fit are not taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wherefrom
from tests.problems import labels, normal
from wherefrom.errors import InputError

TRAIN = (normal(20, 4), labels(20))
QUERIES, OTHERS = ((normal(3, 4, seed=s), labels(3, seed=s)) for s in (5, 6))
RECIPE_OPTIONS = {"loss": "cross_entropy", "weight_decay": 0.1}


def fit(**options):
    torch.manual_seed(0)
    made = {"train": TRAIN, "weight_decay": 0.1, "bias": 0.0, **options}
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        model.bias.fill_(made.pop("bias"))
    return wherefrom.Influence(model, made.pop("train"), loss="cross_entropy", progress=False, **made).fit()


def recipe():
    return wherefrom.FullBatch(nn.Linear(4, 3).double(), **RECIPE_OPTIONS)


def verify(influence, queries, **options):
    return influence.verify(queries, recipe(), remove=2, **options)


OTHER_FITS = {
    "other data": {"train": (normal(20, 4, seed=9), labels(20))},
    "another label": {"train": (TRAIN[0], (TRAIN[1] + (torch.arange(20) == 4)) % 3)},
    "other parameters": {"bias": 0.5},
    "another weight decay": {"weight_decay": 0.2},
}


def test_scores_of_these_queries_are_taken_also_from_a_file_and_another_fit_of_the_same(tmp_path):
    influence = fit()
    scores = influence.scores(QUERIES)
    wherefrom.save_scores(scores, tmp_path / "scores")
    again = fit(solver="cg")
    for one in (scores, wherefrom.load_scores(tmp_path / "scores"), again.scores(QUERIES)):
        verify(influence, QUERIES, scores=one)
        influence.report(tmp_path / "page.html", QUERIES, one, self_scores=again.self_scores())
        influence.labels(self_scores=again.self_scores())


def test_scores_of_other_queries_are_refused(tmp_path):
    influence = fit()
    swapped = tuple(column.flip(0) for column in QUERIES)
    for queries in (OTHERS, swapped):
        scores = influence.scores(queries)
        with pytest.raises(InputError, match="scores are of other queries than those given"):
            verify(influence, QUERIES, scores=scores)
        with pytest.raises(InputError, match="scores are of other queries than those given"):
            influence.report(tmp_path / "page.html", QUERIES, scores)
    check = verify(influence, OTHERS)
    with pytest.raises(InputError, match="verification are of other queries"):
        influence.report(tmp_path / "page.html", QUERIES, influence.scores(QUERIES), verification=check)


@pytest.mark.parametrize("other", OTHER_FITS)
def test_scores_of_another_fit_are_refused(other, tmp_path):
    influence, another = fit(), fit(**OTHER_FITS[other])
    with pytest.raises(InputError, match="scores are of another fit"):
        verify(influence, QUERIES, scores=another.scores(QUERIES))
    with pytest.raises(InputError, match="scores are of another fit"):
        influence.report(tmp_path / "page.html", QUERIES, another.scores(QUERIES))
    with pytest.raises(InputError, match="self_scores are of another fit"):
        influence.labels(self_scores=another.self_scores())
    with pytest.raises(InputError, match="self_scores are of another fit"):
        influence.report(
            tmp_path / "page.html", QUERIES, influence.scores(QUERIES), self_scores=another.self_scores()
        )


def test_scores_of_another_measurement_are_refused(tmp_path):
    influence = fit()

    def loss(outputs, targets):
        return outputs.square().sum(1)

    named_like_the_loss = influence.scores(QUERIES, loss)
    assert named_like_the_loss.measurement == "loss"
    with pytest.raises(InputError, match="scores are of another measurement"):
        verify(influence, QUERIES, scores=named_like_the_loss)
    with pytest.raises(InputError, match="another measurement"):
        influence.report(
            tmp_path / "page.html",
            QUERIES,
            influence.scores(QUERIES),
            verification=verify(influence, QUERIES, measurement=loss),
        )
    given = verify(influence, QUERIES, scores=named_like_the_loss, measurement=loss)
    fresh = verify(influence, QUERIES, measurement=loss)
    torch.testing.assert_close(torch.tensor(given.predicted), torch.tensor(fresh.predicted))
