"""Keys do not leave in texts, whatever surrounds them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocore.accounts.keys import new_key
from ecocore.redaction import redacted

KEY = new_key()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key {KEY}.", "key eco_[redacted]."),
        (f"/v1/{KEY}?x={KEY}", "/v1/eco_[redacted]?x=eco_[redacted]"),
        (f"/v1/{KEY.replace('_', '%5f')}", "/v1/eco%5f[redacted]"),
        (KEY.upper(), "ECO_[redacted]"),
        (f"cut {KEY[:30]}", "cut eco_[redacted]"),
        (f"b'{KEY}'\n{KEY}", "b'eco_[redacted]'\neco_[redacted]"),
        (f"the list shows {KEY[:8]}", f"the list shows {KEY[:8]}"),
        (KEY * 3 + ".", "eco_[redacted]."),
        (KEY.replace("_", "%5F") * 2, "eco%5F[redacted]"),
        ("eco_core and ecocore", "eco_core and ecocore"),
        ("", ""),
    ],
)
def test_what_looks_like_a_key_is_blacked_out(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_named_secrets_are_blacked_out_too() -> None:
    assert redacted(f"sk-abc and p@ss, {KEY}", ["sk-abc", "p@ss"]) == "[redacted] and [redacted], eco_[redacted]"


@given(st.text(), st.text())
def test_no_key_survives(before: str, after: str) -> None:
    key = new_key()
    assert key[8:] not in redacted(before + key + after)
