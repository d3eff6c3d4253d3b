"""cleanlab's label quality scores for given probabilities; runs in cleanlab's own environment.

    python cleanlab_adapter.py input.npz output.npz

Reads `labels` (n,) and any arrays `probabilities_NAME` (n, c); writes `NAME_METHOD` (n,), larger = more
suspicious (one minus cleanlab's quality score, which is in [0, 1] and small for a label error).
"""

from __future__ import annotations

import sys

import numpy as np
from cleanlab.rank import get_label_quality_scores

# Name in the tables -> arguments; the first is cleanlab's default.
METHODS = {
    "self_confidence": {"method": "self_confidence"},
    "normalized_margin": {"method": "normalized_margin"},
    "entropy": {"method": "confidence_weighted_entropy"},
    "adjusted_margin": {"method": "normalized_margin", "adjust_pred_probs": True},
}


def main() -> None:
    given = np.load(sys.argv[1])
    scores = {}
    for key in given.files:
        if not key.startswith("probabilities_"):
            continue
        for name, options in METHODS.items():
            quality = get_label_quality_scores(given["labels"], given[key], **options)
            scores[f"{key.removeprefix('probabilities_')}_{name}"] = 1.0 - np.asarray(quality)
    np.savez(sys.argv[2], **scores)


if __name__ == "__main__":
    main()
