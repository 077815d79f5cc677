"""Money is exact: decimal text, costs and what can be afforded, against fractions."""

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocore.accounts.money import MAX_NANOS, affordable, cost, parse_usd, spell_usd
from ecocore.errors import InvalidConfiguration

nanos = st.integers(-MAX_NANOS, MAX_NANOS)


@given(nanos)
def test_text_and_back_is_the_same(amount: int) -> None:
    text = spell_usd(amount)
    assert parse_usd(text) == amount
    assert Decimal(text) * 10**9 == amount
    assert len(text.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 10**9), ("0.000000001", 1), ("-5.5", -5_500_000_000), (" 12.50 ", 12_500_000_000), ("1.", 10**9), ("+2", 2 * 10**9)],
)
def test_dollars_are_read(text: str, expected: int) -> None:
    assert parse_usd(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1e3", "0.0000000001", "NaN", "Infinity", "1,5", "1000000001", "$5", "\u0661", "0x10", "--1", "1.5.0"]
)
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="amount"):
        parse_usd(text)


@given(st.integers(0, 2**31), st.integers(0, 10**15))
def test_a_cost_is_rounded_up_to_the_next_nano(tokens: int, price: int) -> None:
    assert cost(tokens, price) == ceil(Fraction(tokens * price, 10**6))


@given(st.integers(-(10**12), 10**18), st.integers(0, 10**15))
def test_what_is_affordable_is_the_most_that_can_be_paid(amount: int, price: int) -> None:
    tokens = affordable(amount, price)
    if tokens is None:
        assert price == 0
        return
    assert cost(tokens, price) <= max(amount, 0)
    assert cost(tokens + 1, price) > amount
