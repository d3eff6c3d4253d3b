"""Every library, method and task of the comparison, with the settings it runs well at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from estimands import Estimand

FULL, REDUCED = ("mlp", "resnet", "gpt2"), ("mlp-reduced", "resnet-reduced", "gpt2-reduced")
IMAGES = ("mlp", "resnet", "mlp-reduced", "resnet-reduced")
TEXT = ("gpt2", "gpt2-reduced")


@dataclass(frozen=True)
class Entrant:
    """A method of a library on some tasks.

    `labels`: whose gradients make the curvature; draws are compared with the exact expectation where that can
    be had. `by_kind`: settings that depend on the network. `excluded`: why it cannot run, by task.
    """

    library: str
    method: str
    labels: str
    tasks: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    by_kind: dict[str, dict[str, Any]] = field(default_factory=dict)
    positions: str = "joint"
    bias: bool = True
    scale: int = 0
    plan: str = ""

    @property
    def name(self) -> str:
        parts = [self.library, self.method, self.labels, self.plan]
        return "-".join(part for part in parts if part)

    def settings_for(self, task: str) -> dict[str, Any]:
        return {**self.settings, **self.by_kind.get(task.removesuffix("-reduced"), {}), "labels": self.labels}

    def estimand(self, task: str) -> Estimand:
        if self.method == "identity":
            return Estimand("identity", "none", bias=self.bias)
        labels = "exact" if self.labels == "sampled" and task in IMAGES else self.labels
        damping = "factored" if self.settings.get("factored") else "absolute"
        return Estimand(self.method, labels, self.positions, self.bias, self.scale, damping)


_KRONFLUENCE = {
    "mlp": {"fit_batch": 250, "train_batch": 500, "query_batch": 200},
    "resnet": {"fit_batch": 125, "train_batch": 250, "query_batch": 100},
    "gpt2": {"fit_batch": 50, "train_batch": 100, "query_batch": 50},
}
_CURVLINOPS = {
    "mlp": {"batch": 500, "chunk": 250},
    "resnet": {"batch": 100, "chunk": 100},
    "gpt2": {"batch": 20, "chunk": 50},
}
_PYDVL = {
    "mlp": {"batch": 500, "chunk": 250},
    "resnet": {"batch": 100, "chunk": 100},
    "gpt2": {"batch": 50, "chunk": 50},
}
_LOGIX = {
    "mlp": {"batch": 100, "score_batch": 8},
    "resnet": {"batch": 100, "score_batch": 8},
    "gpt2": {"batch": 50, "score_batch": 8},
}
_EVERY = FULL + REDUCED

ENTRANTS: tuple[Entrant, ...] = (
    Entrant("wherefrom", "ekfac", "exact", IMAGES, plan="exact-plan"),
    Entrant("wherefrom", "ekfac", "exact", IMAGES, {"score_rtol": 1e-3}, plan="low-rank"),
    Entrant("wherefrom", "ekfac", "sampled", _EVERY, plan="exact-plan"),
    Entrant("wherefrom", "ekfac", "sampled", TEXT, {"score_rtol": 1e-3}, plan="low-rank"),
    Entrant("wherefrom", "ekfac", "empirical", (*REDUCED, "mlp", "gpt2"), plan="exact-plan"),
    Entrant("wherefrom", "kfac", "exact", IMAGES),
    Entrant("wherefrom", "kfac", "exact", IMAGES, {"factored": True}, plan="factored-damping"),
    Entrant("wherefrom", "kfac", "sampled", TEXT),
    Entrant("wherefrom", "identity", "", _EVERY),
    Entrant("kronfluence", "ekfac", "sampled", _EVERY, by_kind=_KRONFLUENCE),
    Entrant("kronfluence", "ekfac", "empirical", REDUCED, by_kind=_KRONFLUENCE),
    Entrant("kronfluence", "kfac", "sampled", _EVERY, by_kind=_KRONFLUENCE, scale=-1),
    Entrant("kronfluence", "identity", "", _EVERY, by_kind=_KRONFLUENCE),
    Entrant("curvlinops", "ekfac", "exact", IMAGES, by_kind=_CURVLINOPS),
    Entrant("curvlinops", "ekfac", "sampled", TEXT, by_kind=_CURVLINOPS),
    Entrant("curvlinops", "kfac", "exact", IMAGES, by_kind=_CURVLINOPS),
    Entrant("curvlinops", "kfac", "sampled", TEXT, by_kind=_CURVLINOPS),
    Entrant("pydvl", "ekfac", "pydvl", _EVERY, by_kind=_PYDVL, positions="independent"),
    Entrant("dattri", "ekfac", "empirical", REDUCED, {"batch": 500}),
    Entrant("logix", "ekfac", "empirical", REDUCED, by_kind=_LOGIX, bias=False),
    Entrant("bergson", "ekfac", "sampled", TEXT),
    Entrant("bergson", "ekfac", "empirical", ("gpt2-reduced",)),
)
NOT_RUN = {
    "bergson": "Hugging Face causal language models only: not for the MLP and the residual network",
    "dattri, LogIX": "on the reduced tasks only: the full ones take them longer than three minutes",
}
