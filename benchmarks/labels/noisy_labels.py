"""Data sets with wrong labels that are known: flipped at random, or made by people and machines."""

from __future__ import annotations

import csv
import gzip
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

FLIPPED = 0.10


@dataclass(frozen=True)
class LabelTask:
    """A classification whose training labels are partly wrong.

    Attributes:
        x, given, true: training features `(n, d)` (float64), labels as given and as they should be.
        x_validation, y_validation: examples with labels to trust, not trained on.
        x_test, y_test: for the accuracy alone.
        weight_decay: `α` of `(α/2)‖θ‖²`, bias included.
        text: what the noise is.
    """

    name: str
    x: np.ndarray
    given: np.ndarray
    true: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    weight_decay: float
    text: str

    @property
    def wrong(self) -> np.ndarray:
        return self.given != self.true

    @property
    def classes(self) -> int:
        return int(self.true.max()) + 1


def flip(labels: np.ndarray, classes: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """`share` of the labels changed, each to one of the other classes with equal chances."""
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    flipped = labels.copy()
    flipped[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return flipped


def enron1(folder: Path, seed: int) -> LabelTask:
    """Enron1 as in Koh & Liang (2017, §5.4): bag of words, 4,147 training e-mails, 10 % flipped.

    Of the 1,035 others 500 are for validation, the rest for testing.
    """
    rows = _table(folder / "spam" / "enron1.csv.gz")
    y = np.array([int(row["label"] in ("spam", "1")) for row in rows])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    train, held = order[:4147], order[4147:5182]
    texts = [rows[i]["text"] for i in order]
    counts = CountVectorizer(min_df=20, stop_words="english")
    x_train = _dense(counts.fit_transform(texts[:4147]))
    x_held = _dense(counts.transform(texts[4147:5182]))
    x_train, x_held = np.log1p(x_train), np.log1p(x_held)
    validation, test = slice(0, 500), slice(500, None)
    return LabelTask(
        "enron1", x_train, flip(y[train], 2, FLIPPED, rng), y[train],
        x_held[validation], y[held][validation], x_held[test], y[held][test], 1e-2, "10 % flipped",
    )  # fmt: skip


def mnist(folder: Path, seed: int, size: int = 10_000) -> LabelTask:
    """`size` training images of MNIST, 10 % flipped to one of the other nine digits; 1,000 for validation."""
    x = _idx(folder / "mnist" / "train-images-idx3-ubyte.gz").reshape(60_000, -1)
    y = _idx(folder / "mnist" / "train-labels-idx1-ubyte.gz").astype(np.int64)
    x_test = _idx(folder / "mnist" / "t10k-images-idx3-ubyte.gz").reshape(10_000, -1)
    y_test = _idx(folder / "mnist" / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(60_000)
    train, validation = order[:size], order[size : size + 1000]
    return LabelTask(
        "mnist", x[train] / 255.0, flip(y[train], 10, FLIPPED, rng), y[train],
        x[validation] / 255.0, y[validation], x_test / 255.0, y_test, 1e-2, "10 % flipped",
    )  # fmt: skip


def yoruba(folder: Path, seed: int) -> LabelTask:
    """Titles of Yoruba news with labels from distant supervision (Hedderich et al. 2020), a third wrong.

    The noise is the data's own, so that the seed decides nothing.
    """
    rows = _table(folder / "noisy_labels" / "yoruba_newsclass.csv.gz")
    names = sorted({row["clean_label"] for row in rows})
    number = {name: i for i, name in enumerate(names)}
    parts = {part: [row for row in rows if row["split"] == part] for part in ("train", "dev", "test")}
    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=3, sublinear_tf=True)
    x = {"train": _dense(words.fit_transform([row["text"] for row in parts["train"]]))}
    x |= {part: _dense(words.transform([row["text"] for row in parts[part]])) for part in ("dev", "test")}
    clean = {part: np.array([number[row["clean_label"]] for row in parts[part]]) for part in parts}
    given = np.array([number[row["noisy_label"]] for row in parts["train"]])
    return LabelTask(
        "yoruba", x["train"], given, clean["train"], x["dev"], clean["dev"], x["test"], clean["test"], 1e-3,
        "labels from distant supervision",
    )  # fmt: skip


TASKS: dict[str, Callable[[Path, int], LabelTask]] = {"enron1": enron1, "mnist": mnist, "yoruba": yoruba}


def _table(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10**8)
    with gzip.open(path, "rb") as stream:
        return list(csv.DictReader(io.StringIO(stream.read().decode("utf-8"))))


def _idx(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") as stream:
        raw = stream.read()
    dimensions = raw[3]
    shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _dense(counts: sp.spmatrix) -> np.ndarray:
    return np.asarray(counts.toarray(), dtype=np.float64)
