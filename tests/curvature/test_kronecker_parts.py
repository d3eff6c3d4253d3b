"""Parts of a training set gathered apart, in batches of any size, with any padding."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curvature.kronecker_cases import Setting, blocks_of, summed_tokens
from tests.problems import Attention, N, convolution, seeded, tanh_mlp
from wherefrom.curvature import GaussNewtonOperator, choose_curvature
from wherefrom.curvature.kronecker import (
    EigenvalueSums,
    KroneckerGathering,
    KroneckerMoments,
    KroneckerOptions,
    Ranges,
    read_bases,
    read_sums,
    write_bases,
    write_sums,
)
from wherefrom.errors import InputError, StoreError, UnsupportedError
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.losses import CrossEntropy
from wherefrom.task import Objective

TOLERANCE = {"atol": 1e-12, "rtol": 1e-10}
MLP = Setting(tanh_mlp())


def assert_sums_equal(found, expected) -> None:
    assert found.covered == expected.covered
    for name, total in expected.sums.items():
        torch.testing.assert_close(found.sums[name], total, **TOLERANCE)


def merged(parts, order):
    first, *others = [parts[place] for place in order]
    for other in others:
        first.merge(other)
    return first


@given(
    cuts=st.lists(st.integers(0, N), max_size=4),
    seed=st.randoms(use_true_random=False),
    labels=st.sampled_from(["exact", "sampled"]),
    batch_size=st.integers(1, N + 2),
)
@settings(max_examples=25, deadline=None)
def test_any_parts_in_any_order_add_up_to_what_one_process_gathers(cuts, seed, labels, batch_size):
    gathering = MLP.gathering(labels=labels)
    ranges = [range(first, stop) for first, stop in pairwise([0, *sorted(cuts), N])]
    order = list(range(len(ranges)))
    seed.shuffle(order)
    moments = merged([gathering.moments(part, batch_size=batch_size) for part in ranges], order)
    assert_sums_equal(moments, gathering.moments())
    bases = gathering.bases(gathering.moments())
    sums = merged([gathering.eigenvalues(bases, part, batch_size=batch_size) for part in ranges], order)
    assert_sums_equal(sums, gathering.eigenvalues(bases))


def test_processes_that_share_files_end_with_the_same_curvature(tmp_path):
    expected = Setting(convolution()).gather()
    processes = [Setting(convolution()).gathering() for _ in range(2)]
    parts = [range(4), range(4, N)]
    for process, part in zip(processes, parts):
        write_sums(tmp_path / f"moments{part.start}", process, process.moments(part))
    first = processes[0]
    moments = read_sums(tmp_path / "moments4", first)
    moments.merge(read_sums(tmp_path / "moments0", first))
    write_bases(tmp_path / "bases", first, first.bases(moments))
    for process, part in zip(processes, parts):
        bases = read_bases(tmp_path / "bases", process)
        write_sums(tmp_path / f"eigenvalues{part.start}", process, process.eigenvalues(bases, part))
    sums = read_sums(tmp_path / "eigenvalues0", first)
    sums.merge(read_sums(tmp_path / "eigenvalues4", first))
    found = first.curvature(read_bases(tmp_path / "bases", first), sums)
    for ours, theirs in zip(blocks_of(found), blocks_of(expected)):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_a_gathering_can_be_made_of_an_objective():
    objective = tanh_mlp().objective(weight_decay=0.1)
    gathering = KroneckerGathering.of(objective, progress=False)
    assert_sums_equal(gathering.moments(), MLP.gathering().moments())
    assert gathering.identity["method"] == "ekfac" and gathering.identity["labels"] == "exact"
    drawn = KroneckerGathering.of(objective, KroneckerOptions(seed=4), curvature="sampled_fisher")
    assert drawn.identity["seed"] == 4
    with pytest.raises(UnsupportedError, match=r"curvature='hessian' has no Kronecker factors.*'ggn'"):
        KroneckerGathering.of(objective, curvature="hessian")


def test_examples_counted_twice_are_refused():
    gathering = MLP.gathering()
    moments = gathering.moments(range(6))
    before = {name: total.clone() for name, total in moments.sums.items()}
    with pytest.raises(InputError, match=r"examples 5\.\.5 were gathered twice"):
        moments.merge(gathering.moments(range(5, N)))
    for name, total in before.items():
        assert torch.equal(moments.sums[name], total)


def test_missing_examples_are_named():
    gathering = MLP.gathering()
    moments = gathering.moments(range(2, 6))
    with pytest.raises(InputError, match=r"cover 4 of 11 training examples; missing: 0\.\.1, 6\.\.10"):
        gathering.bases(moments)
    bases = gathering.bases(gathering.moments())
    with pytest.raises(InputError, match=r"missing: 3\.\.10"):
        gathering.curvature(bases, gathering.eigenvalues(bases, range(3)))


def test_sums_in_other_bases_or_of_other_models_are_refused():
    gathering, other = MLP.gathering(), MLP.gathering(labels="sampled")
    bases, strange = (one.bases(one.moments()) for one in (gathering, other))
    sums = gathering.eigenvalues(bases, range(5))
    with pytest.raises(InputError, match="other bases"):
        sums.merge(gathering.eigenvalues(strange, range(5, N)))
    with pytest.raises(InputError, match="other bases"):
        gathering.curvature(bases, gathering.eigenvalues(strange))
    for wrong in (gathering.moments(), Setting(convolution()).gathering().moments()):
        with pytest.raises(InputError, match="blocks differ"):
            sums.merge(wrong)


@pytest.mark.parametrize("wrong", [range(12), range(-1, 3), range(0, 10, 2)], ids=str)
def test_a_range_outside_the_training_set_is_refused(wrong):
    with pytest.raises(InputError, match="expected a range of the 11 training examples"):
        MLP.gathering().moments(wrong)


def test_files_of_another_model_or_seed_are_refused(tmp_path):
    first, other = MLP.gathering(labels="sampled", seed=1), MLP.gathering(labels="sampled", seed=2)
    write_sums(tmp_path / "moments", first, first.moments())
    assert isinstance(read_sums(tmp_path / "moments", first), KroneckerMoments)
    with pytest.raises(StoreError, match=r"belongs to another gathering: seed differs"):
        read_sums(tmp_path / "moments", other)
    with pytest.raises(StoreError, match=r"blocks, .*model, .* differ"):
        read_sums(tmp_path / "moments", Setting(convolution()).gathering())
    with pytest.raises(StoreError, match=r"holds 'moments', expected bases"):
        read_bases(tmp_path / "moments", first)
    with pytest.raises(StoreError, match="cannot be read"):
        read_sums(tmp_path / "absent", first)
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(StoreError, match=r"text cannot be used: it has no checksum.*Delete it"):
        read_sums(tmp_path / "text", first)


@given(pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6))
def test_ranges_are_sets_of_numbers(pairs):
    numbers = [i for first, stop in pairs for i in range(first, stop)]
    if len(set(numbers)) < len(numbers):
        with pytest.raises(InputError, match="twice"):
            Ranges(pairs)
        return
    ranges = Ranges(pairs)
    assert [i for first, stop in ranges.pairs for i in range(first, stop)] == sorted(numbers)
    assert Ranges.from_text(ranges.as_text()) == ranges and hash(ranges) == hash(Ranges(ranges.pairs))
    missing = [i for first, stop in ranges.missing(range(5, 50)).pairs for i in range(first, stop)]
    assert missing == [i for i in range(5, 50) if i not in numbers]
    assert len(ranges) == len(numbers)


def padded(items):
    """Sequences with as much padding as the longest of the batch asks for."""
    longest = max(len(tokens) for tokens, _ in items)
    x = torch.zeros(len(items), longest, dtype=torch.long)
    y = torch.full((len(items), longest), -100)
    for row, (tokens, targets) in enumerate(items):
        x[row, : len(tokens)], y[row, : len(tokens)] = tokens, targets
    return x, y


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("labels", ["exact", "sampled"])
def test_factors_do_not_depend_on_padding_or_batches(sharing, labels):
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 4, 2, 5, 3, 1]
    draw = [torch.randint(5, (2, length), generator=generator) for length in lengths]
    items = [(pair[0], pair[1]) for pair in draw]
    loss = CrossEntropy(class_dim=-1)
    objective = Objective(seeded(Attention), items, loss=loss, collate=padded)
    engine = GradientEngine(objective)
    operator = choose_curvature(engine, "ggn").operator
    operator = next(term for term in operator.terms if isinstance(term, GaussNewtonOperator))
    options = KroneckerOptions("ekfac", labels, 1, sharing)
    gathering = KroneckerGathering(operator, LayerGradients(engine), options, progress=False)
    alone, together = gathering.moments(batch_size=1), gathering.moments(batch_size=6)
    assert_sums_equal(together, alone)
    bases = gathering.bases(alone)
    assert_sums_equal(gathering.eigenvalues(bases, batch_size=6), gathering.eigenvalues(bases, batch_size=1))


@pytest.mark.parametrize("build", [tanh_mlp, convolution, summed_tokens])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_factors_do_not_depend_on_batches(build, sharing):
    gathering = Setting(build()).gathering(sharing=sharing)
    bases = gathering.bases(gathering.moments())
    for size in (1, 4):
        assert_sums_equal(gathering.moments(batch_size=size), gathering.moments())
        assert_sums_equal(gathering.eigenvalues(bases, batch_size=size), gathering.eigenvalues(bases))


def test_empty_sums_take_part_in_a_merge():
    gathering = MLP.gathering()
    moments = KroneckerMoments.empty(gathering.blocks)
    moments.merge(gathering.moments(range(3, 3)))
    assert moments.n == 0 and str(moments.covered) == "none"
    sums = EigenvalueSums.empty(gathering.blocks, "")
    assert float(sum(total.sum() for total in sums.sums.values())) == 0
