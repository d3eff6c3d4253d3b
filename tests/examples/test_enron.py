"""Reading the spam corpus, its bag of words, and logistic regression on sparse counts."""

import io
import tarfile

import enron
import logistic_regression
import numpy as np
import pytest
import scipy.sparse
from data_files import DataError


def archive(path, mails):
    """A gzipped tar of {name: text}."""
    with tarfile.open(path, "w:gz") as made:
        for name, text in mails.items():
            member = tarfile.TarInfo(name)
            raw = text.encode("latin-1")
            member.size = len(raw)
            made.addfile(member, io.BytesIO(raw))
    return path


def test_reads_ham_and_spam_in_the_order_of_names(tmp_path):
    (tmp_path / "spam").mkdir()
    archive(
        tmp_path / "spam" / "enron1.tar.gz",
        {
            "enron1/Summary.txt": "neither",
            "enron1/spam/0002.txt": "caf\xe9 pills",
            "enron1/ham/0003.txt": "gas",
            "enron1/ham/0001.txt": "meeting",
        },
    )
    mails = enron.load_enron(tmp_path)
    assert mails.texts == ["meeting", "caf\xe9 pills", "gas"]
    np.testing.assert_array_equal(mails.labels, [-1, 1, -1])
    first, rest = mails.divided(0.7, seed=3)
    assert len(first) == 2 and sorted(first.texts + rest.texts) == sorted(mails.texts)
    for part in (first, rest):
        for text, label in zip(part.texts, part.labels):
            assert (label == 1) == ("pills" in text)


def test_an_absent_or_damaged_archive_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"enron1.tar\[.gz\] was not found .*http"):
        enron.load_enron(tmp_path)
    (tmp_path / "enron1.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        enron.load_enron(tmp_path)
    archive(tmp_path / "enron1.tar.gz", {"enron1/ham/0001.txt": "only ham"})
    with pytest.raises(DataError, match="lacks e-mails in its folders ham and spam"):
        enron.load_enron(tmp_path)


def test_words_are_counted_and_learned_from_the_training_mails():
    train = enron.Mails(
        ["the Gas gas 4 x meeting", "gas deal", "rare gas meeting deal deal"], np.array([-1, 1, 1])
    )
    test = enron.Mails(["unseen gas deal deal"], np.array([1]))
    bag = enron.bag_of_words(train, test, most=5, min_mails=2)
    assert bag.words == ["deal", "gas", "meeting"]  # no stop word, no letter alone, nothing in one mail only
    np.testing.assert_array_equal(bag.train.toarray(), [[0, 2, 1], [1, 1, 0], [2, 1, 1]])
    np.testing.assert_array_equal(bag.test.toarray(), [[2, 1, 0]])
    assert enron.bag_of_words(train, test, most=1, min_mails=2).words == ["gas"]


def test_sparse_logistic_regression_reaches_the_same_optimum():
    rng = np.random.default_rng(0)
    x = rng.poisson(0.4, size=(120, 15)).astype(float)
    y = np.where(x @ rng.normal(size=15) + rng.normal(size=120) > 0, 1, -1)
    dense = logistic_regression.fit(x, y, 0.01)
    counts = scipy.sparse.csr_matrix(x)
    sparse = logistic_regression.fit_sparse(counts, y, 0.01)
    assert sparse.gradient_norm < 1e-6
    np.testing.assert_allclose(sparse.weights, dense.weights, atol=1e-4)
    again = logistic_regression.fit_sparse(counts, y, 0.01, start=dense.weights)
    assert again.iterations <= 1
    np.testing.assert_allclose(again.weights, dense.weights, atol=1e-6)
