"""What each library computes, so that its error is measured against its own definition at float64.

`S = g_qᵀ (blockdiag_l C_l + λ)⁻¹ g_i`, where a layer's block `C_l` has the eigenbasis of `A ⊗ B` and
eigenvalues `Λ`:

- `ekfac`: `Λ` = second moment of the rotated gradients; `kfac`: `Λ` = products of the factors' eigenvalues;
  `identity`: `S = g_qᵀ g_i`.
- `labels`: whose gradients: the exact expectation over classes, draws from the model, the true labels, or
  pyDVL's `Σ_c √p_c ∇log p_c`.
- `positions`: `joint` squares an example's gradient, `independent` adds the squares of its positions.
- `scale`: K-FAC's `Λ` is that of the expand setting times `t^scale` for a layer used at `t` positions.
- `damping`: `λ` as it is; `relative`, a tenth of each layer's mean eigenvalue; or `factored`,
  `(A + π√λ I) ⊗ (B + √λ/π I)` with `π² = mean eigenvalue of A / that of B` (Martens & Grosse 2015, §6.3).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimand:
    method: str
    labels: str
    positions: str = "joint"
    bias: bool = True
    scale: int = 0
    damping: str = "absolute"

    @property
    def key(self) -> str:
        parts = [self.method, self.labels]
        parts += ["independent"] if self.positions == "independent" else []
        parts += [] if self.bias else ["weights"]
        parts += [f"t{self.scale:+d}"] if self.scale else []
        parts += [self.damping] if self.damping != "absolute" else []
        return "-".join(parts)
