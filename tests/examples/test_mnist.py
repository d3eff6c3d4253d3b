"""Reading idx files, and what is said when they are absent or damaged."""

import gzip
import struct

import mnist
import numpy as np
import pytest


def idx_bytes(values: np.ndarray) -> bytes:
    return (
        b"\x00\x00\x08"
        + bytes([values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of 12 + 4 tiny images, of which 5 are held out."""
    monkeypatch.setattr(mnist, "HELD_OUT", 5)
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 4)):
        images = rng.integers(0, 256, size=(count, 3, 2), dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return tmp_path


def test_reads_compressed_and_plain_files_and_holds_out_the_first(folder):
    train, test = mnist.load_mnist(folder)
    assert train.x.shape == (7, 6) and test.x.shape == (4, 6)
    assert train.x.dtype == np.float64 and train.x.min() >= 0.0 and train.x.max() <= 1.0
    np.testing.assert_array_equal(train.y, np.arange(5, 12) % 3)
    raw = mnist.read_idx(folder / "t10k-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(test.x, raw.reshape(4, 6) / 255.0)


def test_a_pair_of_digits_keeps_order_and_origin(folder):
    train, _ = mnist.load_mnist(folder)
    pair = train.pair(2, 0)
    np.testing.assert_array_equal(pair.y, [1, -1, 1, -1, 1])
    np.testing.assert_array_equal(pair.source, [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(pair.x, train.x[pair.source])


def test_an_absent_file_says_which_and_where_to_get_it(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        mnist.DataError, match=r"t10k-labels-idx1-ubyte\[.gz\] was not found .*--data.*https://"
    ):
        mnist.load_mnist(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x0d\x01", "not an idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "ends inside its header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05ab", "announces"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(mnist.DataError, match=message):
        mnist.read_idx(path)


def test_a_file_that_is_not_gzip_is_refused(tmp_path):
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(b"not compressed")
    with pytest.raises(mnist.DataError, match="cannot be read"):
        mnist.read_idx(path)


def test_images_and_labels_of_different_length_are_refused(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(mnist.DataError, match="do not belong together"):
        mnist.load_mnist(folder)
