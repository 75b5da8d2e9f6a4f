"""What alembic runs: the steps that are lacking, within the transaction that the store has begun."""

from alembic import context

if hasattr(context, "config"):  # alembic runs it, and has set the stage
    context.configure(connection=context.config.attributes["connection"])
    with context.begin_transaction():
        context.run_migrations()
