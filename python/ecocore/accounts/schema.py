"""The tables. Changed by a new file in `migrations/versions`, and here to match.

Money is in nano-dollars, times are seconds since 1970. A row of `ledger` is a transfer between an account and a book of
the operator (`contra`), so both sides of the double entry are written at once; it is never changed or deleted, which
triggers enforce. What must hold after any crash, for each account:

    balance = sum of its ledger rows        reserved = sum of its holds        0 <= reserved <= balance
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# SQLite numbers rows by itself only where the type is exactly INTEGER, which there has 64 bits as well.
Serial = BigInteger().with_variant(Integer, "sqlite")

# `default` is always there; a key that names no account belongs to it.
accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False, server_default="0"),
    Column("reserved", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("balance >= 0", name="balance_is_not_negative"),
    CheckConstraint("reserved >= 0 AND reserved <= balance", name="reserved_is_covered"),
)

# A key itself is never stored: `hash` finds it, `prefix` lets a person recognise it. Limits are per minute, None is no limit.
keys = Table(
    "keys",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("prefix", String(8), nullable=False),
    Column("name", String(128), nullable=False),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=True),
    Column("expires", BigInteger, nullable=True),
    Column("requests_per_minute", Integer, nullable=True),
    Column("tokens_per_minute", Integer, nullable=True),
    Column("concurrency", Integer, nullable=True),
)

# A price is never changed: a new row takes its place, and `id` is its version. Nano-dollars per million tokens; NULL in both:
# from then on the model has no price.
prices = Table(
    "prices",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("model", String(256), nullable=False),
    Column("input", BigInteger, nullable=True),
    Column("output", BigInteger, nullable=True),
    Column("created", BigInteger, nullable=False),
    CheckConstraint(
        "(input IS NULL) = (output IS NULL) AND (input IS NULL OR (input >= 0 AND output >= 0))",
        name="prices_are_not_negative",
    ),
    Index("prices_by_model", "model", "id"),
)

# The servers that hold money at the moment. `beat` grows while one lives; others watch it, so no clocks are compared.
servers = Table(
    "servers",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("beat", BigInteger, nullable=False),
)

# Money set aside for an answer that is being made, and how many tokens of it have been delivered so far.
holds = Table(
    "holds",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("server_id", String(32), nullable=False, index=True),
    Column("amount", BigInteger, nullable=False),
    Column("model", String(256), nullable=False),
    Column("price_id", BigInteger, ForeignKey("prices.id"), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="hold_is_not_negative"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False),
    Column("contra", String(16), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("model", String(256), nullable=True),
    Column("price_id", BigInteger, ForeignKey("prices.id"), nullable=True),
    Column("prompt_tokens", BigInteger, nullable=True),
    Column("completion_tokens", BigInteger, nullable=True),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("request_id", "kind", name="posted_once"),
    CheckConstraint(
        "(kind = 'usage' AND contra = 'revenue' AND amount <= 0) OR (kind = 'credit' AND contra = 'funding')",
        name="kind_fits_contra",
    ),
    Index("ledger_by_account", "account_id", "id"),
    Index("ledger_by_day", "account_id", "created"),
)

# First answers under an Idempotency-Key. `body` is None while the first request runs, on the server that is named.
answers = Table(
    "answers",
    metadata,
    Column("account_id", Integer, ForeignKey("accounts.id"), primary_key=True),
    Column("idempotency_key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("claim_id", String(64), nullable=False, unique=True),
    Column("server_id", String(32), nullable=False),
    Column("body", LargeBinary, nullable=True),
    Column("created", BigInteger, nullable=False, index=True),
    # Few answers are being made, and many are kept.
    Index("claims_by_server", "server_id", sqlite_where=text("body IS NULL"), postgresql_where=text("body IS NULL")),
)
