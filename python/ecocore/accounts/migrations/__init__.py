"""The steps that bring any database to today's tables; alembic runs those that are missing."""
