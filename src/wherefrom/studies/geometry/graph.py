"""Questions about the graph of a forward pass: what lies upstream of a tensor when some node is cut."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node


def upstream(start: Node | None, cut: Node | None = None) -> Iterator[Node]:
    """`start` and every node that leads to it by a path that avoids `cut`."""
    if start is None or start is cut:
        return
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        yield node
        for before, _ in node.next_functions:
            if before is not None and before is not cut and before not in seen:
                seen.add(before)
                waiting.append(before)


def leaves(start: Node | None, cut: Node | None = None) -> set[int]:
    """`id` of every leaf tensor that leads to `start` by a path that avoids `cut`."""
    found = (getattr(node, "variable", None) for node in upstream(start, cut))
    return {id(leaf) for leaf in found if isinstance(leaf, Tensor)}


def sums_ending(end: Node | None, layer: Node, shape: tuple[int, ...]) -> Iterator[Node]:
    """Sums `layer + something else` of this shape, the something else not made of `layer`."""
    for node in upstream(end):
        if node.name() != "AddBackward0" or getattr(node, "_saved_alpha", None) != 1:
            continue
        terms = [before for before, _ in node.next_functions]
        others = [term for term in terms if term is not layer]
        made = tuple(node._input_metadata[0].shape)
        if len(terms) != 2 or len(others) != 1 or made != shape:
            continue
        if all(before is not layer for before in upstream(others[0])):
            yield node
