"""Verification puts the prediction with leverage beside that of first order, where that costs little."""

from __future__ import annotations

from tests.support import digits, small_mlp, softmax_regression
from wherefrom import FullBatch, Influence


def test_leverage_explains_the_slope_of_a_convex_model():
    plain = softmax_regression(60, classes=3, decay=0.01)
    options = {"loss": "cross_entropy", "weight_decay": 0.01}
    influence = Influence(plain.model, (plain.x, plain.y), progress=False, **options).fit()
    check = influence.verify(
        digits(5, start=300, classes=3, pool=2),
        FullBatch(plain.model, gradient_tolerance=1e-8, **options),
        remove=6,
    )
    assert check.slope() > 1.05
    corrected = check.corrected_slope()
    assert corrected is not None and abs(corrected - 1) < 0.5 * (check.slope() - 1)
    assert check.summary()["corrected_slope"] == corrected


def test_there_is_none_where_it_has_no_closed_form_or_is_dear():
    plain = small_mlp(30, decay=0.05)
    queries = digits(3, start=300, classes=3, pool=2)
    options = {"loss": "cross_entropy", "weight_decay": 0.05}
    for solver, curvature in (("cg", "ggn"), ("exact", "hessian"), ("ekfac", "ggn")):
        influence = Influence(
            plain.model, (plain.x, plain.y), solver=solver, curvature=curvature, progress=False, **options
        ).fit()
        check = influence.verify(queries, lambda train, seed: plain.model, remove=1)
        assert check.corrected is None and check.summary()["corrected_slope"] is None
