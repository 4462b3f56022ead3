"""Where money lives: wallets, lots, holds, the double-entry books and the usage log.

Rows of this module are written only by the SQL functions in `billing/ledger/sql/`, reached through `services` (sync) and
`writer` (group commit), so that both doors obey one lock order and one arithmetic.
"""

from decimal import Decimal
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, ApiKey
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7

CREDIT_DIGITS: dict[str, Any] = {"max_digits": 20, "decimal_places": 6}
USD_DIGITS: dict[str, Any] = {"max_digits": 20, "decimal_places": 9}


class Wallet(models.Model):
    """An account's credits, summed up: a cache of its lots that `verify_books` recomputes. Its lock is the money's."""

    account = models.OneToOneField(Account, on_delete=models.PROTECT, primary_key=True, related_name="wallet")
    balance = models.DecimalField(**CREDIT_DIGITS, default=Decimal(0), help_text=_("Credits, held ones included."))
    held = models.DecimalField(**CREDIT_DIGITS, default=Decimal(0), help_text=_("Credits pinned by open holds."))
    debt = models.DecimalField(**CREDIT_DIGITS, default=Decimal(0), help_text=_("Owed after a lost dispute."))
    next_change_at = models.DateTimeField(
        null=True, blank=True, db_index=True, help_text=_("When the next lot becomes effective or expires.")
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(balance__gte=0), name="wallet_balance_not_negative"),
            models.CheckConstraint(condition=Q(held__gte=0, held__lte=F("balance")), name="wallet_held_within_balance"),
            models.CheckConstraint(condition=Q(debt__gte=0), name="wallet_debt_not_negative"),
        ]

    def __str__(self) -> str:
        return gettext("%(credits)s credits") % {"credits": f"{self.balance.normalize():f}"}

    @property
    def available(self) -> Decimal:
        """Credits that a new hold may pin."""
        return self.balance - self.held


class Lot(models.Model):
    """Credits that arrived together, with their price, life and place in the burn order.

    Burn order: `priority`, expiry, granted before purchased, creation.
    """

    class Kind(models.TextChoices):
        PLAN = "plan", _("Plan")
        PURCHASE = "purchase", _("Purchase")
        BONUS = "bonus", _("Bonus")
        OVERAGE = "overage", _("Overage")
        REFUND = "refund", _("Refund")

    # Lower burns first: what expires anyway before what was bought, overage last.
    DEFAULT_PRIORITY: dict[str, int] = {
        Kind.PLAN: 10,
        Kind.BONUS: 20,
        Kind.REFUND: 30,
        Kind.PURCHASE: 40,
        Kind.OVERAGE: 90,
    }

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, db_column="account_id", related_name="lots")
    kind = models.CharField(max_length=16, choices=Kind)
    amount = models.DecimalField(**CREDIT_DIGITS)
    remaining = models.DecimalField(**CREDIT_DIGITS, help_text=_("Not yet consumed, held part included."))
    held = models.DecimalField(**CREDIT_DIGITS, default=Decimal(0), help_text=_("Pinned by open holds."))
    paid_amount = models.DecimalField(max_digits=18, decimal_places=4, default=Decimal(0))
    paid_currency = models.CharField(max_length=3, blank=True)
    payment_id = models.UUIDField(null=True, blank=True)
    effective_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    priority = models.SmallIntegerField()
    source = models.CharField(max_length=200, help_text=_("Where the credits came from."))
    created_at = models.DateTimeField()
    grant_key = models.CharField(max_length=200, unique=True, help_text=_("Idempotency key of the grant."))
    booked_at = models.DateTimeField(null=True, blank=True, help_text=_("When it entered the balance."))
    closed_at = models.DateTimeField(null=True, blank=True, help_text=_("When it expired or was voided."))

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["wallet", "priority", "expires_at"], condition=Q(closed_at__isnull=True), name="lot_burn_order"
            )
        ]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="lot_amount_positive"),
            models.CheckConstraint(
                condition=Q(held__gte=0, remaining__gte=F("held"), remaining__lte=F("amount")),
                name="lot_held_in_remaining",
            ),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("effective_at")), name="lot_life_order"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount.normalize():f}"


class Hold(models.Model):
    """A call in flight: its worst case, pinned to lots. The row goes when the call ends; the usage row tells how."""

    id = models.UUIDField(primary_key=True, help_text=_("The request id."))
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="holds")
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, null=True, blank=True, related_name="+"
    )
    subscription_id = models.UUIDField(null=True, blank=True)
    credits = models.DecimalField(**CREDIT_DIGITS, help_text=_("Worst-case price."))
    lot_ids = ArrayField(models.UUIDField(), default=list)
    lot_amounts = ArrayField(models.DecimalField(**CREDIT_DIGITS), default=list)
    worst_cost_usd = models.DecimalField(**USD_DIGITS, help_text=_("Worst-case provider cost."))
    endpoint = models.CharField(max_length=64)
    provider = models.CharField(max_length=64, blank=True)
    model = models.CharField(max_length=200, blank=True)
    quota = models.JSONField(default=dict, blank=True, help_text=_("Speed-limit windows this call counts in."))
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    body_hash = models.CharField(max_length=64, null=True, blank=True)
    opened_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-opened_at"]
        indexes = [models.Index(fields=["account"], name="hold_account")]
        constraints = [
            models.CheckConstraint(condition=Q(credits__gte=0), name="hold_credits_not_negative"),
            models.UniqueConstraint(
                fields=["account", "api_key", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                nulls_distinct=False,
                name="hold_idempotency_key_unique",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class StoredAnswer(models.Model):
    """The answer of a charged call with an idempotency key, encrypted, so that a repetition is answered and not charged.

    Written in the transaction that charges. `content` is empty when the answer was too large to keep.
    """

    id = models.UUIDField(primary_key=True, help_text=_("The request id of the call that was charged."))
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, null=True, blank=True, related_name="+"
    )
    key = models.CharField(max_length=255)
    body_hash = models.CharField(max_length=64, help_text=_("SHA-256 of address and body, hexadecimal."))
    status = models.PositiveSmallIntegerField()
    headers = models.JSONField(default=dict, blank=True)
    content = EncryptedTextField(null=True, blank=True)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "api_key", "key"], nulls_distinct=False, name="storedanswer_key_unique")
        ]

    def __str__(self) -> str:
        return self.key


class LedgerAccount(models.Model):
    """An account of the books. A customer's wallet account has the customer's account id."""

    class Kind(models.TextChoices):
        WALLET = "wallet", _("Wallet")
        DEBT = "debt", _("Debt")
        ISSUED = "issued", _("Issued credits")
        CONSUMED = "consumed", _("Consumed credits")
        EXPIRED = "expired", _("Expired credits")
        REFUNDED = "refunded", _("Refunded credits")
        OPERATOR_LOSS = "operator_loss", _("Operator loss")
        UNKNOWN_COST = "unknown_cost", _("Unknown cost")
        PROVIDER_COST = "provider_cost", _("Provider cost of unpaid calls")
        CASH = "cash", _("Cash")
        RECEIVABLE = "receivable", _("Receivable")
        REVENUE = "revenue", _("Revenue")
        TAX = "tax", _("Tax")
        REFUNDS = "refunds", _("Refunds")
        UNAPPLIED = "unapplied", _("Unapplied money")
        MONEY_BALANCE = "money_balance", _("Money customers have in hand")
        WRITTEN_OFF = "written_off", _("Invoices given up")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=Kind)
    unit = models.CharField(max_length=8, help_text=_("`credit` or an ISO 4217 code."))
    account = models.ForeignKey(Account, on_delete=models.PROTECT, null=True, blank=True, related_name="ledger_accounts")

    class Meta:
        ordering = ["kind", "unit"]
        constraints = [
            models.UniqueConstraint(fields=["kind", "unit", "account"], nulls_distinct=False, name="ledgeraccount_unique"),
            models.CheckConstraint(
                condition=Q(kind__in=("wallet", "debt"), account__isnull=False)
                | (~Q(kind__in=("wallet", "debt")) & Q(account__isnull=True)),
                name="ledgeraccount_owner",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} ({self.unit})"


class LedgerTransaction(models.Model):
    """One business fact in the books. Its entries sum to zero per unit. Append-only.

    A call's transaction has the request id as its id, so a call can be booked once only, free ones included.
    """

    class Kind(models.TextChoices):
        CALL = "call", _("Call")
        REAPED = "reaped", _("Call whose process died")
        GRANT = "grant", _("Grant")
        CONSUME = "consume", _("Consumption")
        EXPIRY = "expiry", _("Expiry")
        VOID = "void", _("Void")
        REFUND = "refund", _("Refund")
        DISPUTE = "dispute", _("Dispute")
        CORRECTION = "correction", _("Correction")
        INVOICE = "invoice", _("Invoice issued")
        INVOICE_VOID = "invoice_void", _("Invoice voided")
        WRITE_OFF = "write_off", _("Invoice given up, or paid after all")
        CREDIT_NOTE = "credit_note", _("Credit note issued")
        PAYMENT = "payment", _("Money received")
        MONEY_REFUND = "money_refund", _("Money sent back")
        MONEY_DISPUTE = "money_dispute", _("Money taken back by a bank")
        MONEY_MOVE = "money_move", _("Money put to use")

    id = models.UUIDField(primary_key=True, editable=False)
    kind = models.CharField(max_length=16, choices=Kind)
    idempotency_key = models.CharField(max_length=200, null=True)
    at = models.DateTimeField(db_index=True)
    # Looked at by the guard that sums entries up, a statement at a time; so is what an entry belongs to.
    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, db_constraint=False, null=True, db_index=False, related_name="ledger_transactions"
    )
    reason = models.CharField(max_length=500, blank=True)
    actor = models.CharField(max_length=254, blank=True, help_text=_("Who caused it; empty: a call."))

    class Meta:
        ordering = ["-at"]
        # Each index is written with every call: none that another one covers, and no entry for the calls without a key.
        indexes = [models.Index(fields=["account", "-at"], name="ledgertx_account_at")]
        constraints = [
            models.UniqueConstraint(
                fields=["idempotency_key"], condition=Q(idempotency_key__isnull=False), name="ledgertx_idempotency_key"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class LedgerEntry(models.Model):
    """One side of a transaction. Append-only."""

    id = models.BigAutoField(primary_key=True)
    transaction = models.ForeignKey(LedgerTransaction, on_delete=models.PROTECT, db_constraint=False, related_name="entries")
    ledger_account = models.ForeignKey(
        LedgerAccount, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="entries"
    )
    unit = models.CharField(max_length=8)
    amount = models.DecimalField(max_digits=24, decimal_places=9, help_text=_("Signed: what the account gains."))
    balance_after = models.DecimalField(
        **CREDIT_DIGITS, null=True, help_text=_("The wallet's balance after this entry; other accounts carry none.")
    )
    lot_ids = ArrayField(models.UUIDField(), null=True, help_text=_("The lots a wallet entry moved."))
    lot_amounts = ArrayField(models.DecimalField(**CREDIT_DIGITS), null=True)

    class Meta:
        verbose_name_plural = _("ledger entries")
        ordering = ["-id"]
        indexes = [models.Index(fields=["ledger_account", "-id"], name="ledgerentry_account")]

    def __str__(self) -> str:
        return f"{self.amount.normalize():f} {self.unit}"


class DaySeal(models.Model):
    """A closed day of the books: its rows' hash, chained to the day before. Append-only."""

    day = models.DateField(primary_key=True)
    transactions = models.PositiveIntegerField()
    entries = models.PositiveIntegerField()
    content_hash = models.CharField(max_length=64, help_text=_("SHA-256 over the day's transactions and entries."))
    seal = models.CharField(max_length=64, help_text=_("SHA-256 over the seal of the day before and the content hash."))
    sealed_at = models.DateTimeField()

    class Meta:
        ordering = ["-day"]

    def __str__(self) -> str:
        return f"{self.day} {self.seal[:12]}"


class BooksVerification(models.Model):
    """One run of `verify_books`."""

    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    passed = models.BooleanField()
    checks = models.JSONField(default=list, help_text=_("Each check with its first differences."))

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M} {gettext('passed') if self.passed else gettext('FAILED')}"


class UsageRecord(models.Model):
    """How one call ended and what it cost. The table is partitioned by month of `started_at`.

    Slugs and prices are snapshots: the record explains itself when plans, models and prices have changed.
    """

    class End(models.TextChoices):
        COMPLETE = "complete", _("Complete")
        CLIENT_GONE = "client_gone", _("Client hung up")
        UPSTREAM_DROPPED = "upstream_dropped", _("Provider dropped the stream")
        PROVIDER_ERROR = "provider_error", _("Provider error, nothing delivered")
        REFUSED = "refused", _("Refused by us before the provider was called")
        PROCESS_DIED = "process_died", _("The serving process died")
        CUT_OFF = "cut_off", _("Cut off: key revoked or account blocked")

    id = models.UUIDField(primary_key=True, help_text=_("The request id."))
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, related_name="usage")
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.DO_NOTHING, db_constraint=False, null=True, blank=True, related_name="usage"
    )
    subscription_id = models.UUIDField(null=True, blank=True)
    plan = models.CharField(max_length=64, blank=True, help_text=_("Plan code at that time."))
    endpoint = models.CharField(max_length=64)
    end = models.CharField(max_length=16, choices=End)
    error_code = models.CharField(max_length=64, blank=True)
    requested_model = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200, blank=True)
    provider = models.CharField(max_length=64, blank=True)
    profile = models.CharField(max_length=200, blank=True, help_text=_("Model profile that served the call."))
    streamed = models.BooleanField(default=False)
    attempts = models.PositiveSmallIntegerField(default=0)
    fallback = models.BooleanField(default=False, help_text=_("Not the first choice served it."))
    budget_fallback = models.BooleanField(default=False, help_text=_("A spent budget left only free profiles."))
    input_tokens = models.PositiveIntegerField(default=0, help_text=_("All input tokens, cached ones included."))
    cache_read_tokens = models.PositiveIntegerField(default=0)
    cache_write_tokens = models.PositiveIntegerField(default=0)
    output_tokens = models.PositiveIntegerField(default=0, help_text=_("All output tokens, reasoning included."))
    reasoning_tokens = models.PositiveIntegerField(default=0)
    estimated = models.BooleanField(default=False, help_text=_("Tokens were estimated: the provider did not report them."))
    list_cost_usd = models.DecimalField(**USD_DIGITS, default=Decimal(0), help_text=_("At list price."))
    cost_usd = models.DecimalField(**USD_DIGITS, default=Decimal(0), help_text=_("What the provider charges us."))
    credits_held = models.DecimalField(**CREDIT_DIGITS, default=Decimal(0))
    credits_charged = models.DecimalField(**CREDIT_DIGITS, default=Decimal(0))
    credits_lost = models.DecimalField(
        **CREDIT_DIGITS, default=Decimal(0), help_text=_("Price beyond the hold that the balance could not cover.")
    )
    quota_units = models.PositiveSmallIntegerField(default=0, help_text=_("Requests counted against the plan's quota."))
    price = models.JSONField(default=dict, blank=True, help_text=_("Prices, margin and credit value that were used."))
    units = models.JSONField(null=True, blank=True, help_text=_("What was billed beside tokens: images, characters, seconds…"))
    choice = models.JSONField(null=True, blank=True, help_text=_("Who could have served the call, and why this one did."))
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    first_byte_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["-started_at"]
        indexes = [
            models.Index(fields=["account", "-started_at"], name="usage_account_started"),
            models.Index(fields=["-started_at"], name="usage_started"),
            models.Index(fields=["model", "-started_at"], name="usage_model_started"),
            models.Index(fields=["provider", "-started_at"], name="usage_provider_started"),
            models.Index(fields=["api_key", "-started_at"], name="usage_key_started"),
            models.Index(fields=["plan", "-started_at"], name="usage_plan_started"),
            # What is rare has an index of its few rows.
            models.Index(fields=["end", "-started_at"], condition=~Q(end="complete"), name="usage_end_started"),
            models.Index(fields=["-started_at"], condition=Q(fallback=True), name="usage_fallback"),
            models.Index(fields=["-started_at"], condition=Q(budget_fallback=True), name="usage_budget_fallback"),
            models.Index(fields=["-started_at"], condition=Q(estimated=True), name="usage_estimated"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class UsageSumsBase(models.Model):
    """What is summed up of the calls of one UTC day."""

    day = models.DateField(help_text=_("UTC."))
    calls = models.PositiveIntegerField()
    calls_complete = models.PositiveIntegerField()
    calls_failed = models.PositiveIntegerField(help_text=_("Provider error, or the serving process died."))
    calls_fallback = models.PositiveIntegerField()
    input_tokens = models.PositiveBigIntegerField()
    cache_read_tokens = models.PositiveBigIntegerField()
    output_tokens = models.PositiveBigIntegerField()
    list_cost_usd = models.DecimalField(**USD_DIGITS)
    cost_usd = models.DecimalField(**USD_DIGITS)
    credits_charged = models.DecimalField(**CREDIT_DIGITS)
    quota_units = models.PositiveIntegerField()
    latency_ms = models.PositiveBigIntegerField(help_text=_("Sum over the calls that have one."))
    latency_calls = models.PositiveIntegerField()

    class Meta:
        abstract = True
        ordering = ["-day"]


class UsagePlacesBase(UsageSumsBase):
    """The same, apart by where the calls went."""

    plan = models.CharField(max_length=64, blank=True)
    endpoint = models.CharField(max_length=64)
    provider = models.CharField(max_length=64, blank=True)
    model = models.CharField(max_length=200, blank=True)

    class Meta(UsageSumsBase.Meta):
        abstract = True


class UsageDay(UsagePlacesBase):
    """Sums over the calls of one UTC day that have everything below in common: what reports read instead of the usage log.

    Written anew for days whose calls may still change, see `rollups`.
    """

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, related_name="usage_days")
    api_key_id = models.UUIDField(null=True, blank=True)
    subscription_id = models.UUIDField(null=True, blank=True)

    class Meta(UsageSumsBase.Meta):
        indexes = [
            models.Index(fields=["day"], name="usageday_day"),
            models.Index(fields=["account", "day"], name="usageday_account_day"),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.account_id} {self.provider} {self.model}"


class UsageDayOfAll(UsagePlacesBase):
    """`UsageDay` summed over all accounts: a hundredth of its rows, for reports on the whole company."""

    id = models.BigAutoField(primary_key=True)

    class Meta(UsageSumsBase.Meta):
        verbose_name_plural = _("usage days of all")
        indexes = [models.Index(fields=["day"], name="usagedayofall_day")]

    def __str__(self) -> str:
        return f"{self.day} {self.provider} {self.model}"


class UsageDayOfAccount(UsageSumsBase):
    """`UsageDay` summed over all that an account did: for who used most, and how many used anything."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+")

    class Meta(UsageSumsBase.Meta):
        verbose_name_plural = _("usage days of accounts")
        indexes = [
            models.Index(fields=["day"], name="usagedayofaccount_day"),
            models.Index(fields=["account", "day"], name="usagedayofaccount_account"),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.account_id}"


class UsageDayState(models.Model):
    """Which UTC days of the usage log are summed up, up to when, and when that was last done."""

    day = models.DateField(primary_key=True)
    summed_until = models.DateTimeField(null=True, help_text=_("Of the running day: what began before. Empty: all of the day."))
    calls = models.PositiveBigIntegerField(help_text=_("Calls of the day that were summed up."))
    summed_at = models.DateTimeField()

    class Meta:
        ordering = ["-day"]

    def __str__(self) -> str:
        return str(self.day)


class UsageArchive(models.Model):
    """A month of the usage log that is kept in a file: what was in it, so that the books verify without its rows.

    Its checkpoint is a SHA-256 over these figures, the checkpoint before and the seal of the month's last day.
    """

    class State(models.TextChoices):
        WRITTEN = "written", _("File written")
        VERIFIED = "verified", _("File read back and compared")
        DETACHED = "detached", _("Cut off from the log")
        DROPPED = "dropped", _("Only in the file")
        RESTORED = "restored", _("Back in the log")

    MOVES: dict[str, frozenset[str]] = {
        State.WRITTEN: frozenset({State.VERIFIED}),
        State.VERIFIED: frozenset({State.DETACHED}),
        # A call settled after a restored month was compared: back it goes.
        State.DETACHED: frozenset({State.DROPPED, State.RESTORED}),
        State.DROPPED: frozenset({State.RESTORED}),
        # Once more out of the log, into the same file.
        State.RESTORED: frozenset({State.DETACHED}),
    }
    # Its calls are counted here, not in the log.
    AWAY = (State.DETACHED, State.DROPPED)

    month = models.DateField(primary_key=True, help_text=_("Its first day, UTC."))
    state = models.CharField(max_length=16, choices=State, default=State.WRITTEN)
    file = models.CharField(max_length=64, help_text=_("Name in the archive folder."))
    file_bytes = models.PositiveBigIntegerField()
    file_sha256 = models.CharField(max_length=64)
    content_sha256 = models.CharField(max_length=64, help_text=_("Of the file before compression."))
    rows = models.PositiveBigIntegerField()
    calls = models.PositiveBigIntegerField(help_text=_("Rows that the ledger books as calls: all but those of dead processes."))
    credits_charged = models.DecimalField(max_digits=26, decimal_places=6)
    list_cost_usd = models.DecimalField(max_digits=26, decimal_places=9)
    cost_usd = models.DecimalField(max_digits=26, decimal_places=9)
    digest = models.DecimalField(
        max_digits=40, decimal_places=0, help_text=_("Sum over the calls of a hash of id, account and credits.")
    )
    last_booked_at = models.DateTimeField(null=True, help_text=_("When the ledger booked the last of the calls."))
    sealed_day = models.DateField(help_text=_("The month's last day."))
    seal = models.CharField(max_length=64, help_text=_("The seal of that day."))
    previous = models.CharField(max_length=64, help_text=_("The checkpoint of the month archived before."))
    checkpoint = models.CharField(max_length=64)
    written_at = models.DateTimeField()
    verified_at = models.DateTimeField(null=True)
    detached_at = models.DateTimeField(null=True)
    dropped_at = models.DateTimeField(null=True)
    restored_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-month"]
        constraints = [
            models.CheckConstraint(condition=Q(month__day=1), name="usagearchive_month_begins"),
            models.CheckConstraint(condition=Q(calls__lte=F("rows")), name="usagearchive_calls_are_rows"),
        ]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"
