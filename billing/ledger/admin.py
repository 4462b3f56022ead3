"""The books, the wallets and the usage log in the console: read-only, each number linked to what made it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from celery import Task
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from kombu.exceptions import OperationalError as QueueError

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account, ApiKey
from billing.accounts.selectors import accounts_matching
from billing.events.admin import operator_actor
from billing.events.reasons import reason_text
from billing.events.services import event_record
from billing.plans.models import ServicePrice
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReadOnlyInline,
    arrow,
    change_link,
    decimal_column,
    decimal_text,
    in_order,
    json_block,
    link_column,
    linked_filter,
    list_link,
    list_url,
    moment_column,
    moment_text,
    object_url,
    presence_filter,
    table,
    text_filter,
)
from iafactory.common.csv_lists import CsvListMixin
from iafactory.common.formats import duration_text, number_text
from iafactory.common.ids import uuid_or_none
from iafactory.common.money import credits_for_cost, usd_quantise

from .explanation import arithmetic, balances_of, counts_tokens, unit_prices, units
from .models import (
    BooksVerification,
    DaySeal,
    Hold,
    LedgerAccount,
    LedgerEntry,
    LedgerTransaction,
    Lot,
    StoredAnswer,
    UsageArchive,
    UsageRecord,
    Wallet,
)
from .seals import kept_seals
from .selectors import balance_at
from .sources import source_names
from .tasks import seal_days, verify_books

MILLION = Decimal(1_000_000)
# Accounts of the books that hold what no customer pays.
LOSS_KINDS = (LedgerAccount.Kind.OPERATOR_LOSS, LedgerAccount.Kind.UNKNOWN_COST)
UNCHARGED_ENDS = (UsageRecord.End.PROVIDER_ERROR, UsageRecord.End.REFUSED, UsageRecord.End.PROCESS_DIED)
# What lists have room for.
SHORT_ENDS = {
    UsageRecord.End.COMPLETE: _("complete"),
    UsageRecord.End.CLIENT_GONE: _("client gone"),
    UsageRecord.End.UPSTREAM_DROPPED: _("upstream dropped"),
    UsageRecord.End.PROVIDER_ERROR: _("provider error"),
    UsageRecord.End.REFUSED: _("refused"),
    UsageRecord.End.PROCESS_DIED: _("process died"),
    UsageRecord.End.CUT_OFF: _("cut off"),
}
# Calls of services have their code after it.
SERVICE_ENDPOINT = "service:"


def links(*parts: SafeString) -> SafeString:
    """Links in a row."""
    return format_html_join(" · ", "{}", ((part,) for part in parts))


def lot_parts(lot_ids: list[Any] | None, amounts: list[Decimal] | None, verb: Any) -> SafeString:
    """Which lots gave how much, with their kind and what is left of them."""
    if not lot_ids:
        return SafeString(EMPTY)
    lots = {lot.pk: lot for lot in Lot.objects.filter(pk__in=lot_ids)}
    names = source_names(lot.source for lot in lots.values())
    rows = []
    for lot_id, amount in zip(lot_ids, amounts or [], strict=False):
        lot = lots.get(lot_id)
        rows.append(
            (
                change_link("billing.lot", lot_id, f"…{str(lot_id)[-12:]}"),
                lot.get_kind_display() if lot else EMPTY,
                names[lot.source] if lot else EMPTY,
                amount,
                lot.remaining if lot else EMPTY,
            )
        )
    return table((_("lot"), _("kind"), _("source"), verb, _("left now")), rows)


class DebtFilter(admin.SimpleListFilter):
    """Wallets that owe."""

    title = _("debt")
    parameter_name = "debt"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("owed", _("In debt"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Wallet]) -> QuerySet[Wallet]:
        return queryset.filter(debt__gt=0) if self.value() == "owed" else queryset


class BalanceAtForm(forms.Form):
    """The instant at which a balance is asked, in the active time zone."""

    EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
    LATEST = datetime(2200, 1, 1, tzinfo=UTC)

    at = forms.DateTimeField(
        label=_("Balance at"),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S"),
    )

    def clean_at(self) -> datetime:
        at: datetime = self.cleaned_data["at"]
        if not self.EARLIEST <= at < self.LATEST:
            raise forms.ValidationError(_("The year must lie between 2000 and 2199."))
        return at


@admin.register(Wallet)
class WalletAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """An account's credits, summed up."""

    list_display = ("account_link", "balance_", "held_", "available_", "debt_", "next_change_at")
    list_display_links = ("balance_",)
    list_filter = (DebtFilter,)
    list_select_related = ("account",)
    search_help_text = _("Account, e-mail or beginning of a key.")
    fields = ("account_link", "balance_", "held_", "available_", "debt_", "next_change_at", "open_lots", "explore")
    readonly_fields = ("account_link", "balance_", "held_", "available_", "debt_", "open_lots", "explore")

    account_link = link_column("account", "billing.account", _("account"))
    balance_ = decimal_column("balance", _("balance"), "credits")
    held_ = decimal_column("held", _("held by open calls"))
    debt_ = decimal_column("debt", _("debt"))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        wallet = self.get_object(request, object_id)
        if wallet is not None and self.has_view_permission(request, wallet):
            extra_context = {**(extra_context or {}), **self._balance_then(request, wallet)}
        return super().change_view(request, object_id, form_url, extra_context)

    def _balance_then(self, request: HttpRequest, wallet: Wallet) -> dict[str, Any]:
        """The form that asks for a balance at an instant, and the answer once it is asked."""
        now = clock.now()
        zone = wallet.account.zone
        with timezone.override(zone):
            form = BalanceAtForm(request.GET) if "at" in request.GET else BalanceAtForm(initial={"at": now})
            context: dict[str, Any] = {"balance_form": form, "balance_field": str(form["at"]), "balance_zone": zone.key}
            if form.is_bound and form.is_valid():
                at = form.cleaned_data["at"]
                context |= {
                    "balance_then": balance_at(wallet.pk, at, now=now),
                    "balance_local": f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}",
                    "balance_utc": moment_text(at),
                    "balance_lies_ahead": at > now,
                    "balance_entries": list_url(
                        "billing.ledgerentry", ledger_account__id__exact=wallet.pk, transaction__at__lte=at.astimezone(UTC)
                    ),
                }
        return context

    @admin.display(description=_("available"))
    def available_(self, wallet: Wallet) -> SafeString:
        return format_html('<span class="figure">{}</span>', decimal_text(wallet.available))

    @admin.display(description=_("open lots, in burn order"))
    def open_lots(self, wallet: Wallet) -> SafeString:
        lots = wallet.lots.filter(closed_at__isnull=True).order_by("priority", "expires_at", "created_at")[:50]
        names = source_names(lot.source for lot in lots)
        rows = [
            (
                change_link("billing.lot", lot.pk, lot.get_kind_display()),
                names[lot.source],
                lot.amount,
                lot.remaining,
                lot.held,
                f"{lot.expires_at:%Y-%m-%d %H:%M}" if lot.expires_at else _("never"),
            )
            for lot in lots
        ]
        headings = (_("kind"), _("source"), _("amount"), _("remaining"), _("held"), _("expires, UTC"))
        return table(headings, rows) if rows else SafeString(EMPTY)

    @admin.display(description=_("see also"))
    def explore(self, wallet: Wallet) -> SafeString:
        return links(
            list_link("billing.lot", _("All lots"), wallet__account__id__exact=wallet.pk),
            list_link("billing.hold", _("Open holds"), account__id__exact=wallet.pk),
            list_link("billing.ledgertransaction", _("Transactions"), account__id__exact=wallet.pk),
            list_link("billing.ledgerentry", _("Entries"), ledger_account__id__exact=wallet.pk),
            list_link("billing.usagerecord", _("Usage"), account__id__exact=wallet.pk),
        )


class LotChangeList(ChangeList):
    """A page of lots with the names of what they came from, in two queries."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        lots: list[Any] = list(self.result_list)
        names = source_names(lot.source for lot in lots)
        for lot in lots:
            lot.source_text = names[lot.source]
        self.result_list = lots


@admin.register(Lot)
class LotAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Credits that arrived together."""

    list_display = ("created", "account_link", "kind", "amount_", "remaining_", "held_", "expires", "closed", "source_name")
    list_filter = (
        "kind",
        presence_filter("closed_at", _("life"), given=_("Closed"), empty=_("Open")),
        linked_filter("wallet__account", Account, _("account")),
        "created_at",
        "expires_at",
    )
    list_select_related = ("wallet__account",)
    search_account_field = "wallet_id"
    search_uuid_fields = ("pk", "payment_id")
    search_exact_fields = ("grant_key", "source")
    search_help_text = _("Lot or payment id, idempotency key of the grant, source, account or e-mail.")
    fieldsets = (
        (None, {"fields": ("account_link", "kind", "source_name", "explore")}),
        (_("Credits"), {"fields": ("amount_", "remaining_", "held_", "priority")}),
        (_("Paid"), {"fields": ("paid", "payment_id", "grant_key")}),
        (_("Life, UTC"), {"fields": ("created_at", "effective_at", "booked_at", "expires_at", "closed_at")}),
        (_("What moved it"), {"fields": ("movements",)}),
    )
    readonly_fields = ("account_link", "source_name", "amount_", "remaining_", "held_", "paid", "movements", "explore")

    created = moment_column("created_at", _("created, UTC"))
    expires = moment_column("expires_at", _("expires, UTC"))
    closed = moment_column("closed_at", _("closed, UTC"))
    amount_ = decimal_column("amount", _("amount"))
    remaining_ = decimal_column("remaining", _("remaining"))
    held_ = decimal_column("held", _("held"))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LotChangeList

    @admin.display(description=_("source"), ordering="source")
    def source_name(self, lot: Any) -> str:
        return str(lot.source_text if hasattr(lot, "source_text") else source_names([lot.source])[lot.source])

    @admin.display(description=_("account"), ordering="wallet__account__name")
    def account_link(self, lot: Lot) -> SafeString:
        return change_link("billing.account", lot.wallet_id, lot.wallet.account)

    @admin.display(description=_("paid"))
    def paid(self, lot: Lot) -> str:
        return f"{decimal_text(lot.paid_amount)} {lot.paid_currency}".strip()

    @admin.display(description=_("last 50 movements"))
    def movements(self, lot: Lot) -> SafeString:
        # The wallet's own index narrows this down; nothing indexes lot ids inside entries.
        entries = (
            LedgerEntry.objects.filter(ledger_account_id=lot.wallet_id, lot_ids__contains=[lot.pk])
            .select_related("transaction")
            .order_by("-id")[:50]
        )
        rows = []
        for entry in entries:
            moved = sum(
                (amount for part, amount in zip(entry.lot_ids or (), entry.lot_amounts or (), strict=True) if part == lot.pk),
                Decimal(0),
            )
            rows.append(
                (
                    moment_text(entry.transaction.at),
                    change_link("billing.ledgertransaction", entry.transaction_id, entry.transaction.get_kind_display()),
                    moved.copy_sign(entry.amount),
                    entry.balance_after,
                    reason_text(entry.transaction.reason)[:80],
                )
            )
        headings = (_("at, UTC"), _("transaction"), _("moved"), _("wallet then"), _("reason"))
        return table(headings, rows) if rows else SafeString(EMPTY)

    @admin.display(description=_("see also"))
    def explore(self, lot: Lot) -> SafeString:
        return links(
            change_link("billing.wallet", lot.wallet_id, _("Wallet")),
            list_link("billing.lot", _("All lots of the account"), wallet__account__id__exact=lot.wallet_id),
            list_link("billing.event", _("Events"), object_type__exact="lot", object_id__exact=lot.pk),
        )


class OverdueFilter(admin.SimpleListFilter):
    """Holds whose expiry has passed: the reaper should have closed them."""

    title = _("expiry")
    parameter_name = "expiry"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("past", _("Past expiry")), ("running", _("Running"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Hold]) -> QuerySet[Hold]:
        if self.value() == "past":
            return queryset.filter(expires_at__lte=clock.now())
        if self.value() == "running":
            return queryset.filter(expires_at__gt=clock.now())
        return queryset


@admin.register(Hold)
class HoldAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Calls in flight. A row leaves when its call ends."""

    list_display = ("opened", "account_link", "served", "credits_", "worst_", "expires", "ending")
    list_filter = (
        OverdueFilter,
        linked_filter("account", Account, _("account")),
        text_filter("provider", _("provider")),
        "opened_at",
    )
    list_select_related = ("account",)
    search_uuid_fields = ("pk", "api_key_id")
    search_exact_fields = ("idempotency_key",)
    search_help_text = _("Request id, API key id, idempotency key, account or e-mail.")
    fieldsets = (
        (None, {"fields": ("id", "account_link", "api_key_link", "endpoint", "provider", "model", "explore")}),
        (_("Worst case"), {"fields": ("credits_", "cost_", "pinned")}),
        (_("Life, UTC"), {"fields": ("opened_at", "expires_at", "how_it_ends")}),
        (_("Speed limits and repetition"), {"fields": ("quota_block", "idempotency_key", "body_hash")}),
    )
    readonly_fields = (
        "account_link",
        "api_key_link",
        "credits_",
        "cost_",
        "pinned",
        "how_it_ends",
        "quota_block",
        "explore",
    )

    account_link = link_column("account", "billing.account", _("account"))
    api_key_link = link_column("api_key", "billing.apikey", _("API key"))
    opened = moment_column("opened_at", _("opened, UTC"))
    expires = moment_column("expires_at", _("expires, UTC"))
    credits_ = decimal_column("credits", _("credits held"))
    cost_ = decimal_column("worst_cost_usd", _("worst provider cost"), "USD")
    worst_ = decimal_column("worst_cost_usd", _("worst cost, USD"))

    @admin.display(description=_("model"), ordering="model")
    def served(self, hold: Hold) -> SafeString:
        name = Truncator(hold.model or hold.endpoint).chars(40)
        return format_html('{} <span class="quiet">{}</span>', name, hold.provider)

    @admin.display(description=_("ends as"), ordering="expires_at")
    def ending(self, hold: Hold) -> SafeString:
        overdue = hold.expires_at <= clock.now()
        state, text = ("overdue", _("past expiry")) if overdue else ("running", _("running"))
        return format_html(
            '<a class="state state-{}" href="{}">{}</a>', state, list_url("billing.usagerecord", q=hold.pk), text
        )

    @admin.display(description=_("how it ends"))
    def how_it_ends(self, hold: Hold) -> SafeString:
        late = clock.now() - hold.expires_at
        if late < timedelta(0):
            told = format_html("{}", _("Running: the call settles it. Past its expiry it is closed as below."))
        else:
            since = _("Past expiry for %s.") % str(late).split(".", maxsplit=1)[0]
            told = format_html('<span class="state state-overdue">{}</span>', since)
        rule = _(
            "A hold whose process died is closed within seconds of its expiry: the customer pays nothing, the worst provider "
            "cost is booked as unknown. A result that arrives later is booked all the same and takes the unknown cost back."
        )
        return format_html(
            '{}<p class="help">{}</p>{}',
            told,
            rule,
            links(
                list_link("billing.usagerecord", _("The call, once it has ended"), q=hold.pk),
                list_link("billing.ledgertransaction", _("Its transactions"), q=hold.pk),
                list_link("billing.usagerecord", _("Calls that ended this way"), end__exact="process_died"),
            ),
        )

    @admin.display(description=_("pinned lots"))
    def pinned(self, hold: Hold) -> SafeString:
        return lot_parts(hold.lot_ids, hold.lot_amounts, _("pinned"))

    @admin.display(description=_("windows"))
    def quota_block(self, hold: Hold) -> SafeString:
        return json_block(hold.quota)

    @admin.display(description=_("see also"))
    def explore(self, hold: Hold) -> SafeString:
        return links(
            list_link("billing.hold", _("All holds of the account"), account__id__exact=hold.account_id),
            list_link("billing.usagerecord", _("Usage of the account"), account__id__exact=hold.account_id),
        )


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadOnlyAdmin):
    """The accounts of the books."""

    list_display = ("kind", "unit", "account_link", "entries_link")
    list_filter = ("kind", text_filter("unit", _("unit")), linked_filter("account", Account, _("account")))
    list_select_related = ("account",)
    search_fields = ("account__name", "account__billing_email")
    search_uuid_fields = ("pk", "account_id")
    search_help_text = _("Account, e-mail or id.")
    fields = ("kind", "unit", "account_link", "entries_link")
    readonly_fields = ("account_link", "entries_link")

    account_link = link_column("account", "billing.account", _("account"))

    @admin.display(description=_("entries"))
    def entries_link(self, account: LedgerAccount) -> SafeString:
        return list_link("billing.ledgerentry", _("Entries"), ledger_account__id__exact=account.pk)


class EntryInline(ReadOnlyInline):
    """Both sides of a transaction."""

    model = LedgerEntry
    ordering = ("id",)
    fields = ("book", "signed", "unit", "balance", "lots")
    readonly_fields = fields

    signed = decimal_column("amount", _("amount"))
    balance = decimal_column("balance_after", _("wallet's balance after"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerEntry]:
        return super().get_queryset(request).select_related("ledger_account__account")

    @admin.display(description=_("account of the books"))
    def book(self, entry: LedgerEntry) -> SafeString:
        account = entry.ledger_account
        owner = f" · {account.account}" if account.account_id else ""
        return change_link("billing.ledgeraccount", account.pk, f"{account.get_kind_display()} ({account.unit}){owner}")

    @admin.display(description=_("lots"))
    def lots(self, entry: LedgerEntry) -> SafeString:
        return lot_parts(entry.lot_ids, entry.lot_amounts, _("moved"))


@admin.register(LedgerTransaction)
class LedgerTransactionAdmin(CsvListMixin, AccountSearchMixin, ReadOnlyAdmin):
    """Business facts in the books. A call's transaction has its request id."""

    csv_newest_by = ("at", "id")
    csv_fields = ("id", "at", "kind", "account_id", "reason", "actor", "idempotency_key")
    list_display = ("moment", "kind", "account_link", "reason", "actor", "short_id")
    list_filter = ("kind", linked_filter("account", Account, _("account")), "at", text_filter("actor", _("actor")))
    list_select_related = ("account",)
    search_help_text = _("Request or transaction id, idempotency key, account or e-mail.")
    inlines = (EntryInline,)
    fields = ("at", "kind", "account_link", "reason", "actor", "id", "idempotency_key", "explore")
    readonly_fields = ("account_link", "explore")

    account_link = link_column("account", "billing.account", _("account"))

    moment = moment_column("at", _("at, UTC"))

    @admin.display(description=_("id"), ordering="id")
    def short_id(self, transaction: LedgerTransaction) -> str:
        return f"…{str(transaction.pk)[-12:]}"

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        # A grant books its key with a prefix, so does the reaper the request id, and what gives back the key of the taking.
        keys = [term, f"grant:{term}", f"reap:{term}", f"lot-effective:{term}", f"back:{term}"]
        wanted = Q(idempotency_key__in=keys)
        wanted |= Q(account__in=list(accounts_matching(term).values_list("pk", flat=True)[:200]))
        if (identifier := uuid_or_none(term)) is not None:
            wanted |= Q(pk=identifier)
        return queryset.filter(wanted), False

    @admin.display(description=_("see also"))
    def explore(self, transaction: LedgerTransaction) -> SafeString:
        parts = []
        if transaction.kind == LedgerTransaction.Kind.CALL:
            parts.append(list_link("billing.usagerecord", _("The call"), q=transaction.pk))
        if transaction.kind == LedgerTransaction.Kind.REAPED and transaction.idempotency_key:
            request_id = transaction.idempotency_key.removeprefix("reap:")
            parts.append(list_link("billing.usagerecord", _("The call"), q=request_id))
        if transaction.account_id:
            parts.append(change_link("billing.wallet", transaction.account_id, _("Wallet")))
        return links(*parts) if parts else SafeString(EMPTY)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(CsvListMixin, AccountSearchMixin, ReadOnlyAdmin):
    """Sides of transactions."""

    csv_newest_by = ("id",)
    csv_fields = (
        "id",
        "transaction_id",
        "transaction__at",
        "transaction__kind",
        "ledger_account__kind",
        "ledger_account__account_id",
        "unit",
        "amount",
        "balance_after",
    )
    list_display = ("at", "kind", "book", "signed", "unit", "balance", "transaction_link")
    list_display_links = ("signed",)
    list_filter = (
        ("ledger_account__kind", admin.ChoicesFieldListFilter),
        linked_filter("ledger_account", LedgerAccount, _("account of the books")),
        text_filter("unit", _("unit")),
        "transaction__at",
    )
    list_select_related = ("transaction", "ledger_account__account")
    search_account_field = "ledger_account_id"
    search_uuid_fields = ("transaction_id",)
    search_help_text = _("Request or transaction id, account or e-mail.")
    fields = ("at", "kind", "book", "signed", "unit", "balance", "transaction_link", "lots")
    readonly_fields = ("at", "kind", "book", "signed", "balance", "transaction_link", "lots")

    signed = decimal_column("amount", _("amount"))
    balance = decimal_column("balance_after", _("balance after"))

    @admin.display(description=_("at"), ordering="id")
    def at(self, entry: LedgerEntry) -> str:
        return moment_text(entry.transaction.at)

    @admin.display(description=_("kind"))
    def kind(self, entry: LedgerEntry) -> str:
        return entry.transaction.get_kind_display()

    @admin.display(description=_("account of the books"))
    def book(self, entry: LedgerEntry) -> SafeString:
        account = entry.ledger_account
        name = account.get_kind_display()
        if account.account_id is None:
            return change_link("billing.ledgeraccount", account.pk, name)
        return change_link("billing.account", account.account_id, Truncator(f"{name}: {account.account}").chars(40))

    @admin.display(description=_("transaction"))
    def transaction_link(self, entry: LedgerEntry) -> SafeString:
        return change_link("billing.ledgertransaction", entry.transaction_id, f"…{str(entry.transaction_id)[-12:]}")

    @admin.display(description=_("lots"))
    def lots(self, entry: LedgerEntry) -> SafeString:
        return lot_parts(entry.lot_ids, entry.lot_amounts, _("moved"))


def _decimal(price: dict[str, Any], *names: str) -> Decimal | None:
    """The first of `names` that the price snapshot holds."""
    for name in names:
        if price.get(name) is not None:
            try:
                return Decimal(str(price[name]))
            except InvalidOperation:
                return None
    return None


def token_lines(usage: UsageRecord) -> Iterator[tuple[Any, int, Decimal | None]]:
    """What a call is priced by: name, tokens, USD per million tokens (None: the snapshot has no such price)."""
    price = usage.price
    plain_input = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    reasoning_price = _decimal(price, "reasoning_output_per_mtok")
    apart = usage.reasoning_tokens if reasoning_price is not None else 0
    yield _("input"), plain_input, _decimal(price, "input_per_mtok")
    yield _("input, read from cache"), usage.cache_read_tokens, _decimal(price, "cached_input_per_mtok", "input_per_mtok")
    yield _("input, written to cache"), usage.cache_write_tokens, _decimal(price, "cache_write_per_mtok", "input_per_mtok")
    yield _("output"), usage.output_tokens - apart, _decimal(price, "output_per_mtok")
    if apart:
        yield _("output, reasoning"), apart, reasoning_price


def _attempts(usage: UsageRecord) -> str:
    return ngettext("%d attempt", "%d attempts", usage.attempts) % usage.attempts


def _is_service(usage: UsageRecord) -> bool:
    """Whether another service charged this, at a fixed price."""
    return usage.endpoint.startswith(SERVICE_ENDPOINT)


def _tariff(usage: UsageRecord) -> tuple[Decimal | None, Decimal | None, bool]:
    """Margin, USD a credit and whether credits are whole, as the price snapshot has them."""
    whole = usage.price.get("rounding") == "whole" or usage.price.get("whole") is True
    return _decimal(usage.price, "margin_multiplier", "margin"), _decimal(usage.price, "usd_per_credit"), whole


@admin.register(UsageRecord)
class UsageRecordAdmin(CsvListMixin, AccountSearchMixin, ReadOnlyAdmin):
    """How each call ended, and how its price came about."""

    csv_newest_by = ("started_at", "id")
    csv_fields = (
        "id",
        "started_at",
        "finished_at",
        "account_id",
        "api_key_id",
        "plan",
        "endpoint",
        "end",
        "error_code",
        "requested_model",
        "model",
        "provider",
        "profile",
        "streamed",
        "attempts",
        "fallback",
        "budget_fallback",
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "output_tokens",
        "reasoning_tokens",
        "estimated",
        "list_cost_usd",
        "cost_usd",
        "credits_charged",
        "credits_lost",
        "quota_units",
        "latency_ms",
        "first_byte_ms",
    )
    list_display = ("started", "account_link", "served", "tokens", "credits_", "cost_", "end_label", "latency_ms", "flags")
    list_display_links = ("started",)
    list_filter = (
        "started_at",
        "end",
        linked_filter("account", Account, _("account")),
        linked_filter("api_key", ApiKey, _("API key")),
        text_filter("provider", _("provider")),
        text_filter("model", _("model")),
        text_filter("plan", _("plan")),
        "fallback",
        "budget_fallback",
        "estimated",
    )
    list_select_related = ("account",)
    search_help_text = _("Request id; or what finds an account: name, e-mail, its id, a key's id or beginning.")
    fieldsets = (
        (None, {"fields": ("id", "account_link", "api_key_link", "how_it_ended", "repetitions", "explore")}),
        (_("Where it ran"), {"fields": ("route", "requested_model", "endpoint", "plan", "flags", "timing", "why")}),
        (_("From tokens to credits"), {"fields": ("price_version", "token_table", "terms", "steps", "provider_cost")}),
        (_("From credits to lots"), {"fields": ("charge", "lots_debited", "balance_change", "borne_by_us", "books")}),
        (_("Snapshot of prices"), {"classes": ("collapse",), "fields": ("price_block",)}),
    )
    service_fieldsets = (
        (None, {"fields": ("id", "account_link", "api_key_link", "how_it_ended", "explore")}),
        (_("Which service"), {"fields": ("service", "plan", "timing")}),
        (_("From units to credits"), {"fields": ("steps",)}),
        *fieldsets[3:],
    )
    readonly_fields = (
        "account_link",
        "api_key_link",
        "how_it_ended",
        "repetitions",
        "route",
        "flags",
        "timing",
        "why",
        "price_version",
        "token_table",
        "terms",
        "steps",
        "provider_cost",
        "service",
        "charge",
        "lots_debited",
        "balance_change",
        "borne_by_us",
        "books",
        "price_block",
        "explore",
    )

    account_link = link_column("account", "billing.account", _("account"))
    api_key_link = link_column("api_key", "billing.apikey", _("API key"))
    credits_ = decimal_column("credits_charged", _("credits"))
    cost_ = decimal_column("cost_usd", _("cost, USD"))
    started = moment_column("started_at", _("started, UTC"))

    def get_fieldsets(self, request: HttpRequest, obj: UsageRecord | None = None) -> Any:
        return self.service_fieldsets if obj is not None and _is_service(obj) else self.fieldsets

    @admin.display(description=_("model"))
    def served(self, usage: UsageRecord) -> SafeString:
        name = usage.model or usage.requested_model or (usage.endpoint if _is_service(usage) else EMPTY)
        return format_html('{} <span class="quiet">{}</span>', name, usage.provider)

    @admin.display(description=_("tokens in → out"))
    def tokens(self, usage: UsageRecord) -> SafeString:
        both = number_text(usage.input_tokens), number_text(usage.output_tokens)
        figures = format_html('<span class="figure">{} {} {}</span>', both[0], arrow(), both[1])
        others = ", ".join(f"{decimal_text(count)} {unit}" for unit, count in (units(usage) or {}).items())
        if not others:
            return figures
        if not usage.input_tokens and not usage.output_tokens:
            return format_html('<span class="figure">{}</span>', others)
        return format_html('{} <span class="quiet">{}</span>', figures, others)

    @admin.display(description=_("end"), ordering="end")
    def end_label(self, usage: UsageRecord) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', usage.end, SHORT_ENDS[UsageRecord.End(usage.end)])

    @admin.display(description=_("remarks"))
    def flags(self, usage: UsageRecord) -> str:
        marks = (
            (usage.streamed, _("streamed")),
            (usage.fallback, _("fallback")),
            (usage.budget_fallback, _("budget fallback")),
            (usage.estimated, _("tokens estimated")),
            (usage.attempts > 1, _attempts(usage)),
        )
        return ", ".join(str(text) for applies, text in marks if applies) or EMPTY

    @admin.display(description=_("how it ended"))
    def how_it_ended(self, usage: UsageRecord) -> SafeString:
        code = format_html(" <code>{}</code>", usage.error_code) if usage.error_code else ""
        return format_html('<span class="state state-{}">{}</span>{}', usage.end, usage.get_end_display(), code)

    @admin.display(description=_("served by"))
    def route(self, usage: UsageRecord) -> str:
        served = " / ".join(part for part in (usage.provider, usage.model) if part) or str(_("nobody"))
        profile = f" ({usage.profile})" if usage.profile else ""
        return in_order(f"{served}{profile}") + ", " + _attempts(usage)

    @admin.display(description=_("why this one"))
    def why(self, usage: UsageRecord) -> SafeString:
        """Who could have served the call, in order, what each scored, and why others were not asked or did not serve it."""
        choice = usage.choice
        if not choice:
            return SafeString(EMPTY)
        reasons = choice.get("left_out", {}) | choice.get("tried", {})
        terms = ("score", "latency_ms", "capacity", "cost", "priority")
        shown = {str(candidate.get("route")): candidate for candidate in choice.get("candidates", ())}
        rows = [
            (route, *(shown.get(route, {}).get(term, EMPTY) for term in terms), self._verdict(usage, route, reasons))
            for route in shown | dict.fromkeys(reasons)
        ]
        headings = (_("route"), _("score"), _("latency, ms"), _("capacity"), _("USD per 1,000 tokens"), _("priority"), "")
        return table(headings, rows, caption=self._way_of_choosing(choice))

    def _verdict(self, usage: UsageRecord, route: str, reasons: dict[str, Any]) -> str:
        served = str(_("served")) if route == usage.profile else ""
        return ", ".join(part for part in (served, reason_text(str(reasons.get(route, "")))) if part)

    def _way_of_choosing(self, choice: dict[str, Any]) -> str:
        drawn = choice.get("drawn")
        if drawn:
            weights = ", ".join(f"{slug} {weight}" for slug, weight in drawn.get("weights", {}).items())
            told = {"provider": drawn.get("provider"), "position": drawn.get("position"), "weights": weights}
            return str(_("Split by weights (%(weights)s): position %(position)s fell to %(provider)s.") % told)
        ways = {"score": _("By score, best first."), "split": _("By the plan's order."), "model": _("Whoever has the model.")}
        return str(ways.get(str(choice.get("by")), ""))

    @admin.display(description=_("time"))
    def timing(self, usage: UsageRecord) -> str:
        def milliseconds(value: int | None) -> str:
            return EMPTY if value is None else in_order(duration_text(value))

        return str(
            _("began %(began)s UTC, first byte after %(first)s, whole answer after %(whole)s")
            % {
                "began": in_order(f"{usage.started_at:%Y-%m-%d %H:%M:%S.%f}"[:-3]),
                "first": milliseconds(usage.first_byte_ms),
                "whole": milliseconds(usage.latency_ms),
            }
        )

    @admin.display(description=_("tokens and units × list price"))
    def token_table(self, usage: UsageRecord) -> SafeString:
        rows: list[tuple[Any, ...]] = []
        total = Decimal(0)
        for line in unit_prices(usage):
            total += line.cost_usd
            each = f"{decimal_text(line.usd)} / {number_text(line.per)} {line.unit}"
            rows.append((line.unit, decimal_text(line.count), each, usd_quantise(line.cost_usd)))
        for name, count, price in token_lines(usage) if counts_tokens(usage) else ():
            if count:
                cost = None if price is None else count * price / MILLION
                total += cost or 0
                rows.append((name, count, EMPTY if price is None else price, EMPTY if cost is None else cost))
        total = usd_quantise(total)
        rows.append((_("sum"), usage.input_tokens + usage.output_tokens, "", total))
        rows.append((_("list cost as booked"), "", "", usage.list_cost_usd))
        explained = table((_("kind"), _("tokens"), _("USD per million"), _("USD")), rows)
        if total == usage.list_cost_usd:
            return explained
        remark = _("The booked cost has parts that tokens alone do not tell: see the snapshot of prices.")
        return format_html('{}<p class="help">{}</p>', explained, remark)

    @admin.display(description=_("list prices"))
    def price_version(self, usage: UsageRecord) -> SafeString:
        number = usage.price.get("price_id")
        if not number:
            return SafeString(EMPTY)
        address = object_url("model_price", str(number))
        text = _("Price …%(id)s of %(profile)s") % {"id": str(number)[-8:], "profile": usage.profile or usage.model}
        return format_html('<a href="{}">{}</a>', address, text) if address else format_html("{}", text)

    @admin.display(description=_("terms of the plan"))
    def terms(self, usage: UsageRecord) -> SafeString:
        margin, value, whole = _tariff(usage)
        if margin is None or value is None:
            return SafeString(EMPTY)
        rounding = _("whole credits, at least 1") if whole else _("to the millionth")
        rows = [
            (_("margin"), f"× {decimal_text(margin)}"),
            (_("value of a credit"), f"{decimal_text(value)} USD"),
            (_("rounding"), rounding),
        ]
        return table((_("term"), _("then")), rows)

    @admin.display(description=_("charge, step by step"))
    def steps(self, usage: UsageRecord) -> SafeString:
        """The lines that the customer reads, and whether the snapshot gives what was charged."""
        try:
            lines = arithmetic(usage)
        except (ArithmeticError, KeyError, TypeError):
            # A snapshot of another time.
            return SafeString(EMPTY)
        explained = format_html('<ul class="steps">{}</ul>', format_html_join("", "<li>{}</li>", ((line,) for line in lines)))
        return format_html("{}{}", explained, self._unexplained(usage))

    def _unexplained(self, usage: UsageRecord) -> SafeString:
        """A remark where the price snapshot gives another charge than the one booked."""
        margin, value, whole = _tariff(usage)
        nothing_delivered = usage.end in UNCHARGED_ENDS and not usage.credits_charged
        if _is_service(usage) or not margin or not value or nothing_delivered or not usage.price.get("charged"):
            return SafeString("")
        credits = credits_for_cost(usage.list_cost_usd, margin_multiplier=margin, usd_per_credit=value, whole=whole)
        if usage.credits_charged + usage.credits_lost == credits:
            return SafeString("")
        remark = _("The snapshot of prices gives %s credits: it does not explain the charge.") % decimal_text(credits)
        return format_html('<p class="state state-failed">{}</p>', remark)

    @admin.display(description=_("service"))
    def service(self, usage: UsageRecord) -> SafeString:
        code = str(usage.price.get("service") or usage.endpoint.removeprefix(SERVICE_ENDPOINT))
        price = ServicePrice.objects.filter(code=code).first()
        name = change_link("billing.serviceprice", price.pk, code) if price else format_html("{}", code)
        asked = usage.price.get("request_id")
        return format_html("{}{}", name, format_html(", {} <code>{}</code>", _("request id"), asked) if asked else "")

    @admin.display(description=_("what the provider charges us"))
    def provider_cost(self, usage: UsageRecord) -> str:
        factor = _decimal(usage.price, "cost_factor")
        cost = f"{decimal_text(usage.cost_usd)} USD"
        if factor is None:
            return cost
        share = f"{decimal_text(usage.list_cost_usd)} × {decimal_text(factor)}"
        if usd_quantise(usage.list_cost_usd * factor) == usage.cost_usd:
            return in_order(f"{cost} = {share}")
        return str(
            _("%(cost)s; list cost × our factor would be %(share)s") % {"cost": in_order(cost), "share": in_order(share)}
        )

    @admin.display(description=_("charged"))
    def charge(self, usage: UsageRecord) -> str:
        parts = [_("%s credits") % decimal_text(usage.credits_charged)]
        parts.append(_("held before: %s") % decimal_text(usage.credits_held))
        if usage.credits_lost:
            parts.append(_("not covered by the balance, booked as our loss: %s") % decimal_text(usage.credits_lost))
        if usage.quota_units:
            parts.append(_("quota units: %d") % usage.quota_units)
        return "; ".join(str(part) for part in parts)

    def _entries(self, usage: UsageRecord) -> list[LedgerEntry]:
        """Entries of the call and, where the reaper closed it, of the reaper; read once a page."""
        known = vars(usage)
        if "entries_read" not in known:
            transactions = LedgerTransaction.objects.filter(Q(pk=usage.pk) | Q(idempotency_key=f"reap:{usage.pk}"))
            known["entries_read"] = list(
                LedgerEntry.objects.filter(transaction__in=transactions)
                .select_related("ledger_account", "transaction")
                .order_by("id")
            )
        entries: list[LedgerEntry] = known["entries_read"]
        return entries

    @admin.display(description=_("lots debited"))
    def lots_debited(self, usage: UsageRecord) -> SafeString:
        for entry in self._entries(usage):
            if entry.lot_ids:
                return lot_parts(entry.lot_ids, entry.lot_amounts, _("debited"))
        return SafeString(EMPTY)

    @admin.display(description=_("balance before → after"))
    def balance_change(self, usage: UsageRecord) -> SafeString:
        balances = balances_of(usage)
        before, after = decimal_text(balances.before), decimal_text(balances.after)
        return format_html('<span class="figure">{} {} {}</span> {}', before, arrow(), after, _("credits"))

    @admin.display(description=_("borne by us"))
    def borne_by_us(self, usage: UsageRecord) -> SafeString:
        rows = [
            (
                entry.ledger_account.get_kind_display(),
                # In credits a loss lowers the account: what the customer did not pay.
                -entry.amount if entry.unit == "credit" else entry.amount,
                entry.unit,
                reason_text(entry.transaction.reason),
            )
            for entry in self._entries(usage)
            if entry.ledger_account.kind in LOSS_KINDS
        ]
        return table((_("kind"), _("amount"), _("unit"), _("reason")), rows) if rows else format_html("{}", _("nothing"))

    @admin.display(description=_("in the books"))
    def books(self, usage: UsageRecord) -> SafeString:
        rows = [
            (
                change_link("billing.ledgertransaction", entry.transaction_id, entry.transaction.get_kind_display()),
                entry.ledger_account.get_kind_display(),
                entry.amount,
                entry.unit,
            )
            for entry in self._entries(usage)
        ]
        if rows:
            return table((_("transaction"), _("account of the books"), _("amount"), _("unit")), rows)
        if LedgerTransaction.objects.filter(pk=usage.pk).exists():
            return format_html(
                "{}: {}",
                change_link("billing.ledgertransaction", usage.pk, _("Transaction")),
                _("nothing was moved"),
            )
        return SafeString(EMPTY)

    @admin.display(description=_("prices"))
    def price_block(self, usage: UsageRecord) -> SafeString:
        return json_block(usage.price)

    @admin.display(description=_("repetitions"))
    def repetitions(self, usage: UsageRecord) -> SafeString:
        answer = StoredAnswer.objects.defer("content").filter(pk=usage.pk).first()
        if answer is None:
            return format_html("{}", _("No answer is kept: the call had no idempotency key, or its time is over."))
        told = _("until %s UTC the same request is answered again with status %d and charged no more")
        return format_html(
            "{}: {}",
            change_link("billing.storedanswer", answer.pk, Truncator(answer.key).chars(60)),
            told % (moment_text(answer.expires_at), answer.status),
        )

    @admin.display(description=_("see also"))
    def explore(self, usage: UsageRecord) -> SafeString:
        parts = [
            change_link("billing.wallet", usage.account_id, _("Wallet")),
            list_link("billing.usagerecord", _("All calls of the account"), account__id__exact=usage.account_id),
        ]
        if usage.subscription_id:
            parts.append(change_link("billing.subscription", usage.subscription_id, _("Subscription")))
        return links(*parts)


@admin.register(StoredAnswer)
class StoredAnswerAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Which repetitions are answered from store. The answers themselves are never read here."""

    list_display = ("short_key", "account_link", "status", "kept", "expires", "call")
    list_filter = (linked_filter("account", Account, _("account")), "status", "expires_at")
    list_select_related = ("account",)
    search_uuid_fields = ("pk", "api_key_id")
    search_exact_fields = ("key",)
    search_help_text = _("Idempotency key, request id, API key id, account or e-mail.")
    ordering = ("-expires_at",)
    fields = ("key", "account_link", "api_key_link", "status", "kept", "expires", "body_hash", "call")
    readonly_fields = fields

    account_link = link_column("account", "billing.account", _("account"))
    api_key_link = link_column("api_key", "billing.apikey", _("API key"))
    expires = moment_column("expires_at", _("expires, UTC"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[StoredAnswer]:
        kept = ExpressionWrapper(Q(content__isnull=False), output_field=BooleanField())
        answers: QuerySet[StoredAnswer] = super().get_queryset(request)
        return answers.defer("content", "headers").annotate(is_kept=kept)

    @admin.display(description=_("key"), ordering="key")
    def short_key(self, answer: StoredAnswer) -> str:
        return Truncator(answer.key).chars(40)

    @admin.display(description=_("answer"))
    def kept(self, answer: StoredAnswer) -> Any:
        return _("kept, encrypted") if answer.is_kept else _("too large to keep")  # type: ignore[attr-defined]

    @admin.display(description=_("call"))
    def call(self, answer: StoredAnswer) -> SafeString:
        return list_link("billing.usagerecord", f"…{str(answer.pk)[-12:]}", q=answer.pk)


class AskedWorkMixin:
    """A list with a button that asks a worker for a task. Whoever may add a row may press it."""

    asked_task: Task
    asked_event: str
    asked_label: Any
    asked_answer: Any

    def get_urls(self) -> list[Any]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_ask"  # type: ignore[attr-defined]
        view = self.admin_site.admin_view(self.ask_view)  # type: ignore[attr-defined]
        return [path("ask/", view, name=name), *super().get_urls()]  # type: ignore[misc]

    def may_ask(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.add_{self.opts.model_name}")  # type: ignore[attr-defined]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        label = self.asked_label if self.may_ask(request) else None
        return super().changelist_view(request, {**(extra_context or {}), "asked_label": label})  # type: ignore[misc,no-any-return]

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        """Queue the task, tell who asked for it, and go back to the list."""
        if not self.may_ask(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            with transaction.atomic():
                event_record(kind=self.asked_event, object_type="books", object_id="", actor=operator_actor(request))
                self.asked_task.apply_async(retry=False)
        except QueueError:
            text = _("The queue of tasks cannot be reached; nothing was asked. The nightly run is not affected.")
            messages.error(request, text)
        else:
            messages.success(request, self.asked_answer)
        return HttpResponseRedirect(list_url(self.opts.label_lower))  # type: ignore[attr-defined]


@admin.register(DaySeal)
class DaySealAdmin(AskedWorkMixin, ReadOnlyAdmin):
    """Closed days of the books, each chained to the day before."""

    list_display = ("day", "transactions_", "entries_", "short_content", "short_seal", "sealed")
    list_filter = ("day",)
    search_fields = ("seal__startswith", "content_hash__startswith")
    search_help_text = _("Beginning of a seal or of a content hash.")
    fields = ("day", "transactions_", "entries_", "content_hash", "previous", "seal", "outside", "sealed", "explore")
    readonly_fields = fields
    change_list_template = "admin/ask_list.html"
    asked_task = seal_days
    asked_event = "books.sealing_asked"
    asked_label = _("Seal closed days now")
    asked_answer = _("Asked a worker to seal the closed days; new seals appear here. The day that runs stays open.")

    sealed = moment_column("sealed_at", _("sealed, UTC"))

    @admin.display(description=_("transactions"), ordering="transactions")
    def transactions_(self, seal: DaySeal) -> SafeString:
        return format_html('<span class="figure">{}</span>', number_text(seal.transactions))

    @admin.display(description=_("entries"), ordering="entries")
    def entries_(self, seal: DaySeal) -> SafeString:
        return format_html('<span class="figure">{}</span>', number_text(seal.entries))

    @admin.display(description=_("content"))
    def short_content(self, seal: DaySeal) -> SafeString:
        return format_html("<code>{}…</code>", seal.content_hash[:16])

    @admin.display(description=_("seal"))
    def short_seal(self, seal: DaySeal) -> SafeString:
        return format_html("<code>{}…</code>", seal.seal[:16])

    @admin.display(description=_("day before"))
    def previous(self, seal: DaySeal) -> SafeString:
        before = DaySeal.objects.filter(day=seal.day - timedelta(days=1)).first()
        if before is None:
            return format_html("{}", _("none: the first day"))
        return format_html("{} <code>{}</code>", change_link("billing.dayseal", before.pk), before.seal)

    @admin.display(description=_("copy outside the database"))
    def outside(self, seal: DaySeal) -> SafeString:
        kept = kept_seals().get(seal.day.isoformat())
        if kept is None:
            return format_html('<span class="state state-overdue">{}</span>', _("missing"))
        if kept == seal.seal:
            return format_html('<span class="state state-passed">{}</span>', _("the same"))
        return format_html('<span class="state state-failed">{}</span> <code>{}</code>', _("another seal"), kept)

    @admin.display(description=_("see also"))
    def explore(self, seal: DaySeal) -> SafeString:
        begin = datetime.combine(seal.day, time.min, UTC)
        end = begin + timedelta(days=1)
        return links(
            list_link("billing.ledgertransaction", _("The day's transactions"), at__gte=begin, at__lt=end),
            list_link("billing.ledgerentry", _("The day's entries"), transaction__at__gte=begin, transaction__at__lt=end),
        )


@admin.register(UsageArchive)
class UsageArchiveAdmin(ReadOnlyAdmin):
    """Months of the usage log that are kept in files, and what they hold."""

    list_display = ("month_", "state_label", "rows_", "credits_", "cost_", "size", "written", "dropped")
    list_display_links = ("month_",)
    list_filter = ("state",)
    fields = (
        "month_",
        "state_label",
        "file",
        "size",
        "file_sha256",
        "content_sha256",
        "rows_",
        "calls_",
        "credits_",
        "cost_",
        "sealed_day",
        "seal",
        "previous",
        "checkpoint",
        "written",
        "verified",
        "detached",
        "dropped",
        "restored",
    )
    readonly_fields = fields

    credits_ = decimal_column("credits_charged", _("credits"))
    cost_ = decimal_column("cost_usd", _("cost, USD"))
    written = moment_column("written_at", _("file written, UTC"))
    verified = moment_column("verified_at", _("compared, UTC"))
    detached = moment_column("detached_at", _("cut off, UTC"))
    dropped = moment_column("dropped_at", _("dropped, UTC"))
    restored = moment_column("restored_at", _("restored, UTC"))

    @admin.display(description=_("month"), ordering="month")
    def month_(self, archive: UsageArchive) -> str:
        return str(archive)

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, archive: UsageArchive) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', archive.state, archive.get_state_display())

    @admin.display(description=_("rows"), ordering="rows")
    def rows_(self, archive: UsageArchive) -> SafeString:
        return format_html('<span class="figure">{}</span>', number_text(archive.rows))

    @admin.display(description=_("calls booked"), ordering="calls")
    def calls_(self, archive: UsageArchive) -> SafeString:
        return format_html('<span class="figure">{}</span>', number_text(archive.calls))

    @admin.display(description=_("size"), ordering="file_bytes")
    def size(self, archive: UsageArchive) -> str:
        return filesizeformat(archive.file_bytes)


# What the first column of a check's differences names.
CHECKED_OBJECTS: dict[str, str | None] = {
    "every transaction sums to zero in each unit": "billing.ledgertransaction",
    "every wallet balance is the sum of its ledger entries": "billing.wallet",
    "every debt is what the ledger says": "billing.wallet",
    "every wallet is the sum of its lots": "billing.wallet",
    "every lot has left what its ledger entries left in it": "billing.lot",
    "every wallet entry names the lots it moved, in full": "billing.ledgerentry",
    "every balance after an entry is the sum up to it": "billing.ledgerentry",
    "every lot holds what open holds pinned in it": "billing.lot",
    "every hold is pinned in full": "billing.hold",
    "every call in the usage log was charged what the ledger says": "billing.usagerecord",
    "every call in the ledger is in the usage log": "billing.ledgertransaction",
    "every call that left the usage log is in an archive": None,
    "every sealed day has the rows it was sealed with, in an unbroken chain": "billing.dayseal",
    "every archived month has the checkpoint that follows from the one before and its seal": "billing.usagearchive",
}


def checked_link(check: str, what: str) -> SafeString:
    """What a difference is about, linked where the check says which kind of row it names."""
    model = CHECKED_OBJECTS.get(check)
    if model is None or not what:
        return format_html("{}", what)
    # The sum of a transaction is told with its unit.
    key, _blank, rest = what.partition(" ")
    return format_html("{} {}", change_link(model, key), rest)


def _figure(text: str) -> Decimal | str:
    """A sum as a number, so that it reads as elsewhere; other text as it is."""
    return Decimal(text) if re.fullmatch(r"-?\d+\.\d+", text) else text


@admin.register(BooksVerification)
class BooksVerificationAdmin(AskedWorkMixin, ReadOnlyAdmin):
    """Runs that recomputed the books, with what they found."""

    list_display = ("started", "result", "broken", "duration")
    list_filter = ("passed", "started_at")
    fields = ("result", "started", "finished", "duration", "check_tables")
    readonly_fields = fields
    change_list_template = "admin/ask_list.html"
    asked_task = verify_books
    asked_event = "books.verification_asked"
    asked_label = _("Verify now")
    asked_answer = _("Asked a worker to verify the books; the result appears here when it is done.")

    started = moment_column("started_at", _("started, UTC"))
    finished = moment_column("finished_at", _("finished, UTC"))

    @admin.display(description=_("result"), ordering="passed")
    def result(self, run: BooksVerification) -> SafeString:
        state, text = ("passed", _("passed")) if run.passed else ("failed", _("FAILED"))
        return format_html('<span class="state state-{}">{}</span>', state, text)

    @admin.display(description=_("checks broken"))
    def broken(self, run: BooksVerification) -> str:
        return str(_("%d of %d") % (sum(bool(check["differences"]) for check in run.checks), len(run.checks)))

    @admin.display(description=_("took"))
    def duration(self, run: BooksVerification) -> str:
        seconds = (run.finished_at - run.started_at).total_seconds()
        return duration_text(round(seconds * 1000)) if seconds < 120 else str(timedelta(seconds=round(seconds)))

    @admin.display(description=_("checks, with their first differences"))
    def check_tables(self, run: BooksVerification) -> SafeString:
        return format_html_join("", "{}", ((self._check(check),) for check in run.checks)) or SafeString(EMPTY)

    def _check(self, check: dict[str, Any]) -> SafeString:
        name, differences = check["name"], check["differences"]
        said = gettext(name)
        if not differences:
            return format_html('<p class="check"><span class="state state-passed">{}</span> {}</p>', _("holds"), said)
        rows = [(checked_link(name, what), _figure(expected), _figure(found)) for what, expected, found in differences]
        return format_html(
            '<p class="check"><span class="state state-failed">{}</span> {}</p>{}',
            _("broken"),
            said,
            table((_("what"), _("expected"), _("found")), rows),
        )
