"""A tree of clusters, and where to cut it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Up to so many rows the tree is built on them, which takes memory for every pair; beyond it on so many
# averages of near neighbours.
MOST_ROWS = 4000
MOST_MEANS = 2000
# Price of one more cluster, in variances times log n. Chosen, as the signed square root, on planted clusters
# (docs/slices.md).
PRICE = 4.0


@dataclass(frozen=True)
class Tree:
    """Rows, merged two by two.

    Attributes:
        leaf: of each row, `(n,)`: one leaf may hold several.
        merges: the two nodes that merge into node `leaves + j`, `(leaves − 1, 2)`; lower merges come first.
    """

    leaf: Int[np.ndarray, " n"]
    merges: Int[np.ndarray, "m 2"]

    @property
    def leaves(self) -> int:
        return len(self.merges) + 1

    def labels(self, chosen: list[int]) -> Int[np.ndarray, " n"]:
        """The number in `chosen` of the node that each row lies under; the nodes must part the rows."""
        below = np.full(2 * self.leaves - 1, -1)
        for number, node in enumerate(chosen):
            below[node] = number
        for j in range(len(self.merges) - 1, -1, -1):
            if below[self.leaves + j] >= 0:
                below[self.merges[j]] = below[self.leaves + j]
        return below[self.leaf]


def build_tree(
    rows: Float[np.ndarray, "n k"], *, most: int = MOST_ROWS, means: int = MOST_MEANS, seed: int = 0
) -> Tree:
    """Ward's tree of the rows; of more than `most`, of `means` averages by k-means.

    Args:
        rows: what is clustered, by Euclidean distance.
        most: rows at the most.
        means: averages in their place.
        seed: of k-means.
    """
    from sklearn.cluster import MiniBatchKMeans, ward_tree  # takes half a second to load

    n = len(rows)
    if n == 1:
        return Tree(np.zeros(1, dtype=np.int64), np.empty((0, 2), dtype=np.int64))
    leaf = np.arange(n)
    if n > most:
        # Chosen starts (k-means++) took ten times as long and changed nothing.
        found = MiniBatchKMeans(
            means, init="random", n_init=1, batch_size=4096, max_iter=10, random_state=seed
        ).fit(rows)
        # A centre may be left without rows.
        used, leaf = np.unique(found.labels_, return_inverse=True)
        rows = found.cluster_centers_[used]
    return Tree(leaf.astype(np.int64), np.asarray(ward_tree(rows)[0], dtype=np.int64))


def cut(tree: Tree, clusters: int) -> Int[np.ndarray, " n"]:
    """The cluster of each row where the tree falls into so many (all its leaves if it has fewer)."""
    # Higher merges have higher numbers.
    open_nodes = [-(2 * tree.leaves - 2)]
    while len(open_nodes) < min(clusters, tree.leaves):
        node = -heapq.heappop(open_nodes)
        for child in tree.merges[node - tree.leaves]:
            heapq.heappush(open_nodes, -int(child))
    return tree.labels(sorted(-node for node in open_nodes))


def prune(
    tree: Tree, values: Float[np.ndarray, " n"], *, least: int, price: float = PRICE
) -> Int[np.ndarray, " n"]:
    """The cluster of each row where the tree is cut so that values differ between clusters and not within.

    Of all ways to cut the tree into clusters of `least` rows or more, the one with the smallest sum of
    squares within clusters plus `price · variance · log n` for each cluster: cost-complexity pruning
    (Breiman et al. 1984, §3.3) with a price like BIC's.

    Args:
        tree: over `n` rows.
        values: of the rows.
        least: rows in a cluster (all of them if there are fewer).
        price: of a cluster.
    """
    n, leaves = len(values), tree.leaves
    count, total, squares = (
        np.concatenate([np.bincount(tree.leaf, weights, leaves), np.zeros(leaves - 1)])
        for weights in (np.ones(n), values, np.square(values))
    )
    for j, (a, b) in enumerate(tree.merges):
        for sums in (count, total, squares):
            sums[leaves + j] = sums[a] + sums[b]
    whole = np.maximum(squares - np.square(total) / count, 0.0) + price * values.var() * np.log(max(n, 2))
    best = np.where(count >= min(least, n), whole, np.inf)
    parted = np.zeros(len(best), dtype=bool)
    for j, (a, b) in enumerate(tree.merges):
        if best[a] + best[b] < best[leaves + j]:
            best[leaves + j], parted[leaves + j] = best[a] + best[b], True
    chosen, waiting = [], [2 * leaves - 2]
    while waiting:
        node = waiting.pop()
        if parted[node]:
            waiting.extend(int(child) for child in tree.merges[node - leaves])
        else:
            chosen.append(node)
    return tree.labels(chosen)
