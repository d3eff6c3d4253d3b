"""Models with many outputs an example: tokens of a vocabulary under a named loss and under one of the user's
own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wherefrom
from wherefrom.errors import OutOfMemoryError
from wherefrom.gradients.projections import Rademacher
from wherefrom.solvers import Projected

VOCABULARY, TOKENS, N = 150, 10, 16


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embed(tokens).cumsum(1))))


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def fit(loss="cross_entropy", **options) -> tuple[wherefrom.Influence, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = Tokens().eval()
    tokens = torch.randint(0, VOCABULARY, (N, TOKENS + 1))
    data = (tokens[:, :-1], tokens[:, 1:])
    if loss == "own":
        loss = wherefrom.losses.CustomLoss(own_loss, convex=True)
    options = {"damping": 0.01, "curvature": "ggn", "memory": "10MB", "progress": False, **options}
    made = wherefrom.Influence(model, data, loss=loss, **options).fit()
    return made, (data[0][:3], data[1][:3])


@pytest.mark.parametrize(("parameters", "solver"), [("mix*", "exact"), (None, "cg")])
def test_a_loss_of_the_users_own_needs_no_roots(parameters, solver):
    named, queries = fit(parameters=parameters, solver=solver)
    own, _ = fit("own", parameters=parameters)
    assert own.settings()["solver"] == solver  # by choice
    expected = named.scores(queries).values
    assert (own.scores(queries).values - expected).norm() <= 1e-3 * expected.norm()


def test_where_its_root_does_not_fit_ekfac_refuses_it_by_name():
    with pytest.raises(OutOfMemoryError, match=r"loss 'own_loss': all 1,500 outputs .*solver=CG\(\)"):
        fit("own", solver="ekfac")


def test_drawn_labels_are_said_and_their_error_is_part_of_the_distance():
    drawn, queries = fit(solver="ekfac", parameters="mix*")
    labels = drawn.settings()["solver_notes"]["labels"]
    assert "drawn from the model, 1 an example (1,490 gradients exactly" in labels
    scores = drawn.scores(queries)
    exact = fit(solver="exact", parameters="mix*")[0].scores(queries).values
    off = float((scores.values - exact).norm() / exact.norm())
    assert off / 3 <= scores.distance <= 3 * off


def test_leaving_one_out_in_closed_form_is_refused_where_outputs_are_too_many():
    influence, queries = fit(solver="exact", parameters="mix*")
    with pytest.raises(OutOfMemoryError, match=r"each of its outputs, and it has 1,500.*remove\(\[i\]\)"):
        influence.leave_one_out(queries)


def test_datainf_refuses_what_it_needs_at_once():
    influence, queries = fit(solver="datainf", parameters="mix*")
    with pytest.raises(OutOfMemoryError, match=r"one example has 1,490 gradients.*empirical_fisher"):
        influence.scores(queries)


@pytest.mark.slow
def test_a_projection_that_cannot_hold_all_roots_takes_products():
    projection = Rademacher(200)
    small = fit(solver=Projected(projection), parameters="mix*", memory="1MB")[0]
    large, queries = fit(solver=Projected(projection), parameters="mix*", memory="1GB")
    expected = large.scores(queries).values
    assert (small.scores(queries).values - expected).norm() <= 1e-3 * expected.norm()
