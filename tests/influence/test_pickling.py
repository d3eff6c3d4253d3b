"""Results go to files and other processes; what holds a model says that it does not."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch

import wherefrom
from tests.problems import labels, normal, tanh_mlp
from wherefrom import errors
from wherefrom.errors import UnsupportedError


@pytest.fixture(scope="module")
def influence():
    problem = tanh_mlp()
    return wherefrom.Influence(
        problem.model, problem.data, loss="cross_entropy", damping=1.0, progress=False
    ).fit()


@pytest.mark.parametrize(
    "write",
    [
        pickle.dumps,
        lambda made: pickle.dumps(made, protocol=0),
        copy.deepcopy,
        lambda made: torch.save(made, io.BytesIO()),
        lambda made: pickle.dumps({"result": [made]}),
    ],
)
def test_a_fitted_influence_says_that_it_cannot_be_pickled(influence, write):
    with pytest.raises(UnsupportedError, match=r"cannot be pickled.*run_dir=.*save_scores"):
        write(influence)
    assert copy.copy(influence).prepared is influence.prepared


def test_joblib_says_it_too(influence, tmp_path):
    joblib = pytest.importorskip("joblib")
    with pytest.raises(UnsupportedError, match="cannot be pickled"):
        joblib.dump(influence, tmp_path / "influence")


def test_results_are_the_same_after_pickling(influence):
    queries = (normal(3, 4, seed=20), labels(3))
    scores = influence.scores(queries)
    recipe_model = influence.objective.model
    results = [
        scores,
        scores.helpful(2),
        influence.self_scores(),
        influence.minimum,
        influence.verify(queries, lambda train, seed: recipe_model, remove=1),
        influence.remove([1]).change(queries),
        influence.remove([1]).retrain(lambda train, seed: recipe_model, queries),
        influence.flip(queries)[0],
        influence.spectrum(top=2),
        influence.gradient_norms(queries),
        influence.labels(),
        influence.slices(queries, train_groups=[i % 2 for i in range(len(influence.train[1]))]),
    ]
    for made in results:
        again = pickle.loads(pickle.dumps(made))
        assert repr(again) == repr(made)
    assert torch.equal(pickle.loads(pickle.dumps(scores)).values, scores.values)


def test_errors_cross_to_other_processes():
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
    ]
    assert len(kinds) > 8
    for kind in kinds:
        given = {"eigenvalue": -1.5, "damping": 2.0} if kind is errors.NotPositiveDefiniteError else {}
        again = pickle.loads(pickle.dumps(kind("what, and what to do", **given)))
        assert type(again) is kind and str(again) == "what, and what to do"
        assert vars(again) == given
