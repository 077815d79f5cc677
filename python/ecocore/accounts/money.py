"""Money as integers: nano-dollars everywhere, decimal text only where people read and write it.

Takes "1.50", gives 1,500,000,000, and back. No float ever holds money.
"""

import re
from decimal import Decimal
from typing import Final

from ecocore.errors import InvalidConfiguration

NANOS: Final = 10**9
PER_MILLION: Final = 10**6
# A billion dollars: sums of it stay far below what 64 bits hold.
MAX_NANOS: Final = 10**9 * NANOS
_USD: Final = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{0,20})?")


def parse_usd(text: str) -> int:
    """Nano-dollars of a decimal number of dollars. Raises InvalidConfiguration; nothing is ever rounded."""
    if not _USD.fullmatch(text.strip()):
        raise InvalidConfiguration(f"amount: {text[:40]!r} is no amount of dollars; write 12.50")
    nanos = Decimal(text.strip()) * NANOS
    if nanos != nanos.to_integral_value():
        raise InvalidConfiguration(f"amount: {text[:40]!r} has more than nine digits after the point")
    if abs(nanos) > MAX_NANOS:
        raise InvalidConfiguration(f"amount: {text[:40]!r} is more than a billion dollars")
    return int(nanos)


def spell_usd(nanos: int) -> str:
    """Dollars as decimal text, exact: two digits after the point, more where they say something."""
    dollars, rest = divmod(abs(nanos), NANOS)
    fraction = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{dollars}.{fraction}"


def cost(tokens: int, price: int) -> int:
    """What tokens cost at a price per million, in nano-dollars, rounded up to the next whole one."""
    return -(-tokens * price // PER_MILLION)


def affordable(nanos: int, price: int) -> int | None:
    """The most tokens whose `cost` is at most `nanos`; None if they are free."""
    return max(nanos, 0) * PER_MILLION // price if price else None
