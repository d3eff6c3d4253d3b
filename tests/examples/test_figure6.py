"""Wrong labels found by self-influence, loss and chance, on made-up counts."""

import io
import json
import tarfile

import enron
import figure6
import logistic_regression
import numpy as np
import pytest
import scipy.sparse
import spam_filter
from attribution import self_scores
from enron import BagOfWords
from mnist import split_of
from scipy.special import expit

import wherefrom
from wherefrom.losses import Logistic

SETTINGS = spam_filter.Settings(repeats=3, alpha=0.01, others=(0.1,), other_repeats=2)


@pytest.fixture(scope="module")
def data():
    """200 + 80 examples of 30 counts, two classes that words tell apart."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(280) < 0.3, 1, -1)
    rates = np.where(labels[:, None] == 1, rng.gamma(0.5, 1.0, 30), rng.gamma(0.5, 1.0, 30))
    counts = scipy.sparse.csr_matrix(rng.poisson(rates).astype(float))
    bag = BagOfWords(counts[:200], counts[200:], [str(i) for i in range(30)])
    return spam_filter.Data(bag, labels[:200], labels[200:])


def test_self_influence_is_the_closed_form(data):
    x, y = data.bag.train.toarray(), data.train_labels
    fit = logistic_regression.fit(x, y, 0.01)
    found = self_scores(fit.weights, split_of(x, y), loss=Logistic(), alpha=0.01, solver=wherefrom.Exact())
    misfit = expit(-y * (x @ fit.weights))
    hessian = (x.T * (misfit * (1 - misfit) / len(y))) @ x + 0.01 * np.eye(x.shape[1])
    expected = misfit**2 * np.einsum("ij,ij->i", x @ np.linalg.inv(hessian), x)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-8)


def test_curves_and_repair(data):
    result = spam_filter.experiment(data, SETTINGS)
    assert result["converged"] == 3 and result["flipped"] == 20
    assert result["checked"] == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    curves = {name: result["fraction_found"][name]["mean"] for name in spam_filter.ORDERS}
    for curve in curves.values():
        assert len(curve) == 6 and np.all(np.diff(curve) >= 0) and 0 <= curve[0] <= 0.5
    assert curves["self_influence"][-1] > curves["random"][-1] + 0.2
    accuracy = result["test_accuracy"]
    assert accuracy["self_influence"]["mean"][-1] > accuracy["flipped_labels"]["mean"][0]
    assert list(result["other_regularisation"]) == ["L2=0.1"]
    assert len(figure6.draw(result).axes) == 4
    rows = figure6.comparison(result)
    assert rows[0].paper == ".41 .62 .72 .79 .83 .86" and len(rows) == 5


def test_a_repeat_is_what_its_labels_say(data):
    """All labels checked by any order: nothing is left to repair."""
    one = spam_filter.one_repeat(data, 0.01, spam_filter.Settings(flipped=0.05), 0)
    again = spam_filter.one_repeat(data, 0.01, spam_filter.Settings(flipped=0.05), 0)
    np.testing.assert_array_equal(one.found, again.found)
    assert one.gradient_norm < 1e-6
    # 10 flips and 10 examples a step: the shares are tenths.
    np.testing.assert_allclose(one.found * 10, np.round(one.found * 10), atol=1e-12)


def test_repeats_that_do_not_converge_are_left_out(data, monkeypatch):
    real = spam_filter.one_repeat

    def one_fails(data, alpha, settings, number):
        repeat = real(data, alpha, settings, number)
        if number == 1:
            repeat = spam_filter.Repeat(repeat.found + 1, repeat.repaired, repeat.before, 1.0)
        return repeat

    monkeypatch.setattr(spam_filter, "one_repeat", one_fails)
    result = spam_filter.summary(data, 0.01, SETTINGS, 3)
    assert result["repeats"] == 3 and result["converged"] == 2
    assert max(result["fraction_found"]["loss"]["mean"]) <= 1.0
    with pytest.raises(ArithmeticError, match="1 of 2 repeats converged"):
        spam_filter.summary(data, 0.01, SETTINGS, 2)


def test_from_the_command_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = np.array(["gas", "deal", "pills", "cheap", "meeting", "offer", "contract", "winner"])
    with tarfile.open(tmp_path / "enron1.tar.gz", "w:gz") as made:
        for number in range(150):
            spam = number % 3 == 0
            odds = np.where(np.isin(words, ["pills", "cheap", "offer", "winner"]), 3.0 if spam else 1.0, 2.0)
            raw = " ".join(rng.choice(words, 12, p=odds / odds.sum())).encode()
            member = tarfile.TarInfo(f"enron1/{'spam' if spam else 'ham'}/{number:04}.txt")
            member.size = len(raw)
            made.addfile(member, io.BytesIO(raw))
    figure6.main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--quick", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 120 and result["p"] == 8 and result["converged"] == 2
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".png", ".svg"}


def test_quick_keeps_its_settings_beside_a_number_of_repeats(tmp_path, monkeypatch):
    seen = []

    class Enough(Exception):
        pass

    def stop(data, settings):
        seen.append(settings)
        raise Enough

    mails = enron.Mails(["cheap offer"] * 12, np.array([-1, 1] * 6))
    monkeypatch.setattr(figure6, "load_enron", lambda folder: mails)
    monkeypatch.setattr(figure6, "experiment", stop)
    with pytest.raises(Enough):
        figure6.main(["--data", str(tmp_path), "--out", str(tmp_path), "--quick", "--repeats", "3"])
    assert seen[0].repeats == 3 and seen[0].words == 800 and seen[0].others == (1e-2,)


@pytest.mark.parametrize("given", ["1", "0", "-2", "two"])
def test_a_standard_error_needs_two_repeats(given, capsys):
    with pytest.raises(SystemExit):
        figure6.command().parse_args([f"--repeats={given}"])
    assert "expected a whole number, at least 2" in capsys.readouterr().err
