"""The tables. Changed by a new file in `migrations/versions`, and here to match."""

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

metadata = MetaData()

# `default` is always there; a key that names no account belongs to it.
accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("created", Integer, nullable=False),
)

# A key itself is never stored: `hash` finds it, `prefix` lets a person recognise it.
keys = Table(
    "keys",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("prefix", String(8), nullable=False),
    Column("name", String(128), nullable=False),
    Column("account_id", Integer, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("created", Integer, nullable=False),
    Column("revoked", Integer, nullable=True),
)
