"""Labels are the user's everywhere: in queries, edits, recipes and tables, whatever they are."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import shuffle

import wherefrom
from tests.support import as_a_user
from wherefrom.api import refit
from wherefrom.errors import InputError

KINDS = {
    "shifted": np.array([1, 2, 3]),
    "other order": np.array([10, -5, 2]),
    "floats": np.array([5.0, 2.0, -1.0]),
    "text": np.array(["b", "a", "a longer one"]),
    "text objects": np.array(["b", "a", "a longer one"], dtype=object),
    "two numbers": np.array([1, 2]),
    "signs": np.array([-1, 1]),
    "bools": np.array([False, True]),
    "two texts": np.array(["spam", "ham"]),
}
FEW = ("other order", "text", "signs", "bools")
SOME, QUERIES = slice(0, 40), slice(40, 44)
TIGHT = {"tol": 1e-10, "max_iter": 20_000}


def problem(classes: int):
    X, k = shuffle(*load_iris(return_X_y=True), random_state=0)
    keep = k > 0 if classes == 2 else k >= 0
    X, k = X[keep][:, :2], k[keep] - (classes == 2)
    return X - X.mean(0), k


@functools.cache
def fitted_on(kind):
    """An influence function of the user's labels, and the same of class numbers in torch's own form."""
    labels = KINDS[kind]
    X, k = problem(len(labels))
    y = labels[k]
    estimator = LogisticRegression(**TIGHT).fit(X[SOME], y[SOME])
    influence = wherefrom.from_sklearn(estimator, X[SOME], y[SOME], progress=False).fit()
    numbers = np.searchsorted(estimator.classes_, y)
    targets = torch.tensor(numbers) if len(labels) > 2 else torch.tensor(numbers).double()[:, None]
    objective = influence.objective
    plain = wherefrom.Influence(
        objective.model,
        (torch.tensor(X[SOME]), targets[SOME]),
        loss="cross_entropy" if len(labels) > 2 else "binary_cross_entropy",
        weight_decay={"weight": 1 / 40, "bias": 0.0},
        damping=influence.settings()["damping"],
        progress=False,
    ).fit()
    return influence, plain, (X, y), (torch.tensor(X), targets), estimator


def at(data, where):
    return data[0][where], data[1][where]


def forms(X, y):
    """The same queries in every form they may come in."""
    yield X, y
    yield X.tolist(), y.tolist()
    yield torch.tensor(X), y
    yield [(x, label) for x, label in zip(X, y)]
    yield [(torch.tensor(x), label) for x, label in zip(X, y.tolist())]
    if y.dtype.kind in "biuf":
        yield torch.tensor(X), torch.tensor(y)
        yield torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_changes_are_those_of_the_class_numbers(kind):
    influence, plain, data, numbers, _ = fitted_on(kind)
    expected = plain.scores(at(numbers, QUERIES)).values
    for queries in forms(*at(data, QUERIES)):
        torch.testing.assert_close(influence.scores(queries).values, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        influence.parameter_influence(at(data, QUERIES)),
        plain.parameter_influence(at(numbers, QUERIES)),
        rtol=1e-9,
        atol=1e-12,
    )
    i, other = 3, next(int(j) for j in range(40) if data[1][j] != data[1][3])
    label, number = data[1][other], numbers[1][other]
    for made, given in (
        (influence.relabel([i, 5], label), plain.relabel([i, 5], number)),
        (influence.relabel([i, 5], [label, label]), plain.relabel([i, 5], torch.stack([number, number]))),
        (influence.replace([i], at(data, slice(41, 42))), plain.replace([i], at(numbers, slice(41, 42)))),
        (influence.add([(data[0][41], data[1][41])]), plain.add(at(numbers, slice(41, 42)))),
    ):
        found = made.change(at(data, QUERIES), order="first").values
        expected_change = given.change(at(numbers, QUERIES), order="first").values
        np.testing.assert_allclose(found, expected_change, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("kind", FEW)
def test_recipes_get_the_users_labels_and_retraining_agrees(kind):
    influence, _, data, _, estimator = fitted_on(kind)
    seen = []

    def recipe(train, seed):
        seen.append(train)
        return refit(estimator)(train, seed)

    other = next(label for label in estimator.classes_ if label != data[1][3])
    outcome = influence.relabel([3], other).retrain(recipe, at(data, QUERIES), reduction="sum")
    assert outcome.baseline_gap < 1e-6 and outcome.relative_error < 0.2
    assert seen[1][1][3] == other and list(seen[0][1]) == list(data[1][SOME])
    check = influence.verify(at(data, QUERIES), recipe, remove=4, reduction="sum")
    assert check.baseline_gap < 1e-6 and check.pearson() > 0.95


@pytest.mark.parametrize("kind", FEW)
def test_tables_name_the_users_labels(kind, tmp_path):
    influence, _, data, _, estimator = fitted_on(kind)
    names = [str(label) for label in estimator.classes_.tolist()]
    given = [str(label) for label in data[1][SOME].tolist()]
    audit = influence.labels(at(data, QUERIES))
    assert list(audit.class_names) == names
    assert {row.train: row.given for row in audit.top(40)} == dict(enumerate(given))
    table = audit.to_pandas()
    assert set(table["proposed"]) | set(table["predicted"]) | set(table["most_helpful"]) <= set(names)
    assert list(influence.relabel_scores(at(data, QUERIES)).names) == names
    groups = influence.harmful_groups(at(data, slice(40, 50)))
    for cluster in groups:
        assert cluster.labels == dict(
            sorted(
                {name: sum(given[i] == name for i in cluster.members) for name in cluster.labels}.items(),
                key=lambda pair: -pair[1],
            )
        )
    scores = influence.scores(at(data, QUERIES))
    page = influence.report(tmp_path / "page.html", at(data, QUERIES), scores).read_text()
    assert all(f">{label}<" in page or f" {label}" in page for label in set(map(str, data[1][QUERIES])))


@pytest.mark.parametrize("kind", FEW)
def test_flips_name_the_users_labels(kind):
    influence, _, data, _, estimator = fitted_on(kind)
    flips = influence.flip(at(data, QUERIES), max_size=6)
    said = estimator.predict(data[0][QUERIES])
    for found, before in zip(flips, said):
        assert found.predicted == before and found.rival in estimator.classes_ and found.rival != before
        assert found.row()["predicted"] == before and str(before) in found.words
    confirmed = flips.confirm(refit(estimator))
    for found in confirmed:
        if found.confirmed_size is not None:
            assert found.confirmation.became in estimator.classes_
            assert found.confirmation.became != found.predicted


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_that_is_none_of_the_classes_is_refused_by_name(kind):
    influence, _, data, _, estimator = fitted_on(kind)
    unknown = [x for x in (0, 1, 7, "7", "b ", None, float("nan")) if x not in estimator.classes_.tolist()]
    listed = ".*".join(repr(label).replace(".", r"\.") for label in estimator.classes_.tolist())
    X, y = at(data, QUERIES)
    with as_a_user():
        for label in unknown:
            bad = y.astype(object)
            bad[2] = label
            for call in (
                lambda: influence.scores((X, bad)),  # noqa: B023
                lambda: influence.labels((X, bad)),  # noqa: B023
                lambda: influence.add((X, bad)),  # noqa: B023
                lambda: influence.relabel([0, 1, 2], [y[0], y[0], label]),  # noqa: B023
                lambda: influence.relabel([0], label),  # noqa: B023
            ):
                with pytest.raises(InputError, match=f"classes_, {listed}"):
                    call()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda X, y: X, r"queries is a ndarray; expected \(X, y\)"),
        (lambda X, y: (X, y, y), r"queries is a tuple of 3; expected \(X, y\)"),
        (lambda X, y: [X, y], "queries: example 0 is a ndarray"),
        (lambda X, y: [], "queries is empty"),
        (lambda X, y: (X[:, :1], y), r"queries: X has shape \(4, 1\); expected \(n, 2\)"),
        (lambda X, y: (X, y[:-1]), "queries: X has 4 examples and y 3"),
        (lambda X, y: (X, "abcd"), "y no sequence"),
        (lambda X, y: (X, np.stack([y, y], 1)), r"y has shape \(4, 2\)"),
        (lambda X, y: (X.astype(str).astype(object) + "x", y), "X holds no numbers"),
        (lambda X, y: {"x": X, "y": y}, "queries is a dict"),
    ],
)
def test_queries_of_another_form_are_refused(data, message):
    influence, _, given, _, _ = fitted_on("shifted")
    with as_a_user(), pytest.raises(InputError, match=message):
        influence.scores(data(*at(given, QUERIES)))


def test_targets_of_a_regression_in_any_form():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=30)
    influence = wherefrom.from_sklearn(Ridge().fit(X, y), X, y, progress=False).fit()
    expected = influence.scores((torch.tensor(X[:4]), torch.tensor(y[:4]))).values
    for queries in forms(X[:4], y[:4]):
        torch.testing.assert_close(influence.scores(queries).values, expected)
    with as_a_user(), pytest.raises(InputError, match=r"y has shape \(4, 2\); expected \('n',\)"):
        influence.scores((X[:4], np.stack([y[:4], y[:4]], 1)))
    with as_a_user(), pytest.raises(InputError, match="y holds no numbers"):
        influence.scores((X[:4], np.array(["a", "b", "c", "d"])))


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    X, k = problem(3)
    frame, labels = pandas.DataFrame(X, columns=["length", "width"]), pandas.Series(KINDS["text"][k])
    estimator = LogisticRegression(**TIGHT).fit(frame, labels)
    influence = wherefrom.from_sklearn(estimator, frame, labels, progress=False).fit()
    plain = wherefrom.from_sklearn(estimator, X, labels.to_numpy(), progress=False).fit()
    torch.testing.assert_close(
        influence.scores((frame[:3], labels[:3])).values, plain.scores((X[:3], labels[:3])).values
    )


def test_the_last_example_of_a_class_is_named_by_the_users_label():
    X, k = problem(2)
    y = np.array(["spam", "ham"])[k][:40]
    y[:] = np.where(np.arange(40) == 7, "spam", "ham")
    estimator = LogisticRegression(**TIGHT).fit(X[:40], y)
    influence = wherefrom.from_sklearn(estimator, X[:40], y, progress=False).fit()
    with pytest.raises(InputError, match="all 1 training examples of class 'spam'"):
        influence.remove([7]).change((X[:2], y[:2]))
