"""Rademacher, Gaussian and sparse projections: unbiased, exact to the last bit; what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.gradients.projections import BoundProjection, Gaussian, Projection, Rademacher, SparseJL
from wherefrom.gradients.projections.exact_sums import BLOCK
from wherefrom.gradients.projections.tiled import COMPONENTS
from wherefrom.task import ParameterSet

KINDS = (Rademacher, Gaussian, SparseJL)
# Sizes that cross the edges of blocks and tiles.
WIDE = (BLOCK + 37, COMPONENTS + 29)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(projection: BoundProjection) -> torch.Tensor:
    """`P` itself, `(k, p)`."""
    return projection.adjoint(torch.eye(projection.k, dtype=torch.float64))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request) -> type[Projection]:
    return request.param


@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(-(2**70), 2**70),
    batch=st.integers(0, 4),
    pick=st.sampled_from(KINDS),
)
@settings(max_examples=60, deadline=None)
def test_the_adjoint_is_the_adjoint(sizes, seed, batch, pick):
    p, k = sizes
    projection = pick(k, seed).bind(p)
    x, y = normal(batch, p), normal(3, k, seed=1)
    forward, backward = projection.apply(x), projection.adjoint(y)
    assert forward.shape == (batch, k) and backward.shape == (3, p)
    torch.testing.assert_close(forward @ y.T, x @ backward.T, rtol=1e-12, atol=1e-12 * p)


def test_rows_are_multiplied_by_the_matrix_across_blocks_and_tiles(kind):
    p, k = WIDE
    projection = kind(k, 5).bind(p)
    x, y = normal(3, p), normal(2, k, seed=1)
    matrix = dense(projection)
    torch.testing.assert_close(projection.apply(x), x @ matrix.T, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(projection.adjoint(y), y @ matrix, rtol=1e-12, atol=1e-11)
    assert matrix[:, BLOCK:].abs().sum() > 0 and matrix[COMPONENTS:].abs().sum() > 0


@given(seed=st.integers(0, 10**9), pick=st.sampled_from(KINDS), k=st.integers(2, 12))
@settings(max_examples=6, deadline=None)
def test_inner_products_are_kept_in_the_mean_over_seeds(seed, pick, k):
    """`E[PᵀP] = I`, each entry within six standard errors of the mean of 300 seeds."""
    p, draws = 5, 300
    grams = torch.stack([(m.T @ m) for m in (dense(pick(k, seed + i).bind(p)) for i in range(draws))])
    standard_error = math.sqrt(2 / k / draws)  # of a diagonal entry; that of the others is less
    assert float((grams.mean(0) - torch.eye(p)).abs().max()) < 6 * standard_error


def test_errors_are_of_the_expected_size(kind):
    """Over seeds, root mean squares of the errors are `√((1 + cos²)/k)` and `√(1/(2k))`, to 15%."""
    k, p, draws = 50, 400, 400
    x, y = normal(2, p)
    y = y + 0.5 * x
    x, y = x / x.norm(), y / y.norm()
    images = [kind(k, seed).bind(p).apply(torch.stack([x, y])) for seed in range(draws)]
    inner = torch.stack([image[0] @ image[1] for image in images]) - x @ y
    norm = torch.stack([image[0].norm() for image in images]) - 1
    projection = kind(k).bind(p)
    expected = float(projection.expected_inner_error(x @ y))
    assert float(inner.square().mean().sqrt()) == pytest.approx(expected, rel=0.15)
    assert float(norm.square().mean().sqrt()) == pytest.approx(projection.expected_norm_error(), rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_equal_to_the_last_bit_for_every_batch_and_number_of_threads(kind, dtype):
    p, k = WIDE
    projection = kind(k, 2).bind(p)
    # Entries of very different sizes: sums in another order would round otherwise.
    x = (normal(33, p) * (10 ** (4 * normal(33, p, seed=1)))).to(dtype)
    y = (normal(33, k, seed=2) * (10 ** (4 * normal(33, k, seed=3)))).to(dtype)
    whole, back = projection.apply(x), projection.adjoint(y)
    for size in (1, 5, 32):
        assert torch.equal(torch.cat([projection.apply(part) for part in x.split(size)]), whole)
        assert torch.equal(torch.cat([projection.adjoint(part) for part in y.split(size)]), back)
    assert torch.equal(projection.apply(x.flip(0)).flip(0), whole)
    assert torch.equal(projection.apply(x.T.contiguous().T), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(projection.apply(x), whole)
    finally:
        torch.set_num_threads(threads)


def test_float32_rows_are_projected_to_float32_precision(kind):
    projection = kind(300).bind(5000)
    x = normal(4, 5000).float()
    expected = x.double() @ dense(projection).T
    made = projection.apply(x)
    assert made.dtype == torch.float32
    assert float((made - expected).abs().max() / expected.abs().max()) < 1e-6


@pytest.mark.parametrize("size", [1e-250, 1e-30, 1e30, 1e250])
def test_rows_of_any_size(kind, size):
    projection = kind(20).bind(30)
    x = normal(3, 30)
    x[1] = 0
    torch.testing.assert_close(projection.apply(size * x) / size, projection.apply(x), rtol=1e-12, atol=1e-13)
    assert not projection.apply(size * x)[1].any()


def test_a_row_that_is_not_finite_spoils_no_other(kind):
    projection = kind(20).bind(30)
    x = normal(3, 30)
    expected = projection.apply(x)
    x[1, 4] = torch.nan
    made = projection.apply(x)
    assert torch.equal(made[[0, 2]], expected[[0, 2]])
    assert bool(torch.isnan(made[1]).any())


def test_the_same_seed_gives_the_same_map_and_another_seed_another(kind):
    x = normal(2, 60)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = kind(20, 3).bind(60).apply(x)
        state = torch.random.get_rng_state()
        torch.manual_seed(2)
        again = kind(20, 3).bind(60).apply(x)
        torch.manual_seed(1)
        assert torch.equal(torch.random.get_rng_state(), state)  # nothing was drawn from torch's own
    assert torch.equal(first, again)
    others = [kind(20, seed).bind(60).apply(x) for seed in (4, -3, 2**64 - 4)]
    assert all(not torch.equal(first, other) for other in others)


def test_blocks_of_parameters_and_components_are_independent():
    """No tile repeats another: rows and columns of the matrix across their edges are uncorrelated."""
    for pick in (Rademacher, Gaussian):
        matrix = dense(pick(2 * COMPONENTS).bind(2 * BLOCK)) * math.sqrt(2 * COMPONENTS)
        tiles = [part for half in matrix.chunk(2) for part in half.chunk(2, dim=1)]
        for i, one in enumerate(tiles):
            for other in tiles[i + 1 :]:
                assert float((one * other).mean().abs()) < 6 / math.sqrt(one.numel())


@pytest.mark.parametrize("pick", [Rademacher, Gaussian])
def test_fewer_components_are_the_first_of_more(pick):
    x = normal(2, 60)
    few, many = pick(20).bind(60).apply(x), pick(300).bind(60).apply(x)
    torch.testing.assert_close(few * math.sqrt(20), many[:, :20] * math.sqrt(300), rtol=1e-14, atol=0)


def test_entries_are_signs_and_normal_numbers():
    signs = dense(Rademacher(100).bind(300)) * 10
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=1e-15, atol=0)
    assert abs(float(signs.mean())) < 6 / math.sqrt(signs.numel())
    entries = dense(Gaussian(200).bind(5000)) * math.sqrt(200)
    for level in (-2.0, -1.0, 0.0, 0.5, 3.0):
        expected = 0.5 * (1 + math.erf(level / math.sqrt(2)))
        assert float((entries < level).double().mean()) == pytest.approx(expected, abs=6 * 0.5 / 1000)
    assert float(entries.square().mean()) == pytest.approx(1, abs=6 * math.sqrt(2e-6))


@given(k=st.integers(1, 40), data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_sparse_projection_has_as_many_entries_for_each_parameter_as_asked(k, data):
    nonzeros = data.draw(st.integers(1, k))
    matrix = dense(SparseJL(k, 1, nonzeros).bind(50))
    assert bool(((matrix != 0).sum(0) == nonzeros).all())
    torch.testing.assert_close(matrix.square().sum(0), torch.ones(50, dtype=torch.float64))


def test_a_parameter_set_is_bound_by_its_size(kind):
    parameters = ParameterSet(nn.Linear(7, 3).double())
    x = normal(2, 24)
    assert torch.equal(kind(5).bind(parameters).apply(x), kind(5).bind(24).apply(x))


def test_redrawn_weights_have_mean_zero_and_variance_one(kind):
    weights = kind(30).bind(40).resampled(4000, 0)
    assert weights.shape == (4000, 30)
    torch.testing.assert_close(weights.sum(1), torch.zeros(4000, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(weights.square().mean()) == pytest.approx(1, rel=0.03)
    assert bool((kind(1).bind(40).resampled(3, 0).abs() == 1).all())


def test_settings_are_json_values(kind):
    assert kind(7, 3).settings() == {
        "projection": kind.name,
        "k": 7,
        "seed": 3,
        **({"nonzeros": 7} if kind is SparseJL else {}),
    }


@pytest.mark.parametrize("k", [0, -3, 2.0, True, None])
def test_a_number_of_components_that_is_none_is_refused(kind, k):
    with as_a_user(), pytest.raises(InputError, match=r"k=.*a whole number of at least 1"):
        kind(k)


@pytest.mark.parametrize("seed", [1.5, None, "a", False])
def test_a_seed_that_is_no_integer_is_refused(kind, seed):
    with as_a_user(), pytest.raises(InputError, match="seed="):
        kind(5, seed)


def test_vectors_of_another_length_are_refused(kind):
    with pytest.raises(InputError, match="p=0"):
        kind(5).bind(0)
    projection = kind(5).bind(9)
    with pytest.raises(InputError, match=r"rows have 8 entries.*p = 9"):
        projection.apply(normal(2, 8))
    with pytest.raises(InputError, match=r"rows have 9 entries.*k = 5"):
        projection.adjoint(normal(2, 9))


@pytest.mark.parametrize(("nonzeros", "message"), [(0, "nonzeros=0"), (6, "nonzeros=6.*at most k=5")])
def test_a_number_of_nonzeros_out_of_range_is_refused(nonzeros, message):
    with pytest.raises(InputError, match=message):
        SparseJL(5, nonzeros=nonzeros)
