"""All models of the app, re-exported: each lives in the package that owns it."""

from .accounts.models import Account, ApiKey, Membership, User
from .events.models import Event
from .ledger.models import Hold, LedgerAccount, LedgerEntry, LedgerTransaction, Lot, UsageRecord, Wallet
from .plans.models import CatalogRecord, CreditPack, FxRate, Plan, PlanPrice, ServicePrice
from .subscriptions.models import Subscription

__all__ = (
    "Account",
    "ApiKey",
    "CatalogRecord",
    "CreditPack",
    "Event",
    "FxRate",
    "Hold",
    "LedgerAccount",
    "LedgerEntry",
    "LedgerTransaction",
    "Lot",
    "Membership",
    "Plan",
    "PlanPrice",
    "ServicePrice",
    "Subscription",
    "UsageRecord",
    "User",
    "Wallet",
)
