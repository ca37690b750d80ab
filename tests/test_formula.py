"""Expressions over columns: what they say, what they refuse, and that nothing of them is ever run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.sweeps.formula import Formula

COLUMNS = {
    "images": np.array([4, 8, 16]),
    "schedule": np.array(["sync", "dice", "sync"], object),
    "cluster.link.latency_s": np.array([1e-6, np.nan, 3e-6]),
    "error": np.array(["no", None, None], object),
    "memory_fits": np.array([True, None, False], object),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("images <= 8", [True, True, False]),
        ("4 < images <= 16", [False, True, True]),
        ("schedule in ('sync', 'x') and images > 4", [False, False, True]),
        ("schedule not in ('sync',)", [False, True, False]),
        ("not images == 8 or schedule == 'dice'", [True, True, True]),
        ("images % 8 == 0", [False, True, True]),
        ("cluster.link.latency_s * 1e6 < 2", [True, False, False]),
        ("least(images, 8) == 8", [False, True, True]),
        ("-images + 4 == 0", [True, False, False]),
        ("schedule in ()", [False, False, False]),
        ("error == null", [False, True, True]),
        ("error != null or cluster.link.latency_s == null", [True, True, False]),
        ("memory_fits", [True, False, False]),
        ("not memory_fits and images > 8", [False, False, True]),
        ("memory_fits == null", [False, True, False]),
    ],
)
def test_a_condition_says_which_rows(text: str, rows: list[bool]) -> None:
    assert Formula(text).mask(COLUMNS).tolist() == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images <", "cannot be read"),
        ("", "cannot be read"),
        ("foo > 1", "there is no foo; there are images, schedule"),
        ("images", "should be a condition"),
        ("error", "should be a condition"),
        ("null", "null can be compared"),
        ("images < null", "null can be compared"),
        ("null == images", "null can be compared"),
        ("images / 0 > 1", "'images / 0' divides by 0"),
        ("images % (2 - 2) == 0", "divides by 0"),
        ("images and images > 3", "'images' should be a condition"),
        ("images in 3", "compare by < <= > >= == !=, or write"),
        ("schedule < 3", "does with texts what only numbers can"),
        ("schedule * 2", "does with texts what only numbers can"),
        ("images.real()", "'images.real()' is not known here"),
        ("(lambda: images > 1)()", "is not known here"),
        ("__import__('os').system('true')", "is not known here"),
        ("images[0] > 1", "is not known here"),
        ("'a' * 10**9 == schedule", "does arithmetic with a text"),
        ("9**9**9 > images", "out of range"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        Formula(text).mask(COLUMNS)


@given(st.text(st.sampled_from("images schedule<=>!()'\"0123456789.+-*/%andornti[],"), max_size=30))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        found = Formula(text).mask(COLUMNS)
    except ValueError:
        return
    assert found.shape == (3,)
    assert found.dtype == bool
