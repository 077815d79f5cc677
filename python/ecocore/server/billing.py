"""What an answer costs its owner: money is set aside before any work, and taken for what was delivered.

Takes key owners, admissions and what became of them; asks `accounts` for everything that is written down. Where billing is off,
only the use is written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ecocore.accounts.keys import KeyOwner
from ecocore.accounts.ledger import Hold, InsufficientBalance, Ledger
from ecocore.accounts.money import spell_usd
from ecocore.accounts.pricing import Price, PriceList
from ecocore.regions.region import Admission
from ecocore.server.error_table import BalanceTooLow, ModelNotPriced


class Used(NamedTuple):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that is to be given again: the claim under which, and its text."""

    claim_id: str
    body: str


class Cashier:
    """Judges who can pay. Everything may raise DatabaseUnavailable."""

    def __init__(self, ledger: Ledger, prices: PriceList, *, prepaid: bool) -> None:
        """`prepaid`: whether answers cost anything; otherwise nobody is refused."""
        self._ledger = ledger
        self._prices = prices
        self._prepaid = prepaid
        self.settled = 0
        """Answers that were settled."""
        self.refused = 0
        """Requests that an account could not pay."""

    @property
    def num_late(self) -> int:
        """Settlements that wait for the database."""
        return self._ledger.num_late

    async def tariff(self, owner: KeyOwner, model: str) -> Price | None:
        """The model's price, None where billing is off. Raises ModelNotPriced; BalanceTooLow for an account with nothing left."""
        if not self._prepaid:
            return None
        price = await self._prices.find(model)
        if price is None:
            raise ModelNotPriced(f"the model {model[:200]!r} has no price yet; its operator sets one with: ecocore prices set")
        if price.input or price.output:
            balance, reserved = await self._ledger.balance(owner.account_id)
            if balance <= reserved:
                self.refused += 1
                wait = ", or wait for its running answers to end" if reserved else ""
                raise BalanceTooLow(f"the account {owner.account!r} has no balance left; add credit{wait}")
        return price

    async def price(self, model: str) -> Price | None:
        """The model's price, where answers cost anything."""
        return await self._prices.find(model) if self._prepaid else None

    async def bill(
        self,
        answer_id: str,
        owner: KeyOwner,
        price: Price | None,
        admissions: Sequence[Admission],
        *,
        model: str,
        token_limit: str,
    ) -> "Bill":
        """Sets aside what the admissions may cost at most. `answer_id` is what the client will know the answer by.

        Raises BalanceTooLow, saying what would fit; `token_limit`: the field that the client would send it in.
        """
        prompt_tokens = sum(admission.prompt_tokens for admission in admissions)
        completion_tokens = sum(admission.max_completion_tokens for admission in admissions)
        if price is None:
            return Bill(self, self._ledger, answer_id, owner, model=model, hold=None)
        try:
            hold = await self._ledger.hold(owner.account_id, price, prompt_tokens, completion_tokens, answer_id)
        except InsufficientBalance as refused:
            self.refused += 1
            raise _too_low(refused, prompt_tokens, completion_tokens, admissions, token_limit) from None
        return Bill(self, self._ledger, answer_id, owner, model=model, hold=hold)


class Bill:
    """One answer's account: what was delivered so far, and its end."""

    def __init__(
        self, cashier: Cashier, ledger: Ledger, answer_id: str, owner: KeyOwner, *, model: str, hold: Hold | None
    ) -> None:
        """Use `Cashier.bill`."""
        self._cashier = cashier
        self._ledger = ledger
        self._answer_id: Final = answer_id
        self._owner: Final = owner
        self._model: Final = model
        self._hold = hold
        self._delivered = Used(0, 0)
        self._settled = False

    def delivered(self, used: Used) -> None:
        """So much has been handed to the connection."""
        self._delivered = used
        if self._hold is not None:
            self._ledger.mark(self._hold, *used)

    async def settle(self, used: Used | None = None, kept: Kept | None = None) -> Used:
        """Ends the bill, with `used` or else with what was delivered. The first call counts; gives what it was settled for.

        When this returns, the charge can no longer be lost.
        """
        if self._settled:
            return self._delivered
        self._settled = True
        self._cashier.settled += 1
        self._delivered = used = used or self._delivered
        answer = None if kept is None else (kept.claim_id, kept.body)
        if self._hold is not None:
            await self._ledger.settle(self._hold, *used, answer)
        elif any(used) or answer is not None:
            await self._ledger.record(self._owner.account_id, self._model, *used, answer, request_id=self._answer_id)
        return used


def _too_low(
    refused: InsufficientBalance,
    prompt_tokens: int,
    completion_tokens: int,
    admissions: Sequence[Admission],
    token_limit: str,
) -> BalanceTooLow:
    needed, available = spell_usd(refused.needed), spell_usd(max(refused.available, 0))
    words = f"this request may cost up to ${needed} ({prompt_tokens} prompt and up to {completion_tokens} completion tokens), "
    words += f"and ${available} is available; "
    choices = sum(admission.choices for admission in admissions)
    fits = (refused.affordable or 0) // choices
    if fits >= 1:
        return BalanceTooLow(f"{words}it would fit with {token_limit} {fits}, or add credit")
    fewer = ", ask for fewer choices" if refused.affordable else ""
    return BalanceTooLow(f"{words}add credit{fewer}, or shorten the prompt")
