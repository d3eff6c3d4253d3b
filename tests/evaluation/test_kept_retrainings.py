"""Records of retrainings whose checksum is right and whose content is not."""

from __future__ import annotations

import numpy as np
import pytest

import wherefrom
from tests.problems import labels, normal, tanh_mlp
from wherefrom.errors import StoreError
from wherefrom.evaluation import Retraining
from wherefrom.influence import resolve_measurement


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1.0], "does not hold a finite measurement of each of 3 queries"),
        ({"measured": [1.0, 2.0]}, "does not hold a finite measurement of each of 3 queries"),
        ({"measured": [1.0, 2.0, float("nan")]}, "does not hold a finite measurement"),
        ({"measured": 1.0}, "does not hold a finite measurement"),
        ({"measured": ["a", "b", "c"]}, "holds no measurements"),
        ({"measured": [[1.0], [2.0, 3.0], [4.0]]}, "holds no measurements"),
    ],
)
def test_what_is_no_measurement_of_these_queries_is_refused(tmp_path, record, message):
    problem = tanh_mlp()
    options = {"damping": 1.0, "curvature": "ggn", "progress": False}
    fitted = wherefrom.Influence(problem.model, problem.data, loss="cross_entropy", **options).fit()
    objective = fitted.objective
    examples = objective.read((normal(3, 4, seed=20), labels(3)), role="queries")
    measured = resolve_measurement("loss", objective.loss)

    def recipe(train, seed):
        return problem.model

    def kept() -> Retraining:
        return Retraining(fitted.objective, recipe, examples, measured, tmp_path)

    expected = kept().baseline(problem.data, 0)
    assert np.array_equal(kept().baseline(problem.data, 0), expected)
    kept()._directory.write("retrained/seed0-all", record)
    with pytest.raises(StoreError, match=rf"seed0-all\.json cannot be used: .*{message}.*Delete it"):
        kept().baseline(problem.data, 0)
