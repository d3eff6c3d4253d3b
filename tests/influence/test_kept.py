"""What a run computed is found again by every study of it, and by none of another method."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

import wherefrom
from tests.cli.audit_problem import TABLE, write
from tests.studies.outside import TASK, TRACIN
from wherefrom.cli.main import app
from wherefrom.errors import InputError, StoreError
from wherefrom.influence import compute
from wherefrom.influence import kept as kept_results
from wherefrom.influence.kept import kept, scores_of, self_scores_of

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(30, 3, generator=DRAW, dtype=torch.float64)
Y = (X[:, 0] > 0).long()
QUERIES = (X[:4] + 0.1, Y[:4])


def fit(run_dir, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    given = {"weight_decay": 0.1, "progress": False, **options}
    return wherefrom.Influence(model, (X, Y), loss="cross_entropy", run_dir=run_dir, **given).fit()


@pytest.fixture
def solved(monkeypatch):
    """The numbers of training examples whose self-influence was computed, call by call."""
    asked: list[int] = []
    original = compute.compute_self_scores

    def counted(fitted, indices=None):
        asked.append(fitted.objective.n if indices is None else len(indices))
        return original(fitted, indices)

    monkeypatch.setattr(compute, "compute_self_scores", counted)
    return asked


def test_labels_after_an_audit_gather_nothing_anew(tmp_path, solved):
    file, out = write(tmp_path, TABLE), str(tmp_path / "out")
    for arguments in (
        ["audit", str(file), "--out", out, "--remove", "0", "--review", "12"],
        ["labels", str(file), "--out", out],
        ["labels", str(file), "--out", out],
        ["audit", str(file), "--out", out, "--remove", "0"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert solved == [12, 40 - 12]


def test_self_influence_of_some_is_that_of_all(tmp_path, solved):
    made = fit(tmp_path / "run")
    first = self_scores_of(made, [20, 3])
    assert first.index.tolist() == [20, 3]
    every = self_scores_of(fit(tmp_path / "run"))
    some = self_scores_of(fit(tmp_path / "run"), torch.tensor([5, 20, 0]))
    assert solved == [2, 28] and every.index.tolist() == list(range(30))
    direct = made.self_scores()
    for name in ("values", "error", "bound", "converged"):
        torch.testing.assert_close(getattr(every, name), getattr(direct, name))
        assert torch.equal(getattr(some, name), getattr(every, name)[[5, 20, 0]])
    assert torch.equal(first.values, every.values[[20, 3]])
    assert every.identity == direct.identity and every.settings["solver"] == direct.settings["solver"]


def test_scores_come_back_as_they_were(tmp_path, monkeypatch):
    made = scores_of(fit(tmp_path / "run"), QUERIES, refine=2)
    another = fit(tmp_path / "run")
    monkeypatch.setattr(type(another), "scores", lambda *a, **k: pytest.fail("computed again"))
    found = scores_of(another, QUERIES, refine=2)
    for name in ("values", "error", "bound", "converged", "relative_residual"):
        assert torch.equal(getattr(found, name), getattr(made, name)), name
    assert found.identity == made.identity and found.converged.all()


@pytest.mark.parametrize(
    "changed", [{"solver": "cg"}, {"damping": 0.5}, {"seed": 1}, {"curvature": "ggn", "solver": "identity"}]
)
def test_other_settings_find_nothing(tmp_path, changed):
    scores_of(fit(tmp_path / "run"), QUERIES)
    other = fit(tmp_path / "run", **changed)
    torch.testing.assert_close(scores_of(other, QUERIES).values, other.scores(QUERIES).values)
    assert len(list((tmp_path / "run" / "scores").iterdir())) == 2


def test_another_version_finds_nothing(tmp_path, solved, monkeypatch):
    self_scores_of(fit(tmp_path))
    self_scores_of(fit(tmp_path))
    assert solved == [30]
    monkeypatch.setattr(kept_results, "VERSION", "9.9.9")
    self_scores_of(fit(tmp_path))
    assert solved == [30, 30]


def test_another_measurement_finds_nothing(tmp_path):
    made = fit(tmp_path / "run")
    loss, margin = scores_of(made, QUERIES), scores_of(made, QUERIES, "margin")
    assert margin.measurement == "margin" and not torch.equal(loss.values, margin.values)


def test_a_result_is_found_for_the_same_options_queries_measurement_and_fit_alone(tmp_path):
    made, asked = fit(tmp_path / "run"), []

    def found(fitted=made, of=(1, "a"), queries=QUERIES, measurement="loss", what="result"):
        def compute():
            asked.append(1)
            return {"number": len(asked)}

        value = kept(fitted, what, compute, of=of, queries=queries, measurement=measurement)
        return value["number"]

    assert found() == found() == found(fit(tmp_path / "run")) == 1
    others = [
        {"of": (2, "a")},
        {"of": (1,)},
        {"queries": (X[:3], Y[:3])},
        {"measurement": "margin"},
        {"what": "another"},
        {"fitted": fit(tmp_path / "run", damping=0.5)},
        {"fitted": fit(tmp_path / "run", weight_decay=0.2)},
    ]
    for number, changed in enumerate(others, 2):
        assert found(**changed) == found(**changed) == number
    assert found() == 1 and found(fit(None)) == 9 and found(fit(None)) == 10


def test_what_no_file_can_hold_is_computed_again(tmp_path):
    made = [object(), object()]
    found = [kept(fit(tmp_path / "run"), "result", lambda one=one: one) for one in made]
    assert found == made and not list((tmp_path / "run").rglob("*.safetensors"))


def method(rate: float = 0.5, steps: tuple[int, ...] = (5, 60), run_dir=None):
    names: dict = {}
    exec(TRACIN + TASK, names)
    made = names["TracIn"]([names["trained"](k) for k in steps], rate, names["train"], names["loss"])
    made.run_dir = run_dir
    return made, names["queries"]


def test_a_method_that_names_no_settings_is_known_by_what_it_holds(tmp_path):
    made, queries = method(run_dir=tmp_path / "run")
    before = scores_of(made, queries).values
    again, _ = method(run_dir=tmp_path / "run")
    assert torch.equal(scores_of(again, queries).values, before)
    assert len(list((tmp_path / "run" / "scores").iterdir())) == 1
    faster, _ = method(rate=5.0, run_dir=tmp_path / "run")
    torch.testing.assert_close(scores_of(faster, queries).values, 10 * before)
    earlier, _ = method(steps=(1, 60), run_dir=tmp_path / "run")
    torch.testing.assert_close(scores_of(earlier, queries).values, earlier.scores(queries).values)
    assert len(list((tmp_path / "run" / "scores").iterdir())) == 3


def test_a_method_that_leaves_examples_out_is_refused(tmp_path):
    made, _ = method(run_dir=tmp_path / "run")
    own = fit(None).self_scores([0])
    made.self_scores = lambda indices=None: own
    with pytest.raises(InputError, match="self_scores of TracIn answered for 1 of the 40 examples"):
        self_scores_of(made)


def test_what_was_damaged_is_refused(tmp_path):
    self_scores_of(fit(tmp_path / "run"))
    (file,) = (tmp_path / "run" / "scores").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match="does not match its checksum"):
        self_scores_of(fit(tmp_path / "run"))
