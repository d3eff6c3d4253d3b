"""Tensors and modules of kinds that are not computed with."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from tests.problems import labels, normal, seeded
from wherefrom import Influence
from wherefrom.errors import InputError, UnsupportedError

N = 12
X, Y = normal(N, 4), labels(N)


def fit(model, data=(X, Y), **options):
    return Influence(model, data, loss="cross_entropy", damping=0.1, progress=False, **options).fit()


def linear() -> nn.Module:
    return seeded(lambda: nn.Linear(4, 3))


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X[i] for i in range(N)])


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.to_sparse(), r"train: found a sparse tensor \(layout sparse_coo\).*to_dense"),
        (nested(), "train: found a nested tensor"),
        (quantised(), "train: found a quantised tensor"),
        (X.to("meta"), "train: .*meta device"),
    ],
)
def test_data_of_such_kinds_is_refused(x, message):
    with pytest.raises(InputError, match=message):
        fit(linear(), (x, Y))


def test_sparse_rows_of_a_list_are_refused():
    def collate(items):
        return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])

    rows = [(x.to_sparse(), y) for x, y in zip(X, Y)]
    with pytest.raises(InputError, match="train: found a sparse tensor"):
        fit(linear(), rows, collate=collate)
    with pytest.raises(InputError, match=r"train: examples .* cannot be stacked"):
        fit(linear(), rows)


class Complex(nn.Module):
    def __init__(self, learnt: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex128), requires_grad=learnt)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) * self.turn).real


def test_complex_parameters_are_refused_unless_frozen():
    with pytest.raises(UnsupportedError, match=r"parameter 'turn' is complex; expected real parameters"):
        fit(Complex(learnt=True))
    torch.testing.assert_close(
        fit(Complex2 := Complex(learnt=False)).scores((X, Y)).values,
        fit(Complex2.layer).scores((X, Y)).values,
    )


def test_models_without_numbers_or_with_packed_ones_are_refused():
    with pytest.raises(InputError, match=r"'weight' of the model: .*meta device and holds no numbers"):
        fit(nn.Linear(4, 3, device="meta"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)).eval())
    model = nn.Sequential(packed, nn.Linear(3, 3))
    with pytest.raises(UnsupportedError, match=r"module '0\.0' \(Linear\) is quantised"):
        fit(model.float(), (X.float(), Y))
    sparse = nn.Linear(4, 3)
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse())
    with pytest.raises(InputError, match="'weight' of the model: found a sparse tensor"):
        fit(sparse)


@pytest.mark.parametrize("solver", ["exact", "ekfac"])
def test_embeddings_with_sparse_gradients_are_those_with_dense_ones(solver):
    class Bag(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.embed, self.layer = nn.Embedding(6, 2, sparse=sparse), nn.Linear(2, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.embed(tokens).mean(1)))

    data = (labels(N, 4, classes=6), Y)
    dense, sparse = seeded(lambda: Bag(False)), seeded(lambda: Bag(True))
    found, expected = (fit(model, data, solver=solver).scores(data).values for model in (sparse, dense))
    torch.testing.assert_close(found, expected)
    assert sparse.embed.sparse
