"""Percentages are read without exponents, and say what they are."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherefrom.percentages import percentage


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "below 0.001 %"),
        (0.00035, "0.035 %"),
        (0.0123, "1.2 %"),
        (0.0996, "10 %"),
        (0.25, "25 %"),
        (0.996, "100 %"),
        (1.04, "104 %"),
        (12.3, "1,230 %"),
        (1e9, "more than 1,000,000 %"),
        (-0.3, "−30 %"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_percentages_in_words(share, text):
    assert percentage(share) == text


@given(st.floats(1e-5, 90.0))
def test_a_percentage_is_the_share_to_two_digits(share):
    text = percentage(share)
    assert "e" not in text
    assert re.fullmatch(r"[\d,.]+ %", text)
    value = float(text.removesuffix(" %").replace(",", "")) / 100
    assert abs(value - share) <= 0.051 * share
