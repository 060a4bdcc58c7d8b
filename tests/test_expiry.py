"""What a ttl may be, and how many milliseconds it is."""

import math
from datetime import timedelta

import pytest

from kv import KEEP_TTL, InvalidTTL
from kv.expiry import MAX_TTL, ttl_ms, update_ttl_ms


@pytest.mark.parametrize(
    ("ttl", "ms"),
    [
        (None, None),
        (math.inf, None),
        (1, 1_000),
        (1.9, 1_900),
        (0.07, 70),  # the float is a little more than 70 ms, and still means 70
        (0.0011, 2),
        (1e-9, 1),
        (5e-324, 1),
        (timedelta(minutes=2), 120_000),
        (timedelta(microseconds=1), 1),
        (timedelta(milliseconds=1, microseconds=1), 2),
        (MAX_TTL, MAX_TTL * 1_000),
        (float(MAX_TTL), MAX_TTL * 1_000),
    ],
)
def test_a_ttl_is_whole_milliseconds_rounded_up(ttl: float | timedelta | None, ms: int | None) -> None:
    assert ttl_ms(ttl) == ms


@pytest.mark.parametrize(
    ("ttl", "message"),
    [
        (0, "more than zero"),
        (0.0, "more than zero"),
        (-1, "more than zero"),
        (-(10**400), "more than zero"),
        (10**400 + 1, "None means never"),
        (-math.inf, "more than zero"),
        (timedelta(0), "more than zero"),
        (math.nan, "more than zero"),
        (MAX_TTL + 1, "None means never"),
        (1e300, "None means never"),
        (10**400, "None means never"),
        (timedelta.max, "None means never"),
        (True, "not bool"),
        ("60", "not str"),
        (KEEP_TTL, "not KeepTTL"),
    ],
)
def test_anything_else_is_refused_and_says_why(ttl: object, message: str) -> None:
    with pytest.raises(InvalidTTL, match=message):
        ttl_ms(ttl)  # type: ignore[arg-type]


def test_an_update_has_one_ttl_for_what_is_there_and_one_for_what_is_new() -> None:
    assert update_ttl_ms(KEEP_TTL, None) == (KEEP_TTL, None)
    assert update_ttl_ms(KEEP_TTL, 2) == (KEEP_TTL, 2_000)
    assert update_ttl_ms(1, None) == (1_000, 1_000)
    assert update_ttl_ms(1, 2) == (1_000, 2_000)
    assert update_ttl_ms(None, 2) == (None, 2_000)
    assert update_ttl_ms(1, math.inf) == (1_000, None)
