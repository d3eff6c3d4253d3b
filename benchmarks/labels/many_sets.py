"""Small classifications of many kinds, for the question which ranking of labels to trust by default.

Every set is a few thousand examples and a few hundred features. Which sets served to choose the ranking and
which to check it was fixed before either was looked at: `CHOOSING`, `CHECKING`.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from noisy_labels import _dense, _idx, _table
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder, StandardScaler


@dataclass(frozen=True)
class CleanSet:
    """Features and true labels of training and validation examples.

    Attributes:
        x, y: training examples, `(n, d)` in float64 and `(n,)`.
        x_validation, y_validation: examples with labels to trust.
        given: by the name of the noise, labels that people or programs gave the training examples.
    """

    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    given: dict[str, np.ndarray]

    @property
    def classes(self) -> int:
        return int(max(self.y.max(), self.y_validation.max())) + 1


def digits(folder: Path, rng: np.random.Generator) -> CleanSet:
    x, y = load_digits(return_X_y=True)
    return _split(x / 16.0, y, rng, 1300, 400)


def breast_cancer(folder: Path, rng: np.random.Generator) -> CleanSet:
    x, y = load_breast_cancer(return_X_y=True)
    return _split(StandardScaler().fit_transform(x), y, rng, 400, 160)


def mnist(folder: Path, rng: np.random.Generator) -> CleanSet:
    return _images(folder / "mnist", rng)


def fashion(folder: Path, rng: np.random.Generator) -> CleanSet:
    return _images(folder / "fashion_mnist", rng)


def cifar_first(folder: Path, rng: np.random.Generator) -> CleanSet:
    """3,000 images of CIFAR-10 with the label of one person each (Wei et al. 2022)."""
    return _cifar(folder, slice(0, 3000), {"human": "random_label1"})


def cifar_others(folder: Path, rng: np.random.Generator) -> CleanSet:
    """3,000 other images, with the majority of three people and the worst of the three."""
    return _cifar(folder, slice(3000, 6000), {"human-majority": "aggre_label", "human-worst": "worse_label"})


def enron(folder: Path, rng: np.random.Generator) -> CleanSet:
    rows = _table(folder / "spam" / "enron1.csv.gz")
    y = np.array([int(row["label"] in ("spam", "1")) for row in rows])
    words = CountVectorizer(max_features=500, stop_words="english")
    return _split(np.log1p(_dense(words.fit_transform([row["text"] for row in rows]))), y, rng)


def spambase(folder: Path, rng: np.random.Generator) -> CleanSet:
    with gzip.open(folder / "spam" / "spambase.data.gz", "rt") as stream:
        values = np.loadtxt(stream, delimiter=",")
    return _split(StandardScaler().fit_transform(np.log1p(values[:, :-1])), values[:, -1].astype(int), rng)


def adult(folder: Path, rng: np.random.Generator) -> CleanSet:
    with gzip.open(folder / "tabular" / "adult.data.gz", "rt") as stream:
        rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if len(row) == 15]
    rows = [rows[i] for i in rng.permutation(len(rows))[:3000]]
    numbers = [0, 4, 10, 11, 12]
    return _split(_table_features([row[:-1] for row in rows], numbers), _codes(row[-1] for row in rows), rng)


def german(folder: Path, rng: np.random.Generator) -> CleanSet:
    rows = [line.split() for line in (folder / "tabular" / "german.data").read_text().splitlines() if line]
    numbers = [1, 4, 7, 10, 12, 15, 17]
    features = _table_features([row[:-1] for row in rows], numbers)
    return _split(features, _codes(row[-1] for row in rows), rng, 700, 300)


def sst2(folder: Path, rng: np.random.Generator) -> CleanSet:
    with gzip.open(folder / "text" / "sst2_train.tsv.gz", "rt", encoding="utf-8") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream][1:]
    rows = [rows[i] for i in rng.permutation(len(rows))[:3000]]
    words = TfidfVectorizer(max_features=600, sublinear_tf=True)
    return _split(_dense(words.fit_transform([row[0] for row in rows])), _codes(row[1] for row in rows), rng)


def ag_news(folder: Path, rng: np.random.Generator) -> CleanSet:
    with gzip.open(folder / "text" / "ag_news_test.csv.gz", "rt", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    rows = [rows[i] for i in rng.permutation(len(rows))[:3000]]
    words = TfidfVectorizer(max_features=500, stop_words="english", sublinear_tf=True)
    texts = _dense(words.fit_transform([" ".join(row[1:]) for row in rows]))
    return _split(texts, _codes(row[0] for row in rows), rng)


def yoruba(folder: Path, rng: np.random.Generator) -> CleanSet:
    """Titles with labels from distant supervision, a third wrong (Hedderich et al. 2020)."""
    rows = _table(folder / "noisy_labels" / "yoruba_newsclass.csv.gz")
    number = {name: i for i, name in enumerate(sorted({row["clean_label"] for row in rows}))}
    parts = {part: [row for row in rows if row["split"] == part] for part in ("train", "dev")}
    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=3, sublinear_tf=True)
    wide = words.fit_transform([row["text"] for row in parts["train"]])
    narrow = TruncatedSVD(200, random_state=0)
    x = narrow.fit_transform(wide)
    x_validation = narrow.transform(words.transform([row["text"] for row in parts["dev"]]))
    y, y_validation = (np.array([number[row["clean_label"]] for row in rows]) for rows in parts.values())
    given = np.array([number[row["noisy_label"]] for row in parts["train"]])
    return CleanSet(x, y, x_validation, y_validation, {"distant": given})


CHOOSING: dict[str, Callable[[Path, np.random.Generator], CleanSet]] = {
    "digits": digits,
    "fashion": fashion,
    "enron1": enron,
    "adult": adult,
    "sst2": sst2,
    "cifar10": cifar_first,
}
CHECKING: dict[str, Callable[[Path, np.random.Generator], CleanSet]] = {
    "breast-cancer": breast_cancer,
    "mnist": mnist,
    "spambase": spambase,
    "german": german,
    "ag-news": ag_news,
    "cifar10-others": cifar_others,
    "yoruba": yoruba,
}


def _split(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, n: int = 2000, validation: int = 500
) -> CleanSet:
    order = rng.permutation(len(y))
    train, held = order[:n], order[n : n + validation]
    return CleanSet(x[train], y[train].astype(np.int64), x[held], y[held].astype(np.int64), {})


def _images(folder: Path, rng: np.random.Generator) -> CleanSet:
    """60 principal components of the pixels, as every other set of pictures here."""
    x = _idx(folder / "train-images-idx3-ubyte.gz").reshape(60_000, -1)
    y = _idx(folder / "train-labels-idx1-ubyte.gz")
    chosen = rng.permutation(60_000)[:2500]
    return _split(_components(x[chosen] / 255.0), y[chosen], rng)


def _cifar(folder: Path, rows: slice, names: dict[str, str]) -> CleanSet:
    packed = (folder / "cifar10" / "train_batch1_images.npy.xz").read_bytes()
    images = np.load(io.BytesIO(lzma.decompress(packed)))
    y = np.load(folder / "cifar10" / "train_labels_50000.npy").astype(np.int64)[:10_000]
    x = _components(images.reshape(len(images), -1) / 255.0)
    human = _human_labels(folder)
    given = {name: human[column][rows].astype(np.int64) for name, column in names.items()} if human else {}
    held = slice(9500, 10_000)
    return CleanSet(x[rows], y[rows], x[held], y[held], given)


def _human_labels(folder: Path) -> dict[str, np.ndarray]:
    """CIFAR-10N, `cifar10/CIFAR-10_human.pt` or a zip that holds it; empty where there is neither."""
    file, archive = folder / "cifar10" / "CIFAR-10_human.pt", folder / "cifar10" / "CIFAR-N.zip"
    if file.exists():
        raw = file.read_bytes()
    elif archive.exists():
        with zipfile.ZipFile(archive) as opened:
            raw = opened.read("CIFAR-N/CIFAR-10_human.pt")
    else:
        return {}
    # Arrays alone: nothing else of a pickle is run.
    parts = [np.ndarray, np.dtype, np.dtypes.Int64DType, np._core.multiarray._reconstruct]  # type: ignore[attr-defined]
    parts.append((np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"))  # type: ignore[attr-defined]
    with torch.serialization.safe_globals(parts):
        loaded: dict[str, np.ndarray] = torch.load(io.BytesIO(raw), weights_only=True)
    return loaded


def _components(x: np.ndarray) -> np.ndarray:
    made = PCA(60, random_state=0).fit_transform(x)
    return np.asarray(made / made[:, 0].std())


def _table_features(rows: list[list[str]], numbers: list[int]) -> np.ndarray:
    numeric = np.array([[float(row[i]) for i in numbers] for row in rows])
    names = [[cell for i, cell in enumerate(row) if i not in numbers] for row in rows]
    coded = _dense(OneHotEncoder(min_frequency=10, handle_unknown="ignore").fit_transform(names))
    return np.hstack([StandardScaler().fit_transform(numeric), coded])


def _codes(labels: object) -> np.ndarray:
    return np.unique(list(labels), return_inverse=True)[1]  # type: ignore[call-overload]
