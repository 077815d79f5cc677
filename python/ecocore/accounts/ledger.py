"""Money of answers: set aside before any work, settled once for what was delivered, never lost and never taken twice.

Takes holds and what became of them, gives rows of the ledger. What is delivered, and what a request may cost at most, the
server knows; accounts and prices are made in `books`.

A hold is one conditional update, so a balance cannot be spent twice. While an answer runs, marks tell how much of it was
delivered; a server that ends without settling is settled by its marks, by whoever sees that it ended: itself when it starts
again (its spool file is no longer locked), or another server (its beat stands still). While the database is away, settlements
wait in the spool.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, text, update

from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import BrokenConstraint, Database, DatabaseUnavailable
from ecocore.accounts.money import MAX_NANOS, affordable
from ecocore.accounts.pricing import Price
from ecocore.accounts.schema import accounts, answers, holds, prices, servers
from ecocore.accounts.spool import Spool
from ecocore.errors import EcocoreError, InvalidConfiguration, RuntimeClosed

log = logging.getLogger(__name__)

MARK_SECONDS: Final = 1.0
MARK_TOKENS: Final = 64
# However fast tokens are delivered, marks are not written without a pause.
MARK_PAUSE_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 0.5
BEAT_SECONDS: Final = 5.0
# A server whose beat stands still so long has ended, or is so stuck that its clients have left.
DEAD_SECONDS: Final = 30.0
AT_ONCE: Final = 256
# Settlements without money that wait for a database which is away.
MAX_LATE: Final = 10_000


class InsufficientBalance(EcocoreError):
    """The account cannot pay what a request may cost. Amounts in nano-dollars.

    `affordable`: how many completion tokens it could pay; None where they are not what is missing.
    """

    def __init__(self, needed: int, available: int, affordable: int | None) -> None:
        super().__init__("the account cannot pay for this request")
        self.needed = needed
        self.available = available
        self.affordable = affordable


@dataclass(frozen=True, slots=True)
class Hold:
    """Money that is set aside for one answer."""

    request_id: str
    account_id: int
    price: Price
    amount: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an answer came to. `price_id` None: nothing was held and nothing is taken, the use alone is written down."""

    request_id: str
    account_id: int
    model: str
    price_id: int | None
    held: int
    cost: int
    prompt_tokens: int
    completion_tokens: int
    created: int
    answer: tuple[str, str] | None = None
    """A claim (see `answers`) and the answer's text, to be given again under its Idempotency-Key."""


_BALANCE: Final = select(accounts.c.balance, accounts.c.reserved).where(accounts.c.id == bindparam("account"))
_RESERVE: Final = (
    update(accounts)
    .where(accounts.c.id == bindparam("account"), accounts.c.balance - accounts.c.reserved >= bindparam("amount"))
    .values(reserved=accounts.c.reserved + bindparam("amount"))
)
_PAY: Final = (
    update(accounts)
    .where(accounts.c.id == bindparam("account"))
    .values(balance=accounts.c.balance - bindparam("cost"), reserved=accounts.c.reserved - bindparam("held"))
)
_HOLD: Final = insert(holds)
_RELEASE: Final = delete(holds).where(holds.c.request_id == bindparam("request"))
_MARK: Final = (
    update(holds)
    .where(holds.c.request_id == bindparam("request"))
    .values(prompt_tokens=bindparam("prompt"), completion_tokens=bindparam("completion"))
)
# Both databases spell it so. What was posted already stays as it is.
_POST: Final = text(
    "INSERT INTO ledger (account_id, contra, kind, amount, request_id, model, price_id, "
    "prompt_tokens, completion_tokens, created) "
    "VALUES (:account, 'revenue', 'usage', :amount, :request, :model, :price, :prompt, :completion, :created) "
    "ON CONFLICT (request_id, kind) DO NOTHING"
)
_KEEP: Final = update(answers).where(answers.c.claim_id == bindparam("claim")).values(body=bindparam("kept"))
_CLAIMED: Final = select(answers.c.claim_id).where(answers.c.server_id == bindparam("server"), answers.c.body.is_(None))
FREE: Final = delete(answers).where(answers.c.claim_id == bindparam("claim"), answers.c.body.is_(None))
_HELD: Final = (
    select(holds, prices.c.input, prices.c.output)
    .join(prices, prices.c.id == holds.c.price_id)
    .where(holds.c.server_id == bindparam("server"))
    # Who settles for the same server at the same time takes the rows in the same order.
    .order_by(holds.c.account_id, holds.c.request_id)
)
_HOLDERS: Final = select(holds.c.server_id).union(select(answers.c.server_id).where(answers.c.body.is_(None)))
_HELD_BY: Final = _HELD.limit(AT_ONCE)


class Ledger:
    """The money of one server's answers. See the module."""

    def __init__(self, database: Database, commit: GroupCommit, spool: Spool | None, server_id: str) -> None:
        """Use `opened`."""
        self._database = database
        self._commit = commit
        self._spool = spool
        self.server_id: Final = server_id
        self._open: dict[str, int] = {}
        """Holds of this server, each with the tokens of its last mark on disk."""
        self._marks: dict[str, tuple[int, int]] = {}
        """Of open holds, what is not on disk yet."""
        self._mark_soon, self._mark_now = asyncio.Event(), asyncio.Event()
        self._late: list[Settlement] = []
        """Settlements that the database did not take yet; they are in the spool."""
        self._is_late = asyncio.Event()
        self.owned: Final[set[str]] = set()
        """Holds that somebody here will settle, and claims (see `answers`) whose answers are being made here: from before they
        are written until their end is in the database."""
        self._spooling = asyncio.Lock()
        self._settling: set[asyncio.Task[None]] = set()
        self._beats: dict[str, tuple[int | None, float]] = {}
        self._ended = False

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, database: Database, commit: GroupCommit, spools: Path | None, *, clock: Callable[[], float] = time.monotonic
    ) -> AsyncIterator["Ledger"]:
        """Settles what dead servers left, then takes holds while inside; at the end all that is known is settled.

        `spools`: the folder for settlements that the database does not take, the same for all who share a file of SQLite;
        None keeps them in memory alone.
        Raises DatabaseUnavailable, InvalidConfiguration.
        """
        server_id = secrets.token_hex(12)
        spool = None if spools is None else Spool.create(spools, server_id)
        ledger = cls(database, commit, spool, server_id)
        tasks: list[asyncio.Task[None]] = []
        try:
            if spools is not None:
                await ledger._adopt(spools)
            # Who shares a file of SQLite shares the folder beside it, and sees there who has ended.
            if spools is not None and not database.is_shared:
                watching = ledger._adopt_often(spools)
            else:
                await commit.run(ledger._beat)
                watching = ledger._watch(clock)
            tasks += [asyncio.create_task(work) for work in (ledger._mark_often(), ledger._retry_often(), watching)]
            yield ledger
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await ledger._end()

    # --- holding ----------------------------------------------------------------------------------------

    async def balance(self, account_id: int) -> tuple[int, int]:
        """Balance, and how much of it is held, in nano-dollars. Raises DatabaseUnavailable."""
        row = await self._database.look_up(_BALANCE, {"account": account_id})
        return (0, 0) if row is None else (row[0], row[1])

    async def hold(
        self, account_id: int, price: Price, prompt_tokens: int, completion_tokens: int, request_id: str | None = None
    ) -> Hold:
        """Sets aside what so many tokens cost. Raises InsufficientBalance, DatabaseUnavailable; RuntimeClosed at the end.

        `request_id`: under which it will stand in the ledger, used once; unless given, one that nobody else has.
        Who is cancelled meanwhile, or finds the database away, holds nothing in the end.
        """
        if self._ended:
            # Nobody would settle it.
            raise RuntimeClosed("this ledger was closed")
        hold = Hold(request_id or secrets.token_hex(16), account_id, price, price.cost(prompt_tokens, completion_tokens))
        self.owned.add(hold.request_id)
        try:
            await self._commit.run(partial(self._hold, hold, prompt_tokens), order=account_id)
        except InsufficientBalance:
            self.owned.discard(hold.request_id)
            raise
        except BaseException:
            # Whether it was written is not known; that it is given back is, at the latest by `_give_back`.
            self.owned.discard(hold.request_id)
            self._do_soon(self._let_go(hold))
            raise
        self._open[hold.request_id] = 0
        return hold

    def _hold(self, hold: Hold, prompt_tokens: int, connection: Connection) -> None:
        # No account has more, and a database counts no further than 64 bits.
        amount = min(hold.amount, MAX_NANOS + 1)
        if not connection.execute(_RESERVE, {"account": hold.account_id, "amount": amount}).rowcount:
            balance, reserved = connection.execute(_BALANCE, {"account": hold.account_id}).one()
            available = balance - reserved
            rest = available - hold.price.cost(prompt_tokens, 0)
            raise InsufficientBalance(hold.amount, available, affordable(rest, hold.price.output) if rest > 0 else None)
        row = {
            "request_id": hold.request_id,
            "account_id": hold.account_id,
            "server_id": self.server_id,
            "amount": hold.amount,
            "model": hold.price.model,
            "price_id": hold.price.id,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "created": int(time.time()),
        }
        connection.execute(_HOLD, row)

    def mark(self, hold: Hold, prompt_tokens: int, completion_tokens: int) -> None:
        """So much was delivered. It is written down within a second, or sooner if it is much."""
        if (marked := self._open.get(hold.request_id)) is None:
            return
        self._marks[hold.request_id] = (prompt_tokens, completion_tokens)
        self._mark_soon.set()
        if completion_tokens - marked >= MARK_TOKENS:
            self._mark_now.set()

    async def _mark_often(self) -> None:
        while True:
            await self._mark_soon.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(MARK_SECONDS):
                    await self._mark_now.wait()
            self._mark_soon.clear()
            self._mark_now.clear()
            with _tried_again("writing down what was delivered"):
                await self._write_marks()
            await asyncio.sleep(MARK_PAUSE_SECONDS)

    async def _write_marks(self) -> None:
        if not self._marks:
            return
        marks, self._marks = self._marks, {}
        rows = [
            {"request": request, "prompt": prompt, "completion": completion} for request, (prompt, completion) in marks.items()
        ]
        written = False
        try:
            with suppress(DatabaseUnavailable):
                await self._commit.run(lambda connection: connection.execute(_MARK, rows).rowcount)
                written = True
        finally:
            if written:
                self._open.update((request, mark[1]) for request, mark in marks.items() if request in self._open)
            else:
                # Newer ones count, and those of answers that ended meanwhile are not needed.
                self._marks = {request: mark for request, mark in {**marks, **self._marks}.items() if request in self._open}
                self._mark_soon.set()

    @property
    def num_late(self) -> int:
        """Settlements that wait for the database."""
        return len(self._late)

    # --- settling ---------------------------------------------------------------------------------------

    async def settle(self, hold: Hold, prompt_tokens: int, completion_tokens: int, answer: tuple[str, str] | None = None) -> None:
        """Takes what so many tokens cost, at most what is held, and gives the rest back. Once it is asked, it happens.

        `answer`: a claim and the text that is kept under it.

        When this returns it is in the ledger, or in the spool where the database is away. Nothing is raised but a
        cancellation, which changes nothing.
        """
        await asyncio.shield(self._settle_soon(_settlement(hold, prompt_tokens, completion_tokens, answer)))

    async def record(
        self,
        account_id: int,
        model: str,
        prompt_tokens: int,
        completion_tokens: int,
        answer: tuple[str, str] | None = None,
        *,
        request_id: str | None = None,
    ) -> None:
        """As `settle` where nothing is billed: the use alone is written down. It is waited for if there is an `answer`."""
        if answer is None and len(self._late) >= MAX_LATE:
            # Statistics are not worth a full disk.
            return
        free = Settlement(
            request_id=request_id or secrets.token_hex(16),
            account_id=account_id,
            model=model,
            price_id=None,
            held=0,
            cost=0,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            created=int(time.time()),
            answer=answer,
        )
        settling = self._settle_soon(free)
        if answer is not None:
            await asyncio.shield(settling)

    def _settle_soon(self, settlement: Settlement) -> asyncio.Task[None]:
        self._open.pop(settlement.request_id, None)
        self._marks.pop(settlement.request_id, None)
        return self._do_soon(self._settle(settlement))

    def _do_soon(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    async def _settle(self, settlement: Settlement) -> None:
        try:
            await self._post(settlement)
        except DatabaseUnavailable:
            await self._put_off(settlement)

    async def _post(self, settlement: Settlement) -> None:
        """Raises DatabaseUnavailable. What cannot be posted for another reason is told to the log, and its hold given back."""
        try:
            await self._commit.run(partial(_post, settlement), order=settlement.account_id)
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("a charge could not be posted: request %s of account %d", settlement.request_id, settlement.account_id)
        self._disown(settlement)

    async def _post_together(self, settlements: Sequence[Settlement]) -> None:
        """As `_post`, in one transaction. One that cannot be posted takes no other with it."""
        try:
            await self._commit.run(partial(_post_all, settlements))
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  # alone, it is told to the log
            for settlement in settlements:
                await self._post(settlement)
        for settlement in settlements:
            self._disown(settlement)

    def _disown(self, settlement: Settlement) -> None:
        self.owned.discard(settlement.request_id)
        if settlement.answer is not None:
            self.owned.discard(settlement.answer[0])

    async def _put_off(self, settlement: Settlement) -> None:
        async with self._spooling:
            self._late.append(settlement)
            self._is_late.set()
            if self._spool is None:
                return
            try:
                await asyncio.to_thread(self._spool.add, [asdict(settlement)])
            except OSError as error:
                log.error("charges wait in memory only: the spool cannot be written (%s)", error.strerror)  # noqa: TRY400

    async def _retry_often(self) -> None:
        while True:
            await self._is_late.wait()
            await asyncio.sleep(RETRY_SECONDS)
            with _tried_again("posting charges that came late"):
                await self._retry()
            if not self._late:
                self._is_late.clear()

    async def _retry(self) -> None:
        """Posts what came late. The spool is emptied only when nothing is late."""
        if not self._late:
            return
        late = self._late[:AT_ONCE]
        try:
            await self._post_together(late)
        except DatabaseUnavailable:
            return
        del self._late[: len(late)]
        async with self._spooling:
            if not self._late and self._spool is not None:
                await asyncio.to_thread(self._spool.clear)

    async def _let_go(self, hold: Hold) -> None:
        with suppress(DatabaseUnavailable, BrokenConstraint):
            await self._commit.run(partial(_post, _settlement(hold, 0, 0)), order=hold.account_id)

    async def _give_back(self) -> None:
        """Ends holds and claims of this server that nobody here will end: a database that hung has written them after all."""
        mine = {"server": self.server_id}
        async with self._database.reading() as connection:
            strays = [row for row in await connection.execute(_HELD, mine) if row.request_id not in self.owned]
            claims = [row.claim_id for row in await connection.execute(_CLAIMED, mine) if row.claim_id not in self.owned]
        if strays:
            await self._commit.run(partial(_post_by_marks, strays))
        if claims:
            await self._commit.run(partial(_free, claims))

    # --- servers that ended -----------------------------------------------------------------------------

    async def _adopt(self, spools: Path) -> None:
        """Settles for servers that ended on this machine: first what their spools hold, then by their marks."""
        for spool in Spool.abandoned(spools):
            entries = _settlements(spool)
            for start in range(0, len(entries), AT_ONCE):
                await self._post_together(entries[start : start + AT_ONCE])
            await self._bury(spool.server_id)
            spool.remove()
        if not self._database.is_shared:
            # Who lives has a file there, from before its first hold until after its last. A backup of a server that was
            # running has holds, and no file.
            for server_id in await self._holders():
                if not Spool.exists(spools, server_id):
                    await self._bury(server_id)

    async def _holders(self) -> set[str]:
        """The servers that hold money or claims, this one among them."""
        async with self._database.reading() as connection:
            return {row.server_id for row in await connection.execute(_HOLDERS)}

    async def _adopt_often(self, spools: Path) -> None:
        while True:
            await asyncio.sleep(DEAD_SECONDS)
            with _tried_again("settling for servers that have ended"):
                await self._adopt(spools)
                await self._give_back()

    async def _bury(self, server_id: str) -> None:
        while await self._commit.run(partial(_settle_by_marks, server_id)):
            pass

    def _beat(self, connection: Connection) -> None:
        if not connection.execute(_BEAT, {"server": self.server_id}).rowcount:
            connection.execute(insert(servers), {"id": self.server_id, "beat": 0})

    async def _watch(self, clock: Callable[[], float]) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            # A database that is away tells nothing about anybody.
            with _tried_again("watching the other servers"):
                await self._commit.run(self._beat)
                await self._give_back()
                await self.watch(clock())

    async def watch(self, now: float) -> None:
        """Settles for servers whose beat has stood still for long, seen from here. `now`: monotonic seconds."""
        async with self._database.reading() as connection:
            beats: dict[str, int | None] = {row.id: row.beat for row in await connection.execute(select(servers))}
        for server_id in await self._holders():
            beats.setdefault(server_id, None)
        beats.pop(self.server_id, None)
        seen = self._beats
        self._beats = {
            server_id: seen[server_id] if server_id in seen and seen[server_id][0] == beat else (beat, now)
            for server_id, beat in beats.items()
        }
        for server_id in [server_id for server_id, (_, since) in self._beats.items() if now - since >= DEAD_SECONDS]:
            log.warning("settling for a server that has ended: %s", server_id)
            await self._bury(server_id)
            del self._beats[server_id]

    async def _end(self) -> None:
        self._ended = True
        while self._settling:
            await asyncio.gather(*self._settling, return_exceptions=True)
        settled = await self._settle_all()
        if self._spool is None:
            return
        if settled:
            self._spool.remove()
        else:
            self._spool.close()

    async def _settle_all(self) -> bool:
        """Posts what is late, and settles by its marks what nobody here will settle any more. Gives whether all of it was."""
        with _tried_again("settling at the end"):
            await self._write_marks()
            left = len(self._late) + 1
            while 0 < len(self._late) < left:
                left = len(self._late)
                await self._retry()
            if not self._late:
                await self._bury(self.server_id)
                return True
        log.warning("the database is away: what is not settled will be when the server starts again")
        return False


@contextmanager
def _tried_again(what: str) -> Iterator[None]:
    """Work that a failure ends for this time only: the database was away, or nobody foresaw it, and then the log tells."""
    try:
        yield
    except DatabaseUnavailable:
        pass
    except Exception:
        log.exception("%s failed", what)


_BEAT: Final = update(servers).where(servers.c.id == bindparam("server")).values(beat=servers.c.beat + 1)


def _settlement(hold: Hold, prompt_tokens: int, completion_tokens: int, answer: tuple[str, str] | None = None) -> Settlement:
    return Settlement(
        request_id=hold.request_id,
        account_id=hold.account_id,
        model=hold.price.model,
        price_id=hold.price.id,
        held=hold.amount,
        cost=min(hold.price.cost(prompt_tokens, completion_tokens), hold.amount),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        created=int(time.time()),
        answer=answer,
    )


def _settlements(spool: Spool) -> list[Settlement]:
    """What a server that ended left. Raises InvalidConfiguration where another version wrote it: no charge is passed over."""
    try:
        return [Settlement(**entry) for entry in spool.entries()]
    except TypeError:
        raise InvalidConfiguration(
            f"spool: another version of ecocore left charges in {spool.path} that this one cannot read; start that one once"
        ) from None


def _post(settlement: Settlement, connection: Connection) -> None:
    """Posts one settlement; one that was posted already changes nothing."""
    one = settlement
    if one.price_id is not None:
        # The hold is what can be settled: whoever deletes it has settled.
        if not connection.execute(_RELEASE, {"request": one.request_id}).rowcount:
            return
        connection.execute(_PAY, {"account": one.account_id, "cost": one.cost, "held": one.held})
    if one.prompt_tokens or one.completion_tokens:
        row = {
            "account": one.account_id,
            "amount": -one.cost,
            "request": one.request_id,
            "model": one.model,
            "price": one.price_id,
            "prompt": one.prompt_tokens,
            "completion": one.completion_tokens,
            "created": one.created,
        }
        connection.execute(_POST, row)
    if one.answer is not None:
        claim_id, body = one.answer
        connection.execute(_KEEP, {"claim": claim_id, "kept": body.encode()})


def _post_all(settlements: Iterable[Settlement], connection: Connection) -> None:
    for settlement in settlements:
        _post(settlement, connection)


def _settle_by_marks(server_id: str, connection: Connection) -> bool:
    """Settles up to `AT_ONCE` holds of a server for what was delivered last we know, and forgets it once none is left."""
    rows = connection.execute(_HELD_BY, {"server": server_id}).all()
    _post_by_marks(rows, connection)
    if rows:
        return True
    # Requests whose answers it was to keep may be sent again.
    connection.execute(delete(answers).where(answers.c.server_id == server_id, answers.c.body.is_(None)))
    connection.execute(delete(servers).where(servers.c.id == server_id))
    return False


def _free(claims: Iterable[str], connection: Connection) -> None:
    connection.execute(FREE, [{"claim": claim_id} for claim_id in claims])


def _post_by_marks(rows: Iterable[Row[Any]], connection: Connection) -> None:
    for row in rows:
        price = Price(row.price_id, row.model, row.input, row.output)
        hold = Hold(row.request_id, row.account_id, price, row.amount)
        _post(_settlement(hold, row.prompt_tokens, row.completion_tokens), connection)
