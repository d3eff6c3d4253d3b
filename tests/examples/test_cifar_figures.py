"""Figures 4 and 5, small: data files, the network and its cache, heads and scores against closed forms."""

import lzma
from types import SimpleNamespace

import cifar10
import cifar_pair
import conv_head
import convnet
import figure4
import figure5
import image_attack
import logistic_regression
import numpy as np
import pytest
import torch
from cifar10 import Images
from data_files import DataError
from sklearn.svm import SVC

from wherefrom.losses import Logistic

TINY = convnet.Settings(stages=((6, 1), (8, 1)), epochs=2, batch=32, learning_rate=0.05)


def images(count, classes, seed, side=16):
    """Noise with a bar whose place and colour tell the class, faint enough for mistakes."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % classes
    pixels = random.normal(120, 35, (count, 3, side, side))
    for row, label in zip(pixels, y):
        row[label % 3, :, label : label + 2] += 25
    return Images(pixels.clip(0, 255).astype(np.uint8), y)


@pytest.fixture(scope="module")
def pair():
    return cifar_pair.pair_of(images(300, 5, 0), images(100, 5, 1), (2, 3), per_class=40)


@pytest.fixture(scope="module")
def network(pair, tmp_path_factory):
    return convnet.trained(pair.others, TINY, tmp_path_factory.mktemp("net")).features


def test_a_pair_keeps_train_and_test_apart(pair):
    assert len(pair.train) == 80 and len(pair.test) == 40 + 40
    assert pair.names == ("bird", "cat") and set(pair.train.y) == {-1, 1}
    assert set(pair.others.y) == {0, 1, 4}
    seen = {image.tobytes() for image in pair.train.pixels}
    assert not seen & {image.tobytes() for image in [*pair.test.pixels, *pair.others.pixels]}
    with pytest.raises(ValueError, match="per_class=61, and the classes have"):
        cifar_pair.pair_of(images(300, 5, 0), images(100, 5, 1), (2, 3), per_class=61)


def test_cifar10_from_arrays_and_from_binaries(tmp_path, monkeypatch):
    parts = {"train": images(12, 10, 0, side=32), "test": images(5, 10, 1, side=32)}
    monkeypatch.setattr(cifar10, "ARRAYS", {"train": ("a.xz", "b.npy", 12), "test": ("c.xz", "d.npy", 5)})
    monkeypatch.setattr(cifar10, "BINARIES", {"train": ("a.bin", 12), "test": ("b.bin", 5)})
    arrays, binaries = tmp_path / "cifar10", tmp_path / "other"
    for folder in (arrays, binaries):
        folder.mkdir()
    for part, (first, second, _), (binary, _) in zip(
        parts.values(), cifar10.ARRAYS.values(), cifar10.BINARIES.values()
    ):
        with lzma.open(arrays / first, "wb") as stream:
            np.save(stream, part.pixels.transpose(0, 2, 3, 1))
        np.save(arrays / second, part.y)
        rows = np.concatenate([part.y[:, None], part.pixels.reshape(len(part), -1)], axis=1)
        rows.astype(np.uint8).tofile(binaries / binary)
    for folder in (tmp_path, binaries):
        for found, part in zip(cifar10.load_cifar10(folder), parts.values()):
            np.testing.assert_array_equal(found.pixels, part.pixels)
            np.testing.assert_array_equal(found.y, part.y)

    np.save(arrays / "d.npy", np.full(5, 10))
    with pytest.raises(DataError, match="labels 10"):
        cifar10.load_cifar10(tmp_path)
    np.save(arrays / "d.npy", np.zeros(3))
    with pytest.raises(DataError, match="expected uint8"):
        cifar10.load_cifar10(tmp_path)
    (arrays / "a.xz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        cifar10.load_cifar10(tmp_path)
    (binaries / "a.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="holds 5 bytes"):
        cifar10.load_cifar10(binaries)
    with pytest.raises(DataError, match="CIFAR-10 was not found"):
        cifar10.load_cifar10(tmp_path / "nowhere")


def test_the_first_layer_whitens_patches():
    x = convnet.pixels(images(40, 5, 0))
    network = convnet.build(TINY, 5, 16)
    convnet.whiten(network, x, epsilon=0.0)
    patches = torch.nn.functional.unfold(x, convnet.PATCH).transpose(1, 2).flatten(0, 1)
    made = patches @ network[0].weight.flatten(1).T + network[0].bias
    np.testing.assert_allclose(np.cov(made.detach().T, bias=True), np.eye(made.shape[1]), atol=2e-3)


def test_the_network_is_trained_once(pair, tmp_path):
    first = convnet.trained(pair.others, TINY, tmp_path)
    again = convnet.trained(pair.others, TINY, tmp_path)
    assert not first.from_file and again.from_file and again.seconds == first.seconds
    x = convnet.pixels(pair.test)
    torch.testing.assert_close(convnet.outputs(first.network, x), convnet.outputs(again.network, x))
    other = convnet.trained(pair.others.take(slice(0, 100)), TINY, tmp_path)
    assert not other.from_file
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="delete it, and it is trained again"):
        convnet.trained(pair.others, TINY, tmp_path)


def test_components_are_white_and_of_unit_norm(pair, network):
    x = convnet.pixels(pair.train).double()
    raw = convnet.outputs(network, x)
    for components in (None, 7):
        reader = conv_head.FrozenFeatures(network, raw, components)
        made = convnet.outputs(reader, x)
        torch.testing.assert_close(made, reader.reduce(raw))
        assert float(made.square().sum(1).mean()) == pytest.approx(1.0)
    torch.testing.assert_close(made.T @ made, torch.eye(7, dtype=torch.float64) * len(x) / 7)
    with pytest.raises(ValueError, match="components=80"):
        conv_head.FrozenFeatures(network, raw, 80)
    with pytest.raises(ValueError, match="span only"):
        conv_head.FrozenFeatures(network, raw[:, :3] @ torch.ones(3, 9).double().tril(), 7)


@pytest.mark.parametrize("width", [5, 60])
def test_a_head_is_at_its_optimum(width):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, width)), np.where(np.arange(30) % 2, 1, -1)
    expected = logistic_regression.fit(x, y, 0.01).weights
    np.testing.assert_allclose(conv_head.fit(x, y, 0.01), expected, rtol=1e-6)
    weak = conv_head.fit(x, y, 1e-8)
    slope = 1e-8 * weak - (x * y[:, None]).T @ (1 / (1 + np.exp(y * (x @ weak)))) / 30
    assert np.linalg.norm(slope) < 1e-10
    with pytest.raises(ArithmeticError, match="after 1 Newton steps"):
        conv_head.fit(x, y, 1e-3, max_iterations=1)


def test_the_kernel_map_gives_the_kernel_machine_back():
    random = np.random.default_rng(0)
    x, xq = random.uniform(size=(40, 12)), random.uniform(size=(9, 12))
    y = np.where(x[:, 0] + 0.3 * random.normal(size=40) > 0.5, 1, -1)
    features, asked, weights, bias, alpha = figure4.svm(x, y, xq)
    machine = SVC(C=figure4.COST, gamma="scale", tol=1e-6).fit(x, y)
    np.testing.assert_allclose(asked @ weights + bias, machine.decision_function(xq), atol=1e-4)
    np.testing.assert_allclose(features @ weights + bias, machine.decision_function(x), atol=1e-4)
    assert alpha == pytest.approx(1 / 40)
    with pytest.raises(DataError, match="not positive definite"):
        figure4.kernel_map(np.ones((3, 3)), np.ones((1, 3)))


def test_influence_with_a_bias_that_is_not_penalised():
    random = np.random.default_rng(0)
    x, xq, w, b = random.normal(size=(30, 4)), random.normal(size=(3, 4)), random.normal(size=4), 0.3
    y, yq = np.where(np.arange(30) % 2, 1, -1), np.array([1, -1, 1])
    made = figure4.influence(x, y, xq, yq, w, b, Logistic(), 0.1)
    one, one_q, theta = np.c_[x, np.ones(30)], np.c_[xq, np.ones(3)], np.append(w, b)
    p = 1 / (1 + np.exp(y * (one @ theta)))
    hessian = (one.T * (p * (1 - p) / 30)) @ one + np.diag([0.1] * 4 + [0.0])
    expected = yq[:, None] * (one_q @ np.linalg.solve(hessian, one.T)) * (p * y)
    np.testing.assert_allclose(made, expected, rtol=1e-8)


def test_closeness():
    distance = np.linspace(1, 2, 100)
    same = np.arange(100) % 2 == 0
    near = figure4.closeness(np.where(same, 1, -1) / distance**2, distance, same)
    assert near["spearman"] == pytest.approx(-1) and near["nearest_share"] > 0.05
    assert near["helpful_weight_of_same_class"] == 1 and near["helpful_weight_of_other_class"] == 0
    even = figure4.closeness(np.random.default_rng(0).uniform(0.99, 1.01, 100), distance, same)
    assert even["nearest_share"] == pytest.approx(0.05, rel=0.02)


def test_figure4(pair, network):
    result, points = figure4.experiment(pair, network, None, overview=8)
    for name in figure4.MODELS:
        assert -1 <= result[name]["median"]["spearman"] <= 1 and len(points[name]) == len(pair.train)
    assert result["overview"] == 8 and len(figure4.comparison(result)) == 2
    assert len(figure4.draw(result, points).axes) == 2
    with pytest.raises(DataError, match="read correctly by both"):
        figure4.choose(np.array([], dtype=int), None)
    with pytest.raises(DataError, match="--query 4 is not"):
        figure4.choose(np.array([1, 2]), 4)


def test_figure5_flips_are_those_of_heads_refitted_from_zero(pair, network):
    settings = figure5.Settings(
        components=24,
        alpha=1e-8,
        edits=(1, 8),
        steps=4,
        together=4,
        queries=20,
        compared=10,
        heads=((None, 1e-2),),
    )
    result, points = figure5.experiment(image_attack.task_of(network, pair), settings)
    assert set(result["flips"]) == {"1", "8"} and result["flips"]["8"] >= result["flips"]["1"]
    assert result["largest_edit_in_grey_levels"] <= 0.5 and result["same_8_bit_picture"]
    found = result["refitted_from_zero"]
    assert found["heads"] > 0
    assert found["same_prediction"] == found["heads"]
    assert result["together"]["random"]["of"] == 4 and len(result["heads"]) == 2
    assert [row.paper for row in figure5.comparison(result)] == ["57%", "16 of 30", "16 of 30"]
    assert len(figure5.draw(result, points).axes) == 3


def test_quick_keeps_its_settings_beside_a_number_of_queries(tmp_path, monkeypatch):
    seen = []

    class Enough(Exception):
        pass

    def stop(task, settings):
        seen.append(settings)
        raise Enough

    for name in ("load_cifar10", "pair_of", "network_for", "task_of"):
        monkeypatch.setattr(figure5, name, lambda *_, **__: SimpleNamespace(features=None))
    monkeypatch.setattr(figure5, "load_cifar10", lambda folder: ())
    monkeypatch.setattr(figure5, "experiment", stop)
    for options in (["--quick", "--queries", "3"], ["--quick"], ["--queries", "5"], []):
        with pytest.raises(Enough):
            figure5.main(["--data", str(tmp_path), "--out", str(tmp_path), *options])
    assert [one.queries for one in seen] == [3, 8, 5, 120]
    assert [one.components for one in seen] == [60, 60, 600, 600]


def test_no_queries_are_refused(capsys):
    with pytest.raises(SystemExit):
        figure5.command().parse_args(["--queries", "0"])
    assert "expected a whole number, at least 1" in capsys.readouterr().err
