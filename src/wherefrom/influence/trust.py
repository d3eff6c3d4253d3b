"""How far the predictions of one fit may be trusted: computed from the fit, and said by every command."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wherefrom.influence.fit import Fit
from wherefrom.solvers import PreparedBlocks

Level = Literal["good", "fair", "poor"]

_ORDER: tuple[Level, ...] = ("good", "fair", "poor")
_MINIMUM: dict[str, tuple[Level, str]] = {
    "minimum": ("good", "the model is at a minimum of its objective"),
    "near": ("fair", "the model is near a minimum of its objective, and not at it"),
    "not a minimum": ("poor", "the model is not at a minimum of its objective"),
}
_RETRAINED: dict[str, tuple[Level | None, str]] = {
    "yes": (None, "retraining agrees"),
    "roughly": (None, "retraining agrees roughly"),
    "ranking only": ("fair", "retraining agrees with the order, not with sizes"),
    "no": ("poor", "retraining does not agree"),
    "cannot tell": (None, "retraining cannot tell"),
}
_SO: dict[Level, str] = {
    "good": "Signs and sizes are those of a small change of the data; whether retraining agrees, only "
    "retraining tells.",
    "fair": "Take signs as likely and sizes as rough; whether retraining agrees, only retraining tells.",
    "poor": "Neither signs nor sizes are established: take what is found as candidates, and retrain to know.",
}


@dataclass(frozen=True)
class Trust:
    """What the predictions of a fit can be trusted for, without retraining.

    Attributes:
        level: `"good"`, `"fair"` or `"poor"`: the worst of what follows.
        minimum: `"minimum"`, `"near"`, `"not a minimum"` or `"not checked"`.
        approximate: what the solver leaves out of the curvature, in plain words; empty if nothing.
        converged: whether every solve behind the numbers did.
        retraining: its verdict, where a check belongs to this result: `"yes"`, `"ranking only"`, `"no"`, …
        words: all of it in two sentences.
    """

    level: Level
    minimum: str
    approximate: str
    converged: bool
    retraining: str | None
    words: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def trust_of(
    fitted: Fit,
    *,
    converged: bool = True,
    retraining: str | None = None,
    retrained: str = "nothing was retrained here",
) -> Trust:
    """From the check of the minimum, the solver, and retraining where it was done.

    Args:
        fitted: the fit.
        converged: whether the solves behind the numbers shown did.
        retraining: the verdict of a check that belongs to them.
        retrained: what was retrained, in words, where there is no such verdict.
    """
    level, said = _MINIMUM[fitted.minimum.verdict]
    found = [said]
    approximate = ""
    if isinstance(fitted.prepared, PreparedBlocks):
        approximate = (
            "no curvature is used"
            if fitted.solver.name == "identity"
            else "the curvature of each layer is taken alone"
        )
        found.append(approximate)
        level = worst(level, "poor" if fitted.solver.name == "identity" else "fair")
    elif fitted.damping.value > 0 and not fitted.damping.departs:
        found.append(f"a damping of {fitted.damping.value:.2g} holds back the directions of less curvature")
        level = worst(level, "fair")
    if not converged:
        found.append("the solver did not converge")
        level = "poor"
    so = _SO[level]
    if retraining is not None:
        limit, said = _RETRAINED[retraining]
        found.append(said)
        level = level if limit is None else worst(level, limit)
        if retraining in ("yes", "roughly"):
            level, so = ("good" if retraining == "yes" else "fair"), "So far as it was retrained, it holds."
        elif retraining != "cannot tell":
            so = _SO[level]
    else:
        found.append(retrained)
    words = f"How far to trust this: {', '.join(found[:-1])}, and {found[-1]}. {so}"
    return Trust(level, fitted.minimum.verdict, approximate, converged, retraining, words)


def trust_without_fit() -> Trust:
    """Of what is read off the model as it is."""
    return Trust(
        "fair",
        "not checked",
        "",
        True,
        None,
        "How far to trust this: it describes the model as it is. Whether the model is at a minimum was not "
        "checked and nothing was retrained, so it says nothing of what a change of the data would do.",
    )


def worst(*levels: Level) -> Level:
    """The lowest of several."""
    return max(levels, key=_ORDER.index)
