"""All models of the app, re-exported: each lives in the package that owns it."""

from .accounts.models import Account, AccountLimits, ApiKey, Membership, User
from .events.models import Event
from .ledger.models import (
    BooksVerification,
    DaySeal,
    Hold,
    LedgerAccount,
    LedgerEntry,
    LedgerTransaction,
    Lot,
    StoredAnswer,
    UsageRecord,
    Wallet,
)
from .plans.models import CatalogRecord, CreditPack, FxRate, Plan, PlanPrice, ServicePrice
from .subscriptions.models import Subscription

__all__ = (
    "Account",
    "AccountLimits",
    "ApiKey",
    "BooksVerification",
    "CatalogRecord",
    "CreditPack",
    "DaySeal",
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
    "StoredAnswer",
    "Subscription",
    "UsageRecord",
    "User",
    "Wallet",
)
