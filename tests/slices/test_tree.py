"""Trees of clusters: cut against scipy's, pruned against trying every way."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from wherefrom.studies.slices.tree import Tree, build_tree, cut, prune


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    return len(set(zip(a, b))) == len(set(a)) == len(set(b))


@given(st.integers(2, 25), st.integers(1, 30), st.integers(0, 5))
def test_cuts_are_those_of_scipy(n, clusters, seed):
    rows = np.random.default_rng(seed).normal(size=(n, 3))
    found = cut(build_tree(rows), clusters)
    expected = fcluster(linkage(rows, "ward"), min(clusters, n), "maxclust")
    assert same_parts(found, expected)


def every_cut(tree: Tree, node: int) -> list[list[int]]:
    """All sets of nodes that part what lies below this one."""
    if node < tree.leaves:
        return [[node]]
    a, b = tree.merges[node - tree.leaves].tolist()
    both = itertools.product(every_cut(tree, a), every_cut(tree, b))
    return [[node], *([*left, *right] for left, right in both)]


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 99))
def test_pruning_finds_the_best_of_all_cuts(n, least, price, seed):
    draw = np.random.default_rng(seed)
    tree = build_tree(draw.normal(size=(n, 2)), most=6, means=6, seed=seed)
    values = draw.normal(size=n)

    def cost(labels: np.ndarray) -> float:
        parts = [values[labels == number] for number in np.unique(labels)]
        if min(map(len, parts)) < min(least, n):
            return np.inf
        within = sum(np.square(part - part.mean()).sum() for part in parts)
        return within + len(parts) * price * values.var() * np.log(max(n, 2))

    best = min(cost(tree.labels(nodes)) for nodes in every_cut(tree, 2 * tree.leaves - 2))
    np.testing.assert_allclose(cost(prune(tree, values, least=least, price=price)), best, atol=1e-12)


def test_many_rows_share_leaves_and_keep_apart_what_is_apart():
    draw = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 200)
    rows = draw.normal(size=(600, 4)) + 30 * np.eye(4)[truth]
    tree = build_tree(rows, most=40, means=40)
    assert tree.leaves <= 40 and len(tree.leaf) == 600
    assert same_parts(cut(tree, 3), truth)
    assert same_parts(prune(tree, 1.0 * truth, least=5), truth)


def test_values_that_do_not_differ_make_one_cluster_and_so_does_one_row():
    rows = np.random.default_rng(0).normal(size=(12, 2))
    assert set(prune(build_tree(rows), np.ones(12), least=2)) == {0}
    assert prune(build_tree(rows[:1]), np.ones(1), least=5).tolist() == [0]
