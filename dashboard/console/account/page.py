"""The account page: everything that hangs on one customer, each block cut to its head and in a fixed number of queries.

An operator sees the blocks of what they may see elsewhere. Use is read from the sums of days, however many calls there are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, AccountLimits, ApiKey, Membership
from billing.accounts.selectors import api_key_state
from billing.events.models import Event
from billing.events.names import field_label, value_label
from billing.invoices.models import Invoice, MoneyBalance
from billing.ledger.models import Hold, Lot, UsageRecord, Wallet
from billing.ledger.sources import source_names
from billing.ledger.usage_reports import By, UsageLine, UsageReport, UsageScope, usage_report
from billing.notices.models import CustomerNotice
from billing.payments.models import Payment, Refund, SavedCard, method_names
from billing.subscriptions.extending import extendable
from billing.subscriptions.models import Subscription
from dashboard.impersonation.models import Impersonation
from dashboard.impersonation.services import PERMISSION as LOG_IN_AS
from iafactory.common.admin import EMPTY, decimal_text, list_url, object_url
from ratelimit.models import AbuseSignal

from .actions import RESET_PERMISSION
from .limits import LimitsInForce, limits_in_force

DAYS = 30
# Rows of a block; the list behind it has the others.
ROWS = 10
EVENTS = 12
MODELS = 6
# Signals are about keys too: of accounts with more keys, those made last.
_KEYS_WATCHED = 200

State = Subscription.State
_DECIMAL = re.compile(r"-?\d{1,20}\.\d{1,9}")


@dataclass(frozen=True, slots=True)
class Flag:
    """Something about the account that an operator should know before anything else."""

    label: Any
    bad: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What one field of an event was and became."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event with what changed, and the page of what it is about."""

    event: Event
    changes: list[Change]
    more: int
    url: str | None


@dataclass(frozen=True, slots=True)
class KeyLine:
    key: ApiKey
    state: str


@dataclass(frozen=True, slots=True)
class PaymentLine:
    """A payment. `refundable`: some of its money may still go back."""

    payment: Payment
    refundable: bool


@dataclass(frozen=True, slots=True)
class Use:
    """The last days of the account's use, by day for the chart and by model for the table beside it."""

    report: UsageReport
    days: list[UsageLine]
    models: list[UsageLine]
    since: date

    def chart(self) -> dict[str, Any]:
        """What the script draws; amounts as texts."""
        lines = self.days
        return {
            "labels": [line.key.isoformat() for line in lines],
            "served": [line.sums.calls - line.sums.calls_failed for line in lines],
            "failed": [line.sums.calls_failed for line in lines],
            "credits": [str(line.sums.credits_charged) for line in lines],
            "names": {"served": str(_("Served")), "failed": str(_("Failed")), "credits": str(_("Credits"))},
        }


@dataclass(slots=True)
class AccountPage:
    """What the template shows. None: this operator may not see it."""

    account: Account
    wallet: Wallet | None = None
    holds_open: int = 0
    money: list[MoneyBalance] = field(default_factory=list)
    subscription: Subscription | None = None
    may_extend: bool = False
    flags: list[Flag] = field(default_factory=list)
    lots: list[tuple[Lot, str]] | None = None
    """Each with what it came from."""
    use: Use | None = None
    calls: list[UsageRecord] | None = None
    keys: list[KeyLine] | None = None
    subscriptions: list[Subscription] | None = None
    invoices: list[Invoice] | None = None
    payments: list[PaymentLine] | None = None
    refunds: list[Refund] | None = None
    cards: list[SavedCard] | None = None
    limits: LimitsInForce | None = None
    own_limits: AccountLimits | None = None
    signals: list[AbuseSignal] | None = None
    members: list[Membership] | None = None
    notices: list[CustomerNotice] | None = None
    logins: list[Impersonation] | None = None
    events: list[EventLine] | None = None
    may: dict[str, bool] = field(default_factory=dict)

    @property
    def urls(self) -> dict[str, str]:
        """The full list behind each block."""
        pk = self.account.pk
        of_account = {"account__id__exact": pk}
        return {
            "lots": list_url("billing.lot", wallet__account__id__exact=pk),
            "holds": list_url("billing.hold", **of_account),
            "calls": list_url("billing.usagerecord", **of_account),
            "keys": list_url("billing.apikey", **of_account),
            "subscriptions": list_url("billing.subscription", **of_account),
            "invoices": list_url("billing.invoice", **of_account),
            "payments": list_url("billing.payment", **of_account),
            "refunds": list_url("billing.refund", payment__account__id__exact=pk),
            "cards": list_url("billing.savedcard", **of_account),
            "limits": list_url("billing.accountlimits", **of_account),
            "signals": list_url("ratelimit.abusesignal", q=pk),
            "members": list_url("billing.membership", **of_account),
            "notices": list_url("billing.customernotice", **of_account),
            "logins": list_url("dashboard.impersonation", **of_account),
            "events": list_url("billing.event", account_id__exact=pk),
            "transactions": list_url("billing.ledgertransaction", **of_account),
            "entries": list_url("billing.ledgerentry", ledger_account__id__exact=pk),
            "money": list_url("billing.moneybalance", **of_account),
        }


def account_page(account: Account, *, may: Callable[[str], bool], now: datetime) -> AccountPage:
    """All blocks for an operator with the rights `may`; the same number of queries for a new account and the busiest."""
    page = AccountPage(account, may=_buttons(may))
    page.wallet = Wallet.objects.filter(account=account).first()
    page.holds_open = Hold.objects.filter(account=account).count()
    page.money = list(MoneyBalance.objects.filter(account=account).exclude(amount=0).order_by("currency")[:ROWS])
    own = Subscription.objects.filter(account=account).select_related("plan", "price", "next_plan", "account")
    page.subscription = own.filter(state__in=Subscription.LIVE).first()
    page.may_extend = page.subscription is not None and extendable(page.subscription, now)
    keys = list(ApiKey.objects.filter(account=account).order_by("-created_at")[:_KEYS_WATCHED])
    page.own_limits = AccountLimits.objects.filter(account=account).first()
    if may("billing.view_subscription"):
        page.subscriptions = list(own.order_by("-created_at")[:ROWS])
    if may("billing.view_lot"):
        open_lots = Lot.objects.filter(wallet_id=account.pk, closed_at__isnull=True)
        lots = list(open_lots.order_by("priority", "expires_at", "created_at")[:ROWS])
        names = source_names(lot.source for lot in lots)
        page.lots = [(lot, names[lot.source]) for lot in lots]
    if may("billing.view_usagerecord"):
        page.use = use_of(account, now=now)
        page.calls = list(UsageRecord.objects.filter(account=account).order_by("-started_at")[:ROWS])
    if may("billing.view_apikey"):
        page.keys = [KeyLine(key, api_key_state(key, now)) for key in keys[:ROWS]]
        usable = [line.key for line in page.keys if line.key.usable_at(now)]
        show_allowance = may("routing.view_planrouting")
        page.limits = limits_in_force(account, usable, page.own_limits, at=now, show_allowance=show_allowance)
    if may("billing.view_invoice"):
        page.invoices = list(Invoice.objects.filter(account=account).order_by("-created_at")[:ROWS])
    if may("billing.view_payment"):
        of_account_rows = Payment.objects.filter(account=account).select_related("invoice").order_by("-created_at")
        payments = method_names(of_account_rows)[:ROWS]
        page.payments = [PaymentLine(payment, _refundable(payment)) for payment in payments]
    if may("billing.view_refund"):
        page.refunds = list(Refund.objects.filter(payment__account=account).select_related("payment")[:ROWS])
    if may("billing.view_savedcard"):
        page.cards = list(SavedCard.objects.filter(account=account).order_by("-saved_at")[:ROWS])
    if may("ratelimit.view_abusesignal"):
        page.signals = _signals(account, keys)
    if may("billing.view_membership"):
        page.members = list(account.memberships.select_related("user").order_by("-role", "created_at")[:ROWS])
    if may("billing.view_customernotice"):
        page.notices = list(CustomerNotice.objects.filter(account=account).order_by("-created_at")[:ROWS])
    if may("dashboard.view_impersonation"):
        logins = Impersonation.objects.filter(account=account).select_related("operator", "user")
        page.logins = list(logins.order_by("-began_at")[:ROWS])
    if may("billing.view_event"):
        page.events = [event_line(event) for event in Event.objects.filter(account_id=account.pk).order_by("-at")[:EVENTS]]
    page.flags = _flags(page, now)
    return page


def use_of(account: Account, *, now: datetime) -> Use:
    """The last 30 UTC days, today included, in two queries over the sums of days."""
    today = now.astimezone(UTC).date()
    since = today - timedelta(days=DAYS - 1)
    report = usage_report((By.DAY, By.MODEL), since=since, until=today, scope=UsageScope(account_id=account.pk))
    return Use(report, report.by[By.DAY], report.by[By.MODEL][:MODELS], since)


def event_line(event: Event, *, most: int = 4) -> EventLine:
    """An event with at most `most` of the fields that changed."""
    names = [*event.before, *(name for name in event.after if name not in event.before)]
    changes = [
        Change(
            field_label(name),
            *(_told(value_label(event.object_type, name, side.get(name))) for side in (event.before, event.after)),
        )
        for name in names
        if event.before.get(name) != event.after.get(name)
    ]
    return EventLine(event, changes[:most], max(len(changes) - most, 0), object_url(event.object_type, event.object_id))


def _told(value: Any) -> str:
    if value in (None, "", [], {}):
        return EMPTY
    if isinstance(value, bool):
        return str(_("yes")) if value else str(_("no"))
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    text = str(value)
    if _DECIMAL.fullmatch(text):
        return decimal_text(Decimal(text))
    # An instant to the minute; the event's own page has all of it.
    return f"{text[:10]} {text[11:16]}" if len(text) > 19 and text[4:5] == "-" and text[10:11] == "T" else text


def _refundable(payment: Payment) -> bool:
    if payment.state != Payment.State.SUCCEEDED or payment.received_amount is None:
        return False
    return payment.received_amount > payment.refunded_amount


def _signals(account: Account, keys: list[ApiKey]) -> list[AbuseSignal]:
    subjects = [f"account:{account.pk}", *(f"key:{key.pk}" for key in keys)]
    # Open ones have an index by subject; the list behind the block has the closed ones.
    wanted = AbuseSignal.objects.filter(state=AbuseSignal.State.OPEN, subject__in=subjects)
    return list(wanted.order_by("-last_seen_at")[:ROWS])


def _buttons(may: Callable[[str], bool]) -> dict[str, bool]:
    return {
        "grant": may("billing.add_lot"),
        "new_key": may("billing.add_apikey"),
        "block": may("billing.change_account"),
        "refund": may("billing.add_refund"),
        "change_plan": may("billing.change_subscription"),
        "extend": may("billing.extend_subscription"),
        "send_reset": may(RESET_PERMISSION),
        "log_in_as": may(LOG_IN_AS),
        "set_limits": may("billing.change_account"),
        "see_books": may("billing.view_ledgerentry"),
    }


def _flags(page: AccountPage, now: datetime) -> list[Flag]:
    account, flags = page.account, []
    if account.status == Account.Status.BLOCKED and account.blocked_until is not None:
        until = {"until": f"{account.blocked_until:%Y-%m-%d %H:%M}"}
        flags.append(Flag(_("Blocked until %(until)s UTC") % until))
    if page.wallet is not None and page.wallet.debt:
        flags.append(Flag(_("In debt: calls are refused")))
    if page.subscription is None:
        flags.append(Flag(_("No live subscription")))
    elif page.subscription.state == State.PAST_DUE:
        flags.append(Flag(_("Payment overdue")))
    elif page.subscription.cancel_at_period_end:
        flags.append(Flag(_("Ends with its period"), bad=False))
    if page.signals:
        flags.append(Flag(_("Abuse signals: %(count)d") % {"count": len(page.signals)}))
    if page.own_limits is not None and (page.own_limits.until is None or page.own_limits.until > now):
        flags.append(Flag(_("Own limits"), bad=False))
    if page.members is not None and any(one.user.is_staff for one in page.members):
        flags.append(Flag(_("An operator is a member"), bad=False))
    if page.members and not any(one.user.email_verified_at for one in page.members):
        flags.append(Flag(_("E-mail not verified"), bad=False))
    return flags
