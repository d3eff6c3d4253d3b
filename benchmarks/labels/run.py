"""Benchmark of wherefrom's signs of wrong labels against cleanlab, on the same models.

    python benchmarks/labels/run.py --out out/labels --data DIR [--settings enron1,yoruba] [--quick]

DIR holds mnist/*.gz, spam/enron1.csv.gz and noisy_labels/yoruba_newsclass.csv.gz. cleanlab is installed from
PyPI into an environment of its own (benchmarks/.envs). For every setting and seed a model is trained on the
noisy labels; cleanlab ranks them by the model's own probabilities, by five-fold cross-validated ones and by
those that wherefrom predicts for a model trained without each example. Writes results.json and table.md to
--out; what a setting and seed gave is kept there and not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import environments
import models
import tables
from noisy_labels import LabelTask
from progress import Progress

from wherefrom.studies.labels import Disagreement, auroc, average_precision, found_fraction
from wherefrom.studies.labels.combine import default_ranking
from wherefrom.studies.labels.disagreement import mean_confidence

ADAPTER = Path(__file__).with_name("cleanlab_adapter.py")
BOOTSTRAPS = 200
NEED_VALIDATION = ("harm", "relative_harm", "relabel")


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    tell = Progress("")
    if not (given.skip_install or given.signals_only):
        environments.prepare("cleanlab", tell)
    runs = []
    for key in given.settings.split(","):
        setting = models.SETTINGS[key]
        for seed in setting.seeds[: 1 if given.quick else None]:
            file = given.out / f"{key}-{seed}{'-quick' if given.quick else ''}.npz"
            if not file.exists():
                tell(f"{setting.words}, seed {seed}")
                task = models.load(setting, given.data, seed, given.quick)
                np.savez(file, **_compute(setting, task, seed, given.signals_only))
            runs.append(_measured(setting, seed, dict(np.load(file)), given.out))
    (given.out / "results.json").write_text(json.dumps(runs, indent=1))
    (given.out / "table.md").write_text(tables.render(runs))
    print(tables.render(runs))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/labels"), help="results go here")
    parser.add_argument("--data", type=Path, help="folder with the data; else WHEREFROM_DATA")
    parser.add_argument("--settings", default=",".join(models.SETTINGS), help="comma-separated")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and one seed")
    parser.add_argument("--skip-install", action="store_true", help="use cleanlab's environment as it is")
    parser.add_argument(
        "--signals-only",
        action="store_true",
        help="neither cross-validation nor cleanlab, a fifth of the time",
    )
    given = parser.parse_args()
    unknown = set(given.settings.split(",")) - set(models.SETTINGS)
    if unknown:
        parser.error(f"unknown settings {', '.join(sorted(unknown))}; expected {', '.join(models.SETTINGS)}")
    if given.data is None and "WHEREFROM_DATA" in os.environ:
        given.data = Path(os.environ["WHEREFROM_DATA"])
    if given.data is None or not given.data.is_dir():
        parser.error(
            "pass --data DIR (or set WHEREFROM_DATA): a folder with mnist/*.gz (the four idx files), "
            "spam/enron1.csv.gz (columns label, file, text) and noisy_labels/yoruba_newsclass.csv.gz "
            "(columns split, text, clean_label, noisy_label)"
        )
    return given


def _compute(
    setting: models.Setting, task: LabelTask, seed: int, signals_only: bool
) -> dict[str, np.ndarray]:
    """What takes long, as arrays: the model's probabilities, wherefrom's signals, cross-validation."""
    started = time.process_time()
    model = models.trained(setting, task, task.x, task.given, seed)
    train_seconds = time.process_time() - started
    started = time.process_time()
    audit = models.signals(setting, task, model)
    assert audit.relabel_change is not None
    seconds = (train_seconds, time.process_time() - started)
    more = {} if signals_only else {"cross_validated": models.cross_validated(setting, task, seed)}
    return {
        **more,
        "given": task.given,
        "true": task.true,
        "in_sample": models.probabilities(model, task.x),
        "left_out": audit.left_out_confidence.numpy(),
        "relabel_change": audit.relabel_change.numpy(),
        "features": np.array(task.x.shape[1]),
        "accuracy": (models.probabilities(model, task.x_test).argmax(1) == task.y_test).mean(),
        "seconds": np.array(seconds),
        "held": np.array(audit.settings["left_out_held"]),
        "validation": np.array([len(task.y_validation), audit.validation_disagreements or 0]),
        **{f"signal_{name}": values.numpy() for name, values in audit.signals.items()},
    }


def _measured(setting: models.Setting, seed: int, arrays: dict[str, np.ndarray], out: Path) -> dict[str, Any]:
    """Every ranking and proposal of one setting and seed, measured."""
    given, true = arrays["given"], arrays["true"]
    resample = len(setting.seeds) == 1  # otherwise the spread over seeds tells the error
    wrong = given != true
    signals = {name.removeprefix("signal_"): v for name, v in arrays.items() if name.startswith("signal_")}
    rankings = {f"wherefrom {name}": values for name, values in signals.items()}
    tensors = {name: torch.from_numpy(values) for name, values in signals.items()}
    rankings["wherefrom combined"] = _combined(arrays, tensors, True)
    rankings["wherefrom combined without validation"] = _combined(arrays, tensors, False)
    kinds = ("in_sample", "cross_validated", "left_out")
    if "cross_validated" in arrays:
        rankings |= _cleanlab(out, given, {kind: arrays[kind] for kind in kinds})
    proposals = {
        "the model": arrays["in_sample"].argmax(1),
        "wherefrom, left out": arrays["left_out"].argmax(1),
        "wherefrom, relabel influence": arrays["relabel_change"].argmin(1),
    }
    if "cross_validated" in arrays:
        proposals["cross-validated model"] = arrays["cross_validated"].argmax(1)
    return {
        "setting": setting.key,
        "words": setting.words,
        "seed": seed,
        "n": len(given),
        "features": int(arrays["features"]),
        "wrong": float(wrong.mean()),
        "weight_decay": setting.weight_decay,
        "accuracy": float(arrays["accuracy"]),
        "train_accuracy": float((proposals["the model"] == given).mean()),
        "seconds": dict(zip(("train", "signals"), arrays["seconds"].tolist())),
        "held": int(arrays["held"]),
        "rankings": {name: _measures(values, wrong, resample) for name, values in rankings.items()},
        "proposals": {
            name: {
                "wrong_made_right": float((values == true)[wrong].mean()),
                "right_kept": float((values == true)[~wrong].mean()),
            }
            for name, values in proposals.items()
        },
    }


def _combined(
    arrays: dict[str, np.ndarray], signals: dict[str, torch.Tensor], validation: bool
) -> np.ndarray:
    """The default ranking, with or without what the validation examples gave."""
    given = torch.from_numpy(arrays["given"])
    inside, outside = (torch.from_numpy(arrays[name]) for name in ("in_sample", "left_out"))
    differ = [int((p.argmax(1) != given).sum()) for p in (inside, outside)]
    seen = arrays["validation"].tolist() if validation else (0, 0)
    found = Disagreement(len(given), *differ, *seen)
    chosen = {name: v for name, v in signals.items() if validation or name not in NEED_VALIDATION}
    return default_ranking(chosen, given, mean_confidence(inside, outside, True), found).values.numpy()


def _cleanlab(out: Path, labels: np.ndarray, probabilities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Suspicion by cleanlab, for each of the probabilities and each of its scores."""
    inputs, outputs = out / "cleanlab-input.npz", out / "cleanlab-output.npz"
    np.savez(inputs, labels=labels, **{f"probabilities_{name}": p for name, p in probabilities.items()})
    command = [str(environments.python("cleanlab")), str(ADAPTER), str(inputs), str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"cleanlab failed:\n{done.stderr[-2000:]}")
    made = np.load(outputs)
    return {f"cleanlab {name}": made[name] for name in made.files}


def _measures(suspicion: np.ndarray, wrong: np.ndarray, resample: bool) -> dict[str, Any]:
    """AUROC, average precision, shares found; standard errors of the first two over resampled examples."""
    order = np.argsort(-suspicion, kind="stable")
    measures: dict[str, Any] = {
        "auroc": auroc(suspicion, wrong),
        "average_precision": average_precision(suspicion, wrong),
        "found": {str(share): found for share, found in found_fraction(order, wrong).items()},
    }
    if resample:
        rng = np.random.default_rng(0)
        resampled = []
        for _ in range(BOOTSTRAPS):
            rows = rng.integers(0, len(wrong), len(wrong))
            drawn = suspicion[rows], wrong[rows]
            resampled.append((auroc(*drawn), average_precision(*drawn)))
        errors = np.std(resampled, axis=0)
        measures["resampled_error"] = {"auroc": errors[0], "average_precision": errors[1]}
    return measures


if __name__ == "__main__":
    main()
