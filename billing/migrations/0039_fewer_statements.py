"""Settles in fewer statements, and one look at all entries of a statement instead of foreign keys at each of them."""

from pathlib import Path

import django.db.models.deletion
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "ledger" / "sql"

# The lock keeps its new form, which does the same.
DROP_FUNCTIONS = """
DROP FUNCTION ledger_calls_settle(json, json, timestamptz, boolean);
DROP TYPE ledger_settle_item;
"""

# So does the look at entries: it sees what the foreign keys see as well.
DROP_GUARD = "DROP TRIGGER append_only ON billing_ledgeraccount;"


class Migration(migrations.Migration):
    dependencies = [("billing", "0038_names_of_gateways_and_levels")]

    operations = [
        migrations.RunSQL((SQL / "0039_functions.sql").read_text(), DROP_FUNCTIONS),
        migrations.RunSQL((SQL / "0039_guards.sql").read_text(), DROP_GUARD),
        migrations.AlterField(
            model_name="ledgerentry",
            name="ledger_account",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="entries",
                to="billing.ledgeraccount",
            ),
        ),
        migrations.AlterField(
            model_name="ledgertransaction",
            name="account",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="ledger_transactions",
                to="billing.account",
            ),
        ),
        migrations.AlterField(
            model_name="ledgerentry",
            name="transaction",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="entries",
                to="billing.ledgertransaction",
            ),
        ),
    ]
