"""What the default ranking, the estimated number of wrong labels and the proposals gave on many sets.

    python benchmarks/labels/compare_many.py --arrays out/labels-many

Reads what `compute_many.py` wrote; writes the tables to standard output as Markdown. A default ranking
"falls short" where its average precision is below that of the best single sign by more than two standard
errors of the difference, over resampled examples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import many_sets
import numpy as np
import torch

from wherefrom.studies.labels import LabelAudit, WrongCount, average_precision

RESAMPLED = 100
MODEL_ONLY = ("loss", "margin", "left_out_loss", "left_out_margin", "self_influence")
WITH_VALIDATION = ("harm", "relative_harm", "relabel")
# How combined labels were ranked before the ranking looked at the kind of noise.
FORMER = {"margin": 1.0, "left_out_margin": 1.0, "relative_harm": 0.5}


@dataclass(frozen=True)
class Row:
    """One file: a set, a kind of noise, a model and a seed."""

    name: str
    noise: str
    model: str
    share: float
    precision: dict[str, float]
    short: dict[str, float]
    leads: str
    counts: dict[str, WrongCount]
    n: int
    fixed: float
    kept: float
    changes_right: float

    @property
    def choosing(self) -> bool:
        return self.name in many_sets.CHOOSING


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arrays", type=Path, default=Path("out/labels-many"))
    files = sorted(parser.parse_args().arrays.glob("*.npz"))
    if not files:
        parser.error("no .npz files there: run compute_many.py first")
    rows = [read(file) for file in files]
    for title, chosen in (
        ("Sets that served to choose", [row for row in rows if row.choosing]),
        ("Sets that served to check", [row for row in rows if not row.choosing]),
    ):
        if chosen:
            print(f"### {title}\n\n{_precisions(chosen)}\n\n{_summary(chosen)}\n\n{_counted(chosen)}\n")
    print(f"### Proposals\n\n{_proposals(rows)}")


def read(file: Path) -> Row:
    """Everything that is measured of one file."""
    name, noise, model, _ = file.stem.split(".")
    arrays = dict(np.load(file))
    wrong = arrays["given"] != arrays["true"]
    full, bare = audit(arrays, validation=True), audit(arrays, validation=False)
    rankings = {sign: values.numpy() for sign, values in full.signals.items()}
    rankings |= {"default": full.combined.numpy(), "default, no validation": bare.combined.numpy()}
    rankings["former"] = _former(rankings)
    precision, short = {}, {}
    if wrong.any():
        precision = {sign: average_precision(values, wrong) for sign, values in rankings.items()}
        singles = {"default": MODEL_ONLY + WITH_VALIDATION, "default, no validation": MODEL_ONLY}
        short = {
            kind: _behind(rankings[kind], rankings[max(signs, key=precision.__getitem__)], wrong)
            for kind, signs in singles.items()
        }
    proposed = full.proposed.numpy()
    right, changed = proposed == arrays["true"], proposed != arrays["given"]
    return Row(
        name, noise, model, float(wrong.mean()), precision, short, full.ranking.by,
        {"validation": full.wrong, "none": bare.wrong}, len(wrong),
        float(right[wrong].mean()) if wrong.any() else float("nan"), float(right[~wrong].mean()),
        float(right[changed].mean()) if changed.any() else float("nan"),
    )  # fmt: skip


def audit(arrays: dict[str, np.ndarray], *, validation: bool) -> LabelAudit:
    """The result object of one file, with or without what validation examples gave."""
    outputs = torch.from_numpy(arrays["outputs"])
    signals = {k.removeprefix("signal_"): torch.from_numpy(v) for k, v in arrays.items() if "signal_" in k}
    if not validation:
        signals = {name: values for name, values in signals.items() if name not in WITH_VALIDATION}
    missed = int((arrays["outputs_validation"].argmax(1) != arrays["y_validation"]).sum())
    return LabelAudit(
        index=torch.arange(len(outputs)),
        given=torch.from_numpy(arrays["given"]),
        predicted=outputs.argmax(1),
        signals=signals,
        errors={},
        confidence=outputs.softmax(1),
        left_out_confidence=torch.from_numpy(arrays["left_out"]),
        relabel_change=None,
        class_names=tuple(map(str, range(outputs.shape[1]))),
        n=len(outputs),
        converged=True,
        settings={
            "validation": len(arrays["y_validation"]) if validation else 0,
            "left_out_held": int(arrays["held"]),
            "left_out_approximate": not bool(arrays["whole"]),
        },
        validation_disagreements=missed if validation else None,
    )


def _former(rankings: dict[str, np.ndarray]) -> np.ndarray:
    scored = [
        weight * (rankings[name] - rankings[name].mean()) / rankings[name].std()
        for name, weight in FORMER.items()
    ]
    return np.sum(scored, axis=0)


def _behind(values: np.ndarray, best: np.ndarray, wrong: np.ndarray) -> float:
    """How many standard errors the average precision lies behind the best's; negative if ahead."""
    rng = np.random.default_rng(0)
    gap = average_precision(best, wrong) - average_precision(values, wrong)
    drawn = []
    for _ in range(RESAMPLED):
        rows = rng.integers(0, len(wrong), len(wrong))
        drawn.append(_quick_precision(best[rows], wrong[rows]) - _quick_precision(values[rows], wrong[rows]))
    return gap / max(float(np.std(drawn)), 1e-9)


def _quick_precision(suspicion: np.ndarray, wrong: np.ndarray) -> float:
    """Average precision, ties in the order of the examples: a tenth of the time, for resampled examples."""
    found = wrong[np.argsort(-suspicion, kind="stable")]
    met = np.flatnonzero(found) + 1
    return float(np.mean(np.arange(1, len(met) + 1) / met))


def _precisions(rows: Sequence[Row]) -> str:
    lines = [
        "| set, noise, model | wrong | leads | loss | margin | left-out loss | self-infl. | harm | best of "
        "the model's own | best of all | former | **default, no val.** | **default** |",
        "| --- |" + " --- |" * 12,
    ]
    for row in rows:
        if not row.precision:
            continue
        own = max(row.precision[sign] for sign in MODEL_ONLY)
        every = max(row.precision[sign] for sign in MODEL_ONLY + WITH_VALIDATION)
        cells = [
            row.precision[sign] for sign in ("loss", "margin", "left_out_loss", "self_influence", "harm")
        ]
        cells += [own, every, row.precision["former"]]
        marked = [
            f"{row.precision[kind]:.3f}" + (" (short)" if row.short[kind] > 2 else "")
            for kind in ("default, no validation", "default")
        ]
        lines.append(
            f"| {row.name}, {row.noise}, {row.model} | {100 * row.share:.0f} % | {row.leads} | "
            + " | ".join([f"{cell:.3f}" for cell in cells] + marked) + " |"
        )  # fmt: skip
    return "\n".join(lines)


def _summary(rows: Sequence[Row]) -> str:
    noisy = [row for row in rows if row.precision]
    lines = [
        "| ranking | mean gap to the best single sign | worst gap | behind by more than .01 | behind by more "
        "than 2 standard errors |",
        "| --- | --- | --- | --- | --- |",
    ]
    kinds: dict[str, tuple[str, ...]] = {
        "default, no validation": MODEL_ONLY,
        "default": MODEL_ONLY + WITH_VALIDATION,
        "former": MODEL_ONLY + WITH_VALIDATION,
        **dict.fromkeys(MODEL_ONLY, MODEL_ONLY),
    }
    for kind, signs in kinds.items():
        gaps = np.array([row.precision[kind] - max(row.precision[s] for s in signs) for row in noisy])
        behind = str(sum(row.short[kind] > 2 for row in noisy)) if kind in noisy[0].short else ""
        far = f"{(gaps < -0.01).sum()} of {len(gaps)}"
        lines.append(f"| {kind} | {gaps.mean():+.3f} | {gaps.min():+.3f} | {far} | {behind} |")
    return "\n".join(lines)


def _counted(rows: Sequence[Row]) -> str:
    lines = [
        "| estimate of the number of wrong labels | told | true number inside | mean size of its error | "
        "mean width |",
        "| --- | --- | --- | --- | --- |",
    ]
    groups: dict[str, Callable[[Row], bool]] = {
        "no wrong labels": lambda row: row.noise == "none",
        "10 to 40 % wrong": lambda row: row.noise != "none",
    }
    for kind, words in (("validation", "with validation set"), ("none", "without")):
        for name, chosen in groups.items():
            some = [row for row in rows if chosen(row)]
            told = [row for row in some if row.counts[kind].told]
            inside = [row for row in told if _inside(row, kind)]
            errors = [abs((row.counts[kind].estimate or 0) / row.n - row.share) for row in told]
            widths = [((row.counts[kind].high or 0) - (row.counts[kind].low or 0)) / row.n for row in told]
            lines.append(
                f"| {words}, {name} | {len(told)} of {len(some)} | {len(inside)} of {len(told)} | "
                f"{100 * np.mean(errors or [0]):.1f} % | {100 * np.mean(widths or [0]):.0f} % |"
            )
    for row in rows:
        for kind, count in row.counts.items():
            if count.low is not None and not _inside(row, kind):
                told = "told" if count.told else "cannot tell, ends given"
                lines.append(
                    f"| outside: {row.name}, {row.noise}, {row.model} ({kind}) | {told} | true "
                    f"{round(row.share * row.n)}: {count.low} to {count.high} | | |"
                )
    return "\n".join(lines)


def _inside(row: Row, kind: str) -> bool:
    count = row.counts[kind]
    assert count.low is not None and count.high is not None
    return count.low <= round(row.share * row.n) <= count.high


def _proposals(rows: Sequence[Row]) -> str:
    lines = [
        "| noise | wrong labels set right | right ones kept | proposed changes that are right |",
        "| --- | --- | --- | --- |",
    ]
    for noise in dict.fromkeys(row.noise for row in rows if row.precision):
        some = [row for row in rows if row.noise == noise and row.precision]
        cells = [_range([getattr(row, what) for row in some]) for what in ("fixed", "kept", "changes_right")]
        lines.append(f"| {noise} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    return f"{100 * np.nanmin(values):.0f} to {100 * np.nanmax(values):.0f} %"


if __name__ == "__main__":
    main()
