"""The books, the wallets and the usage log in the console: read-only, each number linked to what made it."""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin, accounts_matching
from billing.accounts.models import Account, ApiKey
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReadOnlyInline,
    change_link,
    decimal_column,
    decimal_text,
    json_block,
    link_column,
    linked_filter,
    list_link,
    moment_column,
    moment_text,
    object_url,
    presence_filter,
    table,
    text_filter,
    uuid_or_none,
)
from iafactory.common.money import credits_for_cost, usd_quantise

from .models import Hold, LedgerAccount, LedgerEntry, LedgerTransaction, Lot, UsageRecord, Wallet

MILLION = Decimal(1_000_000)


def links(*parts: SafeString) -> SafeString:
    """Links in a row."""
    return format_html_join(" · ", "{}", ((part,) for part in parts))


def lot_parts(lot_ids: list[Any] | None, amounts: list[Decimal] | None, verb: Any) -> SafeString:
    """Which lots gave how much, with their kind and what is left of them."""
    if not lot_ids:
        return SafeString(EMPTY)
    lots = {lot.pk: lot for lot in Lot.objects.filter(pk__in=lot_ids)}
    rows = []
    for lot_id, amount in zip(lot_ids, amounts or [], strict=False):
        lot = lots.get(lot_id)
        rows.append(
            (
                change_link("billing.lot", lot_id, f"…{str(lot_id)[-12:]}"),
                lot.get_kind_display() if lot else EMPTY,
                lot.source if lot else EMPTY,
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

    @admin.display(description=_("available"))
    def available_(self, wallet: Wallet) -> SafeString:
        return format_html('<span class="figure">{}</span>', decimal_text(wallet.available))

    @admin.display(description=_("open lots, in burn order"))
    def open_lots(self, wallet: Wallet) -> SafeString:
        lots = wallet.lots.filter(closed_at__isnull=True).order_by("priority", "expires_at", "created_at")[:50]
        rows = [
            (
                change_link("billing.lot", lot.pk, lot.get_kind_display()),
                lot.source,
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


@admin.register(Lot)
class LotAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Credits that arrived together."""

    list_display = ("created", "account_link", "kind", "amount_", "remaining_", "held_", "expires", "closed", "source")
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
        (None, {"fields": ("account_link", "kind", "source", "explore")}),
        (_("Credits"), {"fields": ("amount_", "remaining_", "held_", "priority")}),
        (_("Paid"), {"fields": ("paid", "payment_id", "grant_key")}),
        (_("Life, UTC"), {"fields": ("created_at", "effective_at", "booked_at", "expires_at", "closed_at")}),
        (_("What moved it"), {"fields": ("movements",)}),
    )
    readonly_fields = ("account_link", "amount_", "remaining_", "held_", "paid", "movements", "explore")

    created = moment_column("created_at", _("created, UTC"))
    expires = moment_column("expires_at", _("expires, UTC"))
    closed = moment_column("closed_at", _("closed, UTC"))
    amount_ = decimal_column("amount", _("amount"))
    remaining_ = decimal_column("remaining", _("remaining"))
    held_ = decimal_column("held", _("held"))

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
                    entry.transaction.reason[:80],
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

    list_display = ("opened", "account_link", "model", "provider", "credits_", "cost_", "expires", "overdue", "endpoint")
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
        (_("Life, UTC"), {"fields": ("opened_at", "expires_at", "overdue")}),
        (_("Speed limits and repetition"), {"fields": ("quota_block", "idempotency_key", "body_hash")}),
    )
    readonly_fields = (
        "account_link",
        "api_key_link",
        "credits_",
        "cost_",
        "pinned",
        "overdue",
        "quota_block",
        "explore",
    )

    account_link = link_column("account", "billing.account", _("account"))
    api_key_link = link_column("api_key", "billing.apikey", _("API key"))
    opened = moment_column("opened_at", _("opened, UTC"))
    expires = moment_column("expires_at", _("expires, UTC"))
    credits_ = decimal_column("credits", _("credits held"))
    cost_ = decimal_column("worst_cost_usd", _("worst provider cost"), "USD")

    @admin.display(description=_("overdue"), boolean=True)
    def overdue(self, hold: Hold) -> bool:
        return hold.expires_at <= clock.now()

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
class LedgerTransactionAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Business facts in the books. A call's transaction has its request id."""

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
        # A grant books its key with a prefix, and so does the reaper the request id.
        keys = [term, f"grant:{term}", f"reap:{term}", f"lot-effective:{term}"]
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
class LedgerEntryAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Sides of transactions."""

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


@admin.register(UsageRecord)
class UsageRecordAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """How each call ended, and how its price came about."""

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
        (None, {"fields": ("id", "account_link", "api_key_link", "how_it_ended", "explore")}),
        (_("Where it ran"), {"fields": ("route", "requested_model", "endpoint", "plan", "flags", "timing")}),
        (_("From tokens to credits"), {"fields": ("token_table", "price_steps", "provider_cost")}),
        (_("From credits to lots"), {"fields": ("charge", "lots_debited", "books")}),
        (_("Snapshot of prices"), {"classes": ("collapse",), "fields": ("price_block",)}),
    )
    readonly_fields = (
        "account_link",
        "api_key_link",
        "how_it_ended",
        "route",
        "flags",
        "timing",
        "token_table",
        "price_steps",
        "provider_cost",
        "charge",
        "lots_debited",
        "books",
        "price_block",
        "explore",
    )

    account_link = link_column("account", "billing.account", _("account"))
    api_key_link = link_column("api_key", "billing.apikey", _("API key"))
    credits_ = decimal_column("credits_charged", _("credits"))
    cost_ = decimal_column("cost_usd", _("cost, USD"))
    started = moment_column("started_at", _("started, UTC"))

    @admin.display(description=_("model"))
    def served(self, usage: UsageRecord) -> SafeString:
        name = usage.model or usage.requested_model or EMPTY
        return format_html('{} <span class="quiet">{}</span>', name, usage.provider)

    @admin.display(description=_("tokens in → out"))
    def tokens(self, usage: UsageRecord) -> SafeString:
        return format_html('<span class="figure">{} → {}</span>', f"{usage.input_tokens:,}", f"{usage.output_tokens:,}")

    @admin.display(description=_("end"), ordering="end")
    def end_label(self, usage: UsageRecord) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', usage.end, usage.end.replace("_", " "))

    @admin.display(description=_("remarks"))
    def flags(self, usage: UsageRecord) -> str:
        marks = (
            (usage.streamed, _("streamed")),
            (usage.fallback, _("fallback")),
            (usage.budget_fallback, _("budget fallback")),
            (usage.estimated, _("tokens estimated")),
            (usage.attempts > 1, _("%d attempts") % usage.attempts),
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
        return f"{served}{profile}, " + str(_("%d attempts") % usage.attempts)

    @admin.display(description=_("time"))
    def timing(self, usage: UsageRecord) -> str:
        def milliseconds(value: int | None) -> str:
            return EMPTY if value is None else f"{value:,} ms"

        return str(
            _("began %(began)s UTC, first byte after %(first)s, whole answer after %(whole)s")
            % {
                "began": f"{usage.started_at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
                "first": milliseconds(usage.first_byte_ms),
                "whole": milliseconds(usage.latency_ms),
            }
        )

    @admin.display(description=_("tokens × list price"))
    def token_table(self, usage: UsageRecord) -> SafeString:
        rows: list[tuple[Any, ...]] = []
        total = Decimal(0)
        for name, count, price in token_lines(usage):
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

    @admin.display(description=_("list cost × margin ÷ value of a credit"))
    def price_steps(self, usage: UsageRecord) -> str:
        margin = _decimal(usage.price, "margin_multiplier", "margin")
        value = _decimal(usage.price, "usd_per_credit")
        if usage.price.get("charged") is False:
            return str(_("Counted against the plan's quota: no credits."))
        if not margin or not value:
            return EMPTY
        whole = usage.price.get("rounding") == "whole" or usage.price.get("whole") is True
        credits = credits_for_cost(usage.list_cost_usd, margin_multiplier=margin, usd_per_credit=value, whole=whole)
        rounding = _("whole credits, at least 1") if whole else _("to the millionth")
        steps = f"{decimal_text(usage.list_cost_usd)} × {decimal_text(margin)} ÷ {decimal_text(value)}"
        return f"{steps} = {decimal_text(credits)} ({rounding})"

    @admin.display(description=_("what the provider charges us"))
    def provider_cost(self, usage: UsageRecord) -> str:
        factor = _decimal(usage.price, "cost_factor")
        cost = f"{decimal_text(usage.cost_usd)} USD"
        if factor is None:
            return cost
        share = f"{decimal_text(usage.list_cost_usd)} × {decimal_text(factor)}"
        if usd_quantise(usage.list_cost_usd * factor) == usage.cost_usd:
            return f"{cost} = {share}"
        return str(_("%(cost)s; list cost × our factor would be %(share)s") % {"cost": cost, "share": share})

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
        """Entries of the call and, where the reaper closed it, of the reaper."""
        transactions = LedgerTransaction.objects.filter(Q(pk=usage.pk) | Q(idempotency_key=f"reap:{usage.pk}"))
        return list(
            LedgerEntry.objects.filter(transaction__in=transactions)
            .select_related("ledger_account", "transaction")
            .order_by("id")
        )

    @admin.display(description=_("lots debited"))
    def lots_debited(self, usage: UsageRecord) -> SafeString:
        for entry in self._entries(usage):
            if entry.lot_ids:
                parts = lot_parts(entry.lot_ids, entry.lot_amounts, _("debited"))
                balance = _("Balance after: %s credits") % decimal_text(entry.balance_after)
                return format_html("{}<p>{}</p>", parts, balance)
        return SafeString(EMPTY)

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
        address = object_url("model_price", str(usage.price.get("price_id") or ""))
        row = format_html('<p><a href="{}">{}</a></p>', address, _("The price row")) if address else ""
        return format_html("{}{}", row, json_block(usage.price))

    @admin.display(description=_("see also"))
    def explore(self, usage: UsageRecord) -> SafeString:
        parts = [
            change_link("billing.wallet", usage.account_id, _("Wallet")),
            list_link("billing.usagerecord", _("All calls of the account"), account__id__exact=usage.account_id),
        ]
        if usage.subscription_id:
            parts.append(change_link("billing.subscription", usage.subscription_id, _("Subscription")))
        return links(*parts)
