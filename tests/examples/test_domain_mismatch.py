"""Adult as a table, and the two experiments on made-up people; on Adult itself where it lies beside the
repository."""

from __future__ import annotations

import gzip

import adult
import domain_mismatch
import numpy as np
import pytest
from data_files import DataError

ROW = "39, State-gov, 77516, Bachelors, 13, Never-married, Sales, Husband, White, Male, 2174, 0, 40, {}, {}"


def people(n: int, seed: int) -> adult.Table:
    """Three numbers that decide the answer, and two countries; on the island few say yes."""
    draw = np.random.default_rng(seed)
    island = draw.random(n) < 0.12
    numbers = draw.normal(size=(n, 3))
    inner = numbers @ np.array([2.0, -1.0, 0.5]) - 0.3 - 2.0 * island
    y = np.where(draw.random(n) < 1 / (1 + np.exp(-2 * inner)), 1, -1)
    x = np.column_stack([numbers, island, ~island, np.ones(n)]).astype(np.float64)
    names = ("a", "b", "c", "island", "mainland", "constant")
    return adult.Table(x, y, np.where(island, "Island", "Mainland"), names)


@pytest.fixture(scope="module")
def results():
    train, test = people(2500, 0), people(1500, 1)
    return domain_mismatch.experiment(train, test, "Island", others=2000, draws=3)


def test_few_people_left_are_found_behind_the_errors(results):
    few = results[0]["rare"]
    assert few["draws_with_new_errors"] >= 1
    middle = few["median"]
    assert middle["first_over_next"] > 1 and middle["harm_per_example_ratio"] > 5
    assert middle["harmful_signs_right"] == 4
    assert middle["loss_predicted"] < middle["loss_before"] and middle["loss_after"] < middle["loss_before"]


def test_answers_turned_over_come_out_on_top_and_removing_them_helps_as_predicted(results):
    shifted = results[0]["planted"]
    assert shifted["harm"]["precision_at_k"] > 0.8 and shifted["harm"]["auroc"] > 0.97
    assert shifted["harm"]["auroc"] > shifted["loss"]["auroc"]
    assert shifted["share_of_harm"]["Island"] > 4 * shifted["share_of_train"]
    first = shifted["removals"]["10"]
    assert first["predicted"] == pytest.approx(first["actual"], rel=0.15)
    error = shifted["error Island"]
    assert error["without_most_harmful"] < 0.5 * error["shifted"]
    assert error["without_most_harmful"] < error["never_shifted"] + 0.1
    assert shifted["cluster"]["precision"] > 0.8


def test_the_figure_and_the_rows_of_the_page(results, tmp_path):
    result, points = results
    domain_mismatch.plotting.save(domain_mismatch.draw(result, points), tmp_path, "domain_mismatch")
    assert (tmp_path / "domain_mismatch.png").stat().st_size > 10_000
    rows = domain_mismatch.comparison(result)
    assert {row.figure for row in rows} == {"§5.3"} and len(rows) == 5


def test_removal_keeps_the_weights_of_the_others():
    table = people(60, 2)
    weights = domain_mismatch.fit(table, np.array([3, 7]))
    kept = np.setdiff1d(np.arange(60), [3, 7])
    margin = table.y * (table.x @ weights)
    gradient = -(table.x.T[:, kept] @ (table.y / (1 + np.exp(margin)))[kept]) / 60
    assert np.abs(gradient + domain_mismatch.ALPHA * weights).max() < 1e-10


@pytest.mark.parametrize("group", ["Nowhere", "Mainland only"])
def test_a_group_that_is_too_small_is_refused(group):
    with pytest.raises(DataError, match=f"--group {group}: 0 positive and 0 negative training people"):
        domain_mismatch.experiment(people(200, 0), people(50, 1), group, others=100, draws=1)


def test_a_group_that_makes_no_difference_is_refused():
    train, test = people(400, 0), people(100, 1)
    nobody = test.take(np.flatnonzero(test.group == "Island")[:1])
    again = nobody.with_labels(np.where(nobody.x[:, :3] @ np.array([2.0, -1.0, 0.5]) > 0, 1, -1))
    far = adult.Table(again.x * np.array([50.0, 50, 50, 1, 1, 1]), again.y, again.group, again.names)
    with pytest.raises(DataError, match="nobody more is misread"):
        domain_mismatch.experiment(train, far, "Island", others=300, draws=1)


def written(folder, name: str, rows: list[str]) -> None:
    with gzip.open(folder / f"{name}.gz", "wt") as stream:
        stream.write("\n".join(["|1x3 Cross validator", *rows, ""]))


def test_rows_become_numbers_and_indicators(tmp_path):
    rows = [ROW.format("Cuba", ">50K"), ROW.format("?", "<=50K").replace("39", "25")]
    written(tmp_path, "adult.data", rows)
    written(tmp_path, "adult.test", [ROW.format("Peru", "<=50K.")])
    train, test = adult.load_adult(tmp_path)
    assert train.y.tolist() == [1, -1] and test.y.tolist() == [-1]
    assert train.group.tolist() == ["Cuba", "?"] and test.group.tolist() == ["Peru"]
    column = dict(zip(train.names, train.x.T))
    assert column["age"].tolist() == [1.0, -1.0] and column["hours-per-week"].tolist() == [0.0, 0.0]
    assert column["native-country = Cuba"].tolist() == [1.0, 0.0]
    assert column["constant"].tolist() == [1.0, 1.0]
    # A country that nobody in training comes from has no column.
    assert len(test.names) == test.x.shape[1] == train.x.shape[1]
    assert sum(test.x[0, i] for i, name in enumerate(test.names) if name.startswith("native")) == 0


def test_files_that_are_not_adult_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"adult.data\[.gz\] was not found"):
        adult.load_adult(tmp_path)
    written(tmp_path, "adult.data", ["1, 2, 3"])
    with pytest.raises(DataError, match=r"line 2: not a row of Adult: '1, 2, 3'"):
        adult.load_adult(tmp_path)
    written(tmp_path, "adult.data", [])
    with pytest.raises(DataError, match="holds no row"):
        adult.load_adult(tmp_path)
    (tmp_path / "adult.data.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        adult.load_adult(tmp_path)


def test_on_adult_itself():
    folder = domain_mismatch.parser("x").parse_args([]).data
    if folder is None or not list(folder.glob("**/adult.data*")):
        pytest.skip("UCI Adult is not beside the repository")
    train, test = adult.load_adult(folder)
    assert (len(train), len(test)) == (32561, 16281) and train.x.shape[1] == test.x.shape[1] == 92
    assert (train.y == 1).sum() == 7841 and (test.y == 1).sum() == 3846
    draw = np.random.default_rng(0)
    others = draw.choice(np.flatnonzero(train.group != "Mexico"), 3000, replace=False)
    small = train.take(np.union1d(others, np.flatnonzero(train.group == "Mexico")))
    few, _ = domain_mismatch.rare(small, test, "Mexico", 3000, 1)
    assert few["median"]["first_over_next"] > 5 and few["median"]["harmful_signs_right"] == 4
