"""All models of the app, re-exported: each lives in the package that owns it."""

from .accounts.models import Account, AccountLimits, ApiKey, Membership, User
from .events.models import Event
from .invoices.models import (
    BillingProfile,
    Invoice,
    InvoiceLine,
    InvoicePdf,
    MoneyBalance,
    MoneyBalanceEntry,
    NumberSeries,
    SellerProfile,
    TaxRate,
)
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
from .marketplace.models import MarketplaceAccount, MarketplacePlan
from .notices.models import CreditNotice, KeyBudgetNotice
from .payments.inbox.models import GatewayWebhook
from .payments.models import (
    Dispute,
    ManualMethod,
    Payment,
    PaymentAllocation,
    PaymentEffect,
    PaymentProof,
    Refund,
)
from .plans.models import CatalogRecord, Coupon, CreditPack, FxRate, Plan, PlanPrice, ServicePrice
from .subscriptions.models import CouponRedemption, DunningNotice, DunningStep, JobRun, Subscription
from .webhooks.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookQueueItem

__all__ = (
    "Account",
    "AccountLimits",
    "ApiKey",
    "BillingProfile",
    "BooksVerification",
    "CatalogRecord",
    "Coupon",
    "CouponRedemption",
    "CreditNotice",
    "CreditPack",
    "DaySeal",
    "Dispute",
    "DunningNotice",
    "DunningStep",
    "Event",
    "FxRate",
    "GatewayWebhook",
    "Hold",
    "Invoice",
    "InvoiceLine",
    "InvoicePdf",
    "JobRun",
    "KeyBudgetNotice",
    "LedgerAccount",
    "LedgerEntry",
    "LedgerTransaction",
    "Lot",
    "ManualMethod",
    "MarketplaceAccount",
    "MarketplacePlan",
    "Membership",
    "MoneyBalance",
    "MoneyBalanceEntry",
    "NumberSeries",
    "Payment",
    "PaymentAllocation",
    "PaymentEffect",
    "PaymentProof",
    "Plan",
    "PlanPrice",
    "Refund",
    "SellerProfile",
    "ServicePrice",
    "StoredAnswer",
    "Subscription",
    "TaxRate",
    "UsageRecord",
    "User",
    "Wallet",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookQueueItem",
)
