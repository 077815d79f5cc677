"""Balances, prices, holds and the ledger; limits and expiry of keys; answers under an Idempotency-Key."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Adds what money needs. Keys and accounts stay as they are, with balance 0."""
    # Both databases take a check of a new column that names another one; alembic's own spelling would copy the table.
    op.execute("ALTER TABLE accounts ADD COLUMN balance BIGINT NOT NULL DEFAULT 0 CHECK (balance >= 0)")
    op.execute("ALTER TABLE accounts ADD COLUMN reserved BIGINT NOT NULL DEFAULT 0 CHECK (reserved >= 0 AND reserved <= balance)")
    op.add_column("keys", sa.Column("expires", sa.BigInteger, nullable=True))
    for limit in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        op.add_column("keys", sa.Column(limit, sa.Integer, nullable=True))
    op.create_table(
        "prices",
        sa.Column("id", _SERIAL, primary_key=True),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("input", sa.BigInteger, nullable=True),
        sa.Column("output", sa.BigInteger, nullable=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "(input IS NULL) = (output IS NULL) AND (input IS NULL OR (input >= 0 AND output >= 0))",
            name="prices_are_not_negative",
        ),
    )
    op.create_index("prices_by_model", "prices", ["model", "id"])
    op.create_table(
        "servers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "holds",
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), nullable=False, index=True),
        sa.Column("server_id", sa.String(32), nullable=False, index=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("price_id", sa.BigInteger, sa.ForeignKey("prices.id"), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount >= 0", name="hold_is_not_negative"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", _SERIAL, primary_key=True),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("contra", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=True),
        sa.Column("price_id", sa.BigInteger, sa.ForeignKey("prices.id"), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=True),
        sa.Column("completion_tokens", sa.BigInteger, nullable=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("request_id", "kind", name="posted_once"),
        sa.CheckConstraint(
            "(kind = 'usage' AND contra = 'revenue' AND amount <= 0) OR (kind = 'credit' AND contra = 'funding')",
            name="kind_fits_contra",
        ),
    )
    op.create_index("ledger_by_account", "ledger", ["account_id", "id"])
    op.create_index("ledger_by_day", "ledger", ["account_id", "created"])
    for statement in _only_appended(op.get_bind().dialect.name):
        op.execute(statement)
    op.create_table(
        "answers",
        sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("idempotency_key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("claim_id", sa.String(64), nullable=False, unique=True),
        sa.Column("server_id", sa.String(32), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=True),
        sa.Column("created", sa.BigInteger, nullable=False, index=True),
    )
    running = sa.text("body IS NULL")
    op.create_index("claims_by_server", "answers", ["server_id"], sqlite_where=running, postgresql_where=running)


def downgrade() -> None:
    """Drops what was added, the ledger included."""
    for table in ("answers", "ledger", "holds", "servers", "prices"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION ledger_is_only_appended")
    for column in ("expires", "requests_per_minute", "tokens_per_minute", "concurrency"):
        op.drop_column("keys", column)
    for column in ("reserved", "balance"):
        op.drop_column("accounts", column)


def _only_appended(dialect: str) -> list[str]:
    """Rows of the ledger stay as they were written, whoever asks."""
    words = "rows of the ledger are never changed or deleted"
    if dialect == "postgresql":
        return [
            (
                f"CREATE FUNCTION ledger_is_only_appended() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION '{words}' USING ERRCODE = 'restrict_violation'; END $$"
            ),
            (
                "CREATE TRIGGER ledger_is_only_appended BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
                "FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_only_appended()"
            ),
        ]
    return [
        f"CREATE TRIGGER ledger_is_not_{done} BEFORE {action} ON ledger BEGIN SELECT RAISE(ABORT, '{words}'); END"
        for action, done in (("UPDATE", "changed"), ("DELETE", "deleted"))
    ]
