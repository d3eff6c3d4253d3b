"""Head-only against whole-network influence: the numbers of the comparison, and what it says."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from wherefrom import Influence
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.influence import FitOptions
from wherefrom.studies.geometry.head_share import compare_scores, head_against_network

N, Q = 40, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fitted(model: nn.Module, damping: float | str = 0.1, **options: object):
    data = (normal(N, 4), torch.arange(N) % 3)
    made = Influence(model.double(), data, loss="cross_entropy", damping=damping, progress=False, **options)
    return made.fit()


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


QUERIES = (normal(Q, 4, seed=1), torch.arange(Q) % 3)


def test_both_sets_of_scores_are_those_of_influence():
    model = network()
    whole = fitted(model)
    found = head_against_network(whole, QUERIES, k=4)
    head = fitted(model, parameters="2")
    torch.testing.assert_close(found.network.values, whole.scores(QUERIES).values)
    torch.testing.assert_close(found.head.values, head.scores(QUERIES).values)
    for q in range(Q):
        a, b = found.head.values[q].numpy(), found.network.values[q].numpy()
        assert float(found.rank_correlation[q]) == pytest.approx(spearmanr(a, b).statistic)
        shared = [
            len(
                set(sorted(range(N), key=lambda i: s * a[i])[:4])
                & set(sorted(range(N), key=lambda i: s * b[i])[:4])
            )
            for s in (1, -1)
        ]
        assert float(found.overlap[q]) == pytest.approx(sum(shared) / 8)
        assert float(found.relative_size[q]) == pytest.approx((a**2).sum() ** 0.5 / (b**2).sum() ** 0.5)
        assert float(found.same_sign[q]) == pytest.approx(((a > 0) == (b > 0)).mean())
    assert "Rank correlation" in found.words and found.words in repr(found)


def test_a_network_against_itself_agrees_in_everything():
    scores = fitted(network()).scores(QUERIES)
    found = compare_scores(scores, scores, k=3)
    ones = torch.ones(Q, dtype=torch.float64)
    for values in (found.rank_correlation, found.overlap, found.relative_size, found.same_sign):
        torch.testing.assert_close(values, ones)
    assert "ranks the training examples as the network does" in found.words


def test_opposite_rankings_are_said_to_be_no_stand_in():
    from dataclasses import replace

    scores = fitted(network()).scores(QUERIES)
    found = compare_scores(replace(scores, values=-scores.values), scores, k=3)
    torch.testing.assert_close(found.rank_correlation, -torch.ones(Q, dtype=torch.float64))
    assert "attribute the whole network" in found.words


def test_the_heads_options_can_be_given_and_default_to_the_networks_damping():
    whole = fitted(network())
    assert head_against_network(whole, QUERIES).head.settings["damping"] == 0.1
    options = FitOptions(damping=0.7, progress=False)
    assert head_against_network(whole, QUERIES, options=options).head.settings["damping"] == 0.7
    layers = fitted(network(), damping="auto", solver="ekfac")
    assert head_against_network(layers, QUERIES).head.settings["damping_reason"] != "as given"


def test_refusals():
    whole = fitted(network())
    for k in (0, N + 1):
        with pytest.raises(InputError, match=f"k={k}: expected 1 … {N}"):
            head_against_network(whole, QUERIES, k=k)
    with pytest.raises(InputError, match="studies the head only"):
        head_against_network(fitted(network(), parameters="2"), QUERIES)
    with pytest.raises(UnsupportedError, match="does not end in a linear layer"):
        head_against_network(fitted(network().append(nn.Tanh())), QUERIES)
    scores = whole.scores(QUERIES)
    with pytest.raises(InputError, match="expected the same queries"):
        compare_scores(whole.scores((QUERIES[0][:2], QUERIES[1][:2])), scores)
    with pytest.raises(InputError, match="k=0"):
        compare_scores(scores, scores, k=0)
