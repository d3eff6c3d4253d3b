"""Training examples whose gradient is NaN though their loss is finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support import seeded
from wherefrom import Influence
from wherefrom.errors import NonFiniteError

N = 9


class RootOfZero(nn.Module):
    """`h ‖h‖`, the norm as a root whose slope at zero is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3, bias=False), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(h * h.square().sum(1, keepdim=True).sqrt())


class HiddenNaN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(self.second(torch.sqrt(self.first(x) - 1.0)))


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("solver", ["auto", "exact", "cg", "lissa", "arnoldi", "identity", "ekfac", "kfac"])
@pytest.mark.parametrize(("make", "example"), [(RootOfZero, 3), (HiddenNaN, 0)])
def test_they_are_refused_by_every_solver(make, example, solver, curvature):
    blocks = solver in ("ekfac", "kfac")
    if blocks and curvature == "hessian":
        pytest.skip("no Kronecker factors")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    x[3] = 0.0
    model = seeded(make)
    options = {"damping": 0.5, "solver": solver, "curvature": curvature, "progress": False}
    words = (
        "NaN or infinity" if blocks else f"gradient of train example {example} holds NaN.*its loss is finite"
    )
    with pytest.raises(NonFiniteError, match=words):
        Influence(model, (x, torch.arange(N) % 3), loss="cross_entropy", **options).fit()
