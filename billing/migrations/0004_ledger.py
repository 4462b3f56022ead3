"""The ledger's functions and guards: see the SQL files for what each one promises."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "ledger" / "sql"

DROP_FUNCTIONS = """
DROP FUNCTION ledger_due_wallets_roll, ledger_lots_grant, ledger_lot_give_back, ledger_lot_take, ledger_debt_pay,
    ledger_debt_account, ledger_calls_settle, ledger_call_settle_carefully, ledger_key_charged, ledger_answer_store, ledger_hold_extend, ledger_holds_open, ledger_wallets_lock, ledger_wallet_roll, ledger_next_change, ledger_lot_book,
    ledger_lot_close, ledger_account;
DROP TYPE ledger_grant_item, ledger_call_item, ledger_hold_item;
"""

DROP_GUARDS = """
DROP FUNCTION refuse_change, ledger_entries_balance, announce_change CASCADE;
ALTER TABLE billing_wallet RESET (fillfactor);
ALTER TABLE billing_lot RESET (fillfactor);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_idempotency_and_seals")]

    operations = [
        migrations.RunSQL((SQL / "0001_functions.sql").read_text(), DROP_FUNCTIONS),
        migrations.RunSQL((SQL / "0001_guards.sql").read_text(), DROP_GUARDS),
    ]
