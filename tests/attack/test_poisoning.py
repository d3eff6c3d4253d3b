"""The share of predictions that few edits flip, each attack by itself and all together."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch

from tests.attack.attack_problems import data, head, plain_head
from tests.support import as_a_user
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.studies.attack import Budget, PoisoningAudit, audit_poisoning, run_attack

BUDGET = Budget(0.25, low=0.0, high=1.0)


def queries():
    return data(40, start=100)


@functools.lru_cache
def audited() -> PoisoningAudit:
    return audit_poisoning(head(), queries(), budget=BUDGET, edits=(4, 1), steps=6, shortlist=None)


def test_more_edits_flip_more_and_the_shares_add_up():
    audit = audited()
    assert audit.edits == (1, 4)
    assert len(audit.attacked) + len(audit.already_wrong) == 40
    assert audit.accuracy == pytest.approx(len(audit.attacked) / 40)
    assert not audit.not_converged
    assert 0 < audit.share(1) < audit.share(4) < 1 or audit.share(1) < audit.share(4)
    assert set(audit.flipped(1)) <= set(audit.flipped(4))
    assert audit.shares == {1: audit.share(1), 4: audit.share(4)}
    assert f"{100 * audit.share(4):.0f} % with 4" in audit.words
    json.dumps(audit.summary())
    assert "PoisoningAudit(1: " in repr(audit)
    for entry in audit.queries:
        assert len(entry.index) == entry.edits and entry.size.linf <= 0.25 + 1e-12
        assert (entry.before != entry.after) == entry.flipped


def test_every_flip_is_one_of_a_head_trained_from_zero():
    audit = audited()
    x, _ = queries()
    with torch.no_grad():
        features = head().objective.model[:2](x)
    pictured = [entry for entry in audit.queries if entry.edited is not None]
    assert 0 < len(pictured) <= 12
    for entry in pictured[:6]:
        edited = data(60)[0].clone()
        edited[entry.index] = entry.edited
        plain = plain_head(edited)
        after = plain.outputs(plain.minimise(start=torch.zeros_like(plain.theta)), features).argmax(1)
        assert int(after[entry.query]) == entry.after
        before = plain_head().outputs(plain_head().trained().theta, features).argmax(1)
        changed = after != before
        changed[entry.query] = False
        assert entry.others_changed == pytest.approx(float(changed.sum()) / 39)


def test_attacks_together_are_the_attacks_one_by_one():
    audit = audited()
    for entry in audit.queries[:4]:
        single = tuple(part[entry.query : entry.query + 1] for part in queries())
        alone = run_attack(head(), single, budget=BUDGET, edits=entry.edits, steps=6)
        assert alone.index.tolist() == entry.index
        assert bool(alone.flips) == entry.flipped


def test_small_blocks_change_nothing(monkeypatch):
    monkeypatch.setattr("wherefrom.studies.attack.head_attack._MOST_ATTACKS", 3)
    first = tuple(part[:10] for part in queries())
    again = audit_poisoning(head(), first, budget=BUDGET, edits=(1,), steps=6, shortlist=None)
    known = {entry.query: entry for entry in audited().queries}
    for entry in again.queries:
        whole = known[entry.query]
        assert entry.flipped == (whole.flipped and whole.edits == 1)
        if whole.edits == 1:
            assert entry.index == whole.index


def test_a_shortlist_finds_what_all_candidates_do():
    short = audit_poisoning(head(), queries(), budget=BUDGET, edits=(1, 4), steps=6, shortlist=8, keep=0)
    assert abs(short.share(4) - audited().share(4)) <= 0.1
    assert all(entry.original is None for entry in short.queries)


def test_retrainings_that_do_not_converge_are_left_out(monkeypatch):
    from wherefrom.studies.attack import head_attack

    real = head_attack.refit

    def refit(problem, heads, edited, *, tolerance):
        fit = real(problem, heads, edited, tolerance=tolerance)
        if edited.index.shape[1]:
            fit.converged[0] = False
        return fit

    monkeypatch.setattr(head_attack, "refit", refit)
    audit = audit_poisoning(head(), queries(), budget=BUDGET, edits=(1,), steps=2, shortlist=None)
    assert audit.not_converged == [audit.attacked[0]]
    assert audit.share(1) == len(audit.flipped(1)) / (len(audit.attacked) - 1)
    assert "1 retraining did not converge" in audit.words


def test_bad_requests_are_refused():
    with as_a_user():
        for options, message in [
            ({"edits": ()}, "edits is empty"),
            ({"edits": (0,)}, "edits=0"),
            ({"edits": (61,)}, "edits=61"),
            ({"keep": -1}, "keep=-1"),
            ({"shortlist": 0}, "shortlist=0"),
            ({"budget": 0}, "radius=0"),
        ]:
            with pytest.raises(InputError, match=message):
                audit_poisoning(head(), queries(), **{"budget": BUDGET, **options})
        with pytest.raises(InputError, match="edits=2: expected one of 1, 4"):
            audited().share(2)


def test_only_heads_are_audited():
    from tests.attack.test_run_attack import network

    with pytest.raises(UnsupportedError, match="no linear head to attack"):
        audit_poisoning(network()[0], queries(), budget=BUDGET)


def test_nothing_flipped_is_said():
    audit = audit_poisoning(head(), queries(), budget=1e-9, edits=(1,), steps=1)
    assert audit.share(1) == 0 and math.isnan(audit.others_changed)
    assert "flip 0 % with 1" in audit.words
