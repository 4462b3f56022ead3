"""Registers the console pages of every package, for Django's autodiscovery."""

from .abuse import admin as abuse_admin
from .accounts import admin as accounts_admin
from .events import admin as events_admin
from .invoices import admin as invoices_admin
from .ledger import admin as ledger_admin
from .marketplace import admin as marketplace_admin
from .notices import admin as notices_admin
from .payments import admin as payments_admin
from .payments import card_admin
from .payments.inbox import admin as inbox_admin
from .payments.reconciliation import admin as reconciliation_admin
from .plans import admin as plans_admin
from .subscriptions import admin as subscriptions_admin
from .subscriptions import lifecycle_admin, price_move_admin
from .webhooks import admin as webhooks_admin

__all__ = (
    "abuse_admin",
    "accounts_admin",
    "card_admin",
    "events_admin",
    "inbox_admin",
    "invoices_admin",
    "ledger_admin",
    "lifecycle_admin",
    "marketplace_admin",
    "notices_admin",
    "payments_admin",
    "plans_admin",
    "price_move_admin",
    "reconciliation_admin",
    "subscriptions_admin",
    "webhooks_admin",
)
