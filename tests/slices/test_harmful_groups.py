"""Planted clusters of wrong labels come out on top; their predicted harm is checked by retraining."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.support import (
    Plain,
    as_a_user,
    cross_entropy,
    digits,
    half_square,
    seeded,
    small_mlp,
    softmax_regression,
)
from wherefrom import EKFAC, Influence
from wherefrom.errors import InputError
from wherefrom.studies.slices import harmful_groups, label_words, share_words
from wherefrom.studies.slices.clusters import HarmfulCluster

SOURCE, TARGET, PLANTED = 3, 1, 25


@functools.lru_cache
def planted() -> tuple[Plain, np.ndarray]:
    """Softmax regression on digits; 25 threes that look alike are labelled 1, and 12 random labels are
    wrong besides."""
    x, y = digits(400, classes=5)
    y = y.clone()
    threes = (y == SOURCE).nonzero()[:, 0]
    near = (x[threes] - x[threes[0]]).square().sum(1).argsort()[:PLANTED]
    chosen = threes[near]
    y[chosen] = TARGET
    draw = np.random.default_rng(0)
    others = np.setdiff1d(np.arange(400), chosen.numpy())
    noisy = torch.from_numpy(draw.choice(others, 12, replace=False))
    y[noisy] = (y[noisy] + torch.from_numpy(draw.integers(1, 5, 12))) % 5
    plain = Plain(seeded(lambda: nn.Linear(64, 5)), cross_entropy, (x, y), 0.01)
    return plain.trained(), chosen.numpy()


def validation():
    return digits(300, start=400, classes=5)


def fitted(plain: Plain, **options):
    options = {"loss": "cross_entropy", "weight_decay": float(plain.decay[0]), **options}
    return Influence(plain.model, (plain.x, plain.y), progress=False, **options).fit()


@functools.lru_cache
def found():
    plain, chosen = planted()
    return plain, chosen, harmful_groups(fitted(plain, damping=0.0), validation())


def test_the_planted_cluster_comes_out_on_top():
    _, chosen, groups = found()
    top = set(groups[0].members.tolist())
    shared = len(top & set(chosen.tolist()))
    assert shared >= 0.8 * len(top) and shared >= 0.9 * PLANTED
    assert groups[0].certain and groups[0] in groups.harmful
    assert next(iter(groups[0].labels)) == str(TARGET)
    assert next(iter(groups[0].harm_by_label)) == str(SOURCE)
    # Wrong labels at random hurt as much one by one: the ranking of single examples mixes them in.
    alone = np.argsort(-groups.harm)[:PLANTED]
    assert np.isin(alone, chosen).mean() < shared / len(top)


def test_every_example_is_in_one_cluster_and_clusters_are_in_order():
    plain, _, groups = found()
    assert sorted(i for cluster in groups for i in cluster.members.tolist()) == list(range(plain.n))
    harms = [cluster.harm for cluster in groups]
    assert harms == sorted(harms, reverse=True)
    assert (groups.assignment[groups[0].members] == 0).all()
    for cluster in groups:
        assert np.all(np.diff(groups.harm[cluster.members]) <= 0)
        assert cluster.harm == -cluster.change
        assert cluster.harm == pytest.approx(float(groups.harm[cluster.members].sum()), rel=1e-8)
        # From the training side, cluster by cluster and for every validation example.
        assert float(cluster.changes.mean()) == pytest.approx(cluster.change, rel=1e-7)
        assert cluster.standard_error == pytest.approx(cluster.changes.std(ddof=1) / math.sqrt(300))
    assert sum(cluster.share_of_harm for cluster in groups) == pytest.approx(1.0)


def test_retraining_without_the_cluster_lowers_the_validation_loss_about_as_predicted():
    plain, _, groups = found()
    cluster = groups[0]
    weights = torch.full((plain.n,), 1 / plain.n, dtype=torch.float64)
    weights[torch.from_numpy(cluster.members)] = 0
    theta = plain.minimise(weights)
    each = plain.losses(theta, validation()) - plain.losses(plain.theta, validation())
    assert float(each.mean()) < 0
    # A sixteenth of the training set, and the sharpest in it: first order gets the size to a factor of two.
    assert 0.5 < cluster.change / float(each.mean()) < 2
    assert np.corrcoef(each.numpy(), cluster.changes)[0, 1] > 0.9
    assert groups.measured == pytest.approx(float(plain.losses(plain.theta, validation()).mean()))
    hurt = cluster.hurts(20)
    assert len(hurt) == 20 and (each[hurt] < 0).all()


def test_so_many_clusters_as_asked_for():
    plain, _ = planted()
    groups = harmful_groups(fitted(plain), validation(), clusters=7)
    assert len(groups) == 7 and "and 2 clusters" in repr(groups)
    frame = groups.to_pandas()
    assert frame["rank"].tolist() == list(range(1, 8)) and frame["size"].sum() == plain.n


def test_a_margin_and_layers_apart():
    plain = small_mlp()
    model = fitted(plain, curvature="ggn", damping=0.05, solver=EKFAC("exact"))
    queries = digits(20, start=300, classes=3, pool=2)
    groups = harmful_groups(model, queries, measurement="margin", clusters=4)
    assert groups.higher_is_better and len(groups) == 4
    assert all(cluster.harm == cluster.change for cluster in groups)
    assert all(math.isinf(cluster.bound) and math.isfinite(cluster.error) for cluster in groups)
    top = groups[0]
    assert all(top.changes[i] > 0 for i in top.hurts())


def test_targets_that_are_no_classes_have_no_labels():
    x, y = digits(60, classes=3, pool=2)
    plain = Plain(seeded(lambda: nn.Linear(16, 1)), half_square, (x, 0.3 * y.double()[:, None]), 0.1)
    plain = plain.trained()
    model = fitted(plain, loss="squared_error")
    groups = harmful_groups(model, (x[:1], 0.2 * y[:1].double()[:, None]), clusters=3)
    assert groups[0].labels is None and groups[0].harm_by_label is None
    assert math.isinf(groups[0].standard_error) and not groups.harmful
    assert "unknown" in repr(groups)


@pytest.mark.parametrize("clusters", [1, 0, 61, 2.5, True, "many"])
def test_a_number_of_clusters_that_cannot_be(clusters):
    plain = softmax_regression(60, classes=3, decay=0.05)
    with as_a_user(), pytest.raises(InputError, match="expected 'auto' or a whole number from 2 to the 60"):
        harmful_groups(fitted(plain), (plain.x, plain.y), clusters=clusters)


def test_words_of_labels_and_shares():
    assert label_words({"8": 29, "3": 1}) == "8: 29, 3: 1" and label_words(None) == ""
    assert share_words({"1": 0.5, "2": 0.3, "3": 0.1, "4": 0.1}) == "1: 50 %, 2: 30 %, 3: 10 %, …"


def test_a_cluster_that_changes_nothing_hurts_nobody():
    none = HarmfulCluster(np.array([0]), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, np.zeros(3), None)
    assert none.hurts() == [] and not none.certain
