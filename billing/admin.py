"""Registers the console pages of every package, for Django's autodiscovery."""

from .accounts import admin as accounts_admin
from .events import admin as events_admin
from .ledger import admin as ledger_admin
from .plans import admin as plans_admin
from .subscriptions import admin as subscriptions_admin

__all__ = ("accounts_admin", "events_admin", "ledger_admin", "plans_admin", "subscriptions_admin")
