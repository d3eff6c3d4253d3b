"""Where the matrices of layers lie in the flat parameter vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.task import ParameterSet


@dataclass(frozen=True)
class MatrixBlock:
    """Parameters seen as `g` matrices of `o × i`.

    Attributes:
        name: shown in errors.
        index: place of each entry in the flat vector.
    """

    name: str
    index: Int[Tensor, "g o i"]

    def gather(self, rows: Float[Tensor, "b p"]) -> Float[Tensor, "b g o i"]:
        """The block's entries of flat vectors."""
        return rows.index_select(1, self.index.reshape(-1)).reshape(len(rows), *self.index.shape)

    def scatter(self, matrices: Float[Tensor, "b g o i"], into: Float[Tensor, "b p"]) -> None:
        """Write matrices to their places in flat vectors."""
        into.index_copy_(1, self.index.reshape(-1), matrices.flatten(1))


def matrix_blocks(parameters: ParameterSet) -> list[MatrixBlock]:
    """One block for every weight, its first dimension by all others, with the bias of the same module as last
    column; every other parameter as a matrix of its own, a vector as one column."""
    places = torch.arange(parameters.size, device=parameters.device).split(parameters.sizes)
    indices = {
        name: part.reshape(value.shape) for (name, value), part in zip(parameters.values.items(), places)
    }
    blocks, taken = [], set()
    for name, index in indices.items():
        if name in taken:
            continue
        matrix = index.reshape(index.shape[0] if index.ndim else 1, -1)
        inside, _, last = name.rpartition(".")
        bias = f"{inside}.bias" if inside else "bias"
        beside = bias in indices and indices[bias].shape == matrix.shape[:1]
        if last == "weight" and index.ndim > 1 and beside:
            taken.add(bias)
            matrix = torch.cat([matrix, indices[bias].reshape(-1, 1)], dim=1)
        blocks.append(MatrixBlock(name, matrix[None]))
    return blocks
