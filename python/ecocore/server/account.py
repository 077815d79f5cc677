"""GET /v1/balance and /v1/usage: what the owner of a key has, and what it went into.

Takes the key's owner, gives JSON with amounts as decimal strings; the sums are `accounts`'.
"""

from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from ecocore.accounts.ledger import Ledger
from ecocore.accounts.money import spell_usd
from ecocore.accounts.usage import DAY_SECONDS, Usage
from ecocore.errors import InvalidParameter
from ecocore.server.auth import key_owner

MAX_DAYS: Final = 366
DEFAULT_DAYS: Final = 30
CURRENCY: Final = "USD"


class AccountPages:
    """Both endpoints."""

    def __init__(self, ledger: Ledger, usage: Usage) -> None:
        self._ledger = ledger
        self._usage = usage

    async def balance(self, request: Request) -> JSONResponse:
        """GET /v1/balance: `balance` includes what running answers hold (`reserved`); the rest is `available`."""
        balance, reserved = await self._ledger.balance(key_owner(request.scope).account_id)
        amounts = {"balance": balance, "reserved": reserved, "available": balance - reserved}
        return JSONResponse({**{name: spell_usd(nanos) for name, nanos in amounts.items()}, "currency": CURRENCY})

    async def usage(self, request: Request) -> JSONResponse:
        """GET /v1/usage?days=30: requests, tokens and cost for each day (UTC) and model."""
        days = await self._usage.days(key_owner(request.scope).account_id, _days(request))
        data = [
            {
                "date": datetime.fromtimestamp(day.day * DAY_SECONDS, UTC).date().isoformat(),
                "model": day.model,
                "requests": day.requests,
                "prompt_tokens": day.prompt_tokens,
                "completion_tokens": day.completion_tokens,
                "cost": spell_usd(day.cost),
            }
            for day in days
        ]
        return JSONResponse({"object": "list", "data": data, "currency": CURRENCY})


def _days(request: Request) -> int:
    text = request.query_params.get("days", str(DEFAULT_DAYS))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_DAYS):
        raise InvalidParameter("days", f"must be a number from 1 to {MAX_DAYS}", "invalid_value")
    return int(text)
