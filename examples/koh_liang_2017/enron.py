"""The Enron1 spam corpus (Metsis et al. 2006): e-mails of one person, as a bag of words."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.sparse
from data_files import DataError, locate
from sklearn.feature_extraction.text import CountVectorizer

SUBFOLDERS = ("spam", "enron")
SOURCE = "The corpus can be had from http://www2.aueb.gr/users/ion/data/enron-spam/ (Enron1, preprocessed)."
LABELS = {"ham": -1, "spam": 1}
WORD = r"(?u)\b[a-z]{2,}\b"


@dataclass(frozen=True)
class Mails:
    """E-mails in the order of their names: texts, and labels (n,), −1 for ham and +1 for spam."""

    texts: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Mails:
        return Mails([self.texts[row] for row in rows], self.labels[rows])

    def divided(self, share: float, seed: int) -> tuple[Mails, Mails]:
        """The first `share` (rounded down) of the shuffled e-mails, and the others."""
        order = np.random.default_rng(seed).permutation(len(self))
        first = int(share * len(self))
        return self.take(order[:first]), self.take(order[first:])


@dataclass(frozen=True)
class BagOfWords:
    """Word counts: rows are e-mails, columns words.

    Attributes:
        train, test: (n, words), float64.
        words: the vocabulary, in the order of the columns.
    """

    train: scipy.sparse.csr_matrix
    test: scipy.sparse.csr_matrix
    words: list[str]


def load_enron(folder: str | Path) -> Mails:
    """All e-mails of `enron1.tar.gz`.

    Raises:
        DataError: the archive is absent, damaged, or holds no folders ham and spam.
    """
    path = locate(Path(folder), "enron1.tar", SUBFOLDERS, SOURCE)
    found: list[tuple[str, str, str]] = []
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and name.suffix == ".txt" and name.parent.name in LABELS:
                    found.append((name.name, name.parent.name, stream.read().decode("latin-1")))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the archive again.") from error
    if {kind for _, kind, _ in found} != set(LABELS):
        raise DataError(f"{path} lacks e-mails in its folders ham and spam. {SOURCE}")
    found.sort()
    return Mails([text for *_, text in found], np.array([LABELS[kind] for _, kind, _ in found]))


def bag_of_words(train: Mails, test: Mails, *, most: int, min_mails: int = 5) -> BagOfWords:
    """Counts of the `most` frequent words of the training e-mails.

    A word is two or more letters and no English stop word, found in `min_mails` training e-mails at least.
    """
    vectoriser = CountVectorizer(
        token_pattern=WORD, stop_words="english", min_df=min_mails, max_features=most, dtype=np.float64
    )
    counts = vectoriser.fit_transform(train.texts)
    return BagOfWords(counts, vectoriser.transform(test.texts), vectoriser.get_feature_names_out().tolist())
