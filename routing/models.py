"""Providers, the models they serve, what those cost, and how each plan chooses among them."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.events.reasons import reason_text
from billing.plans.models import Plan
from iafactory.common import clock
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7

from .price_import.models import PriceProposal as PriceProposal
from .price_import.models import PriceProposalLine as PriceProposalLine

PRICE_DIGITS: dict[str, Any] = {"max_digits": 20, "decimal_places": 9}


class Provider(models.Model):
    """A company, or a server, that answers model calls."""

    slug = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=100)
    protocol = models.CharField(max_length=32, help_text=_("Wire protocol of its adapter: openai, anthropic, gemini…"))
    base_url = models.URLField(max_length=300)
    quirks = ArrayField(
        models.CharField(max_length=64), default=list, blank=True, help_text=_("Named differences from the protocol.")
    )
    enabled = models.BooleanField(default=True, help_text=_("Switched off, its models disappear from the lists."))
    draining = models.BooleanField(
        default=False, help_text=_("Takes no new calls; those under way end by themselves and health checks go on.")
    )
    priority = models.PositiveSmallIntegerField(default=100, help_text=_("Order among equals; lower first."))
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True, help_text=_("The provider's cap for us."))
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True, help_text=_("Calls under way at once, at most."))
    connect_timeout_seconds = models.PositiveSmallIntegerField(default=5)
    first_byte_timeout_seconds = models.PositiveSmallIntegerField(default=120)
    read_timeout_seconds = models.PositiveSmallIntegerField(default=120, help_text=_("Longest silence inside an answer."))
    created_at = models.DateTimeField(default=clock.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["priority", "slug"]

    def __str__(self) -> str:
        return self.name


class ProviderCredential(models.Model):
    """A key of ours at a provider, encrypted; it is never shown again."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="credentials")
    label = models.CharField(max_length=100)
    secret = EncryptedTextField(help_text=_("Stored encrypted, never shown after saving."))
    last_four = models.CharField(max_length=4, blank=True, editable=False)
    enabled = models.BooleanField(default=True)
    priority = models.PositiveSmallIntegerField(default=100, help_text=_("Order of use; lower first."))
    disabled_reason = models.CharField(max_length=200, blank=True)
    disabled_at = models.DateTimeField(null=True, blank=True, editable=False)
    tested_at = models.DateTimeField(null=True, blank=True, editable=False)
    test_result = models.CharField(max_length=200, blank=True, editable=False, help_text=_("Empty: the last test passed."))
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["provider", "priority", "created_at"]
        constraints = [models.UniqueConstraint(fields=["provider", "label"], name="credential_label_unique")]

    def __str__(self) -> str:
        return f"{self.provider} {self.label} …{self.last_four}"


class AiModel(models.Model):
    """A model under its public name, whoever serves it."""

    class Mode(models.TextChoices):
        CHAT = "chat", _("Chat")
        EMBEDDING = "embedding", _("Embeddings")
        IMAGE = "image", _("Images")
        SPEECH = "tts", _("Speech")
        TRANSCRIPTION = "stt", _("Transcription")
        MUSIC = "music", _("Music")

    name = models.CharField(max_length=200, unique=True, help_text=_("What clients ask for."))
    mode = models.CharField(max_length=16, choices=Mode, default=Mode.CHAT)
    aliases = ArrayField(models.CharField(max_length=200), default=list, blank=True)
    owner = models.CharField(max_length=64, blank=True, help_text=_("Who made it; `owned_by` in model lists."))
    reasoning = models.BooleanField(
        default=False,
        help_text=_("Spends output tokens on thinking: its token limit is never lowered to fit a balance."),
    )
    margin_multiplier = models.DecimalField(
        max_digits=8,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.0001"))],
        help_text=_("Instead of the plan's own. Empty: the plan's."),
    )
    public = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        verbose_name = _("model")
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(margin_multiplier__isnull=True) | Q(margin_multiplier__gt=0), name="model_margin_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ModelProfile(models.Model):
    """One upstream model at one provider, with its limits and the share of the list price that we pay."""

    slug = models.CharField(max_length=200, unique=True, help_text=_("provider/model, with `:free` for a free tier."))
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="profiles")
    model = models.ForeignKey(AiModel, on_delete=models.PROTECT, related_name="profiles")
    upstream_model = models.CharField(max_length=200, help_text=_("The provider's own name of the model."))
    enabled = models.BooleanField(default=True)
    draining = models.BooleanField(default=False, help_text=_("Takes no new calls; those under way end by themselves."))
    reserved_for = models.ManyToManyField(
        Account, blank=True, related_name="+", help_text=_("Only these accounts can call it. Empty: everybody.")
    )
    weight = models.PositiveSmallIntegerField(default=100, help_text=_("Share among profiles of equal standing."))
    cost_factor = models.DecimalField(
        max_digits=8,
        decimal_places=6,
        default=Decimal(1),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(10))],
        help_text=_("What we pay = list price x this; 0 is a provider's free tier."),
    )
    context_window = models.PositiveIntegerField(null=True, blank=True, help_text=_("Tokens, input and output."))
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    default_max_output = models.PositiveIntegerField(
        default=4096, help_text=_("Output tokens held when the client sets no limit.")
    )
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True, help_text=_("The provider's cap for us."))
    requests_per_day = models.PositiveIntegerField(null=True, blank=True, help_text=_("The provider's cap for us."))
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True, help_text=_("Calls under way at once, at most."))
    typical_latency_ms = models.PositiveIntegerField(default=1000, help_text=_("Until measurements replace it."))
    retires_on = models.DateField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(condition=Q(cost_factor__gte=0), name="profile_cost_factor_not_negative"),
        ]

    def __str__(self) -> str:
        return self.slug


class ProfileHealth(ModelProfile):
    """A profile as the console's page of routes' health shows it; no table of its own."""

    class Meta:
        proxy = True
        verbose_name = _("route's health")
        verbose_name_plural = _("routes' health")
        default_permissions = ("view",)
        permissions = [("operate_profilehealth", "Can check, open, close and drain routes")]


class ModelPrice(models.Model):
    """A profile's list price in USD from an instant on. Never changed or deleted: a new price is a new row.

    An empty field means not offered or unknown, never zero: a call that would need it is refused.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    profile = models.ForeignKey(ModelProfile, on_delete=models.PROTECT, related_name="prices")
    effective_from = models.DateTimeField()
    input_per_mtok = models.DecimalField(**PRICE_DIGITS, null=True, blank=True)
    cached_input_per_mtok = models.DecimalField(**PRICE_DIGITS, null=True, blank=True)
    cache_write_per_mtok = models.DecimalField(**PRICE_DIGITS, null=True, blank=True)
    cache_write_1h_per_mtok = models.DecimalField(**PRICE_DIGITS, null=True, blank=True)
    output_per_mtok = models.DecimalField(**PRICE_DIGITS, null=True, blank=True)
    reasoning_output_per_mtok = models.DecimalField(**PRICE_DIGITS, null=True, blank=True)
    units = models.JSONField(
        default=dict, blank=True, help_text=_("Other units: per_image, per_1k_chars, per_audio_hour, per_clip… in USD.")
    )
    tiers = models.JSONField(
        default=list,
        blank=True,
        help_text=_("Prices that replace the base ones above `threshold` input tokens, for the whole call."),
    )
    source = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["profile", "-effective_from"]
        constraints = [models.UniqueConstraint(fields=["profile", "effective_from"], name="modelprice_unique")]

    def __str__(self) -> str:
        return gettext("%(profile)s from %(day)s") % {"profile": self.profile, "day": f"{self.effective_from:%Y-%m-%d}"}


class PlanRouting(models.Model):
    """How a plan's calls find a provider, and what they may cost the operator."""

    class Strategy(models.TextChoices):
        SPLIT = "split", _("Split by weights")
        SCORE = "score", _("Best score")

    plan = models.OneToOneField(Plan, on_delete=models.CASCADE, related_name="routing", primary_key=True)
    strategy = models.CharField(max_length=8, choices=Strategy)
    split = models.JSONField(
        default=dict, blank=True, help_text=_("Provider slug to weight, for the split strategy: {'groq': 85, …}.")
    )
    score_weights = models.JSONField(
        default=dict,
        blank=True,
        help_text=_(
            "For the score strategy: w1 / ms to the first byte + w2 x free capacity (0 to 1) - w3 x USD per 1,000 tokens "
            "+ w4 x priority / 100."
        ),
    )
    fallback = ArrayField(
        models.CharField(max_length=64), default=list, blank=True, help_text=_("Providers tried in this order next.")
    )
    default_models = models.JSONField(
        default=dict, blank=True, help_text=_("Provider slug to the model that `auto` means there.")
    )
    models_allowed = ArrayField(
        models.CharField(max_length=200), default=list, blank=True, help_text=_("Public names; `*` is every model.")
    )
    free_only = models.BooleanField(default=False, help_text=_("Only profiles that cost the operator nothing."))
    context_cap = models.PositiveIntegerField(null=True, blank=True, help_text=_("Largest input, in tokens."))
    cost_allowance_usd = models.DecimalField(
        max_digits=20,
        decimal_places=9,
        null=True,
        blank=True,
        help_text=_("Provider cost one subscription may cause per period; empty: what its credits cover."),
    )
    margin_multiplier = models.DecimalField(max_digits=8, decimal_places=4, default=Decimal("1.8"))
    usd_per_credit = models.DecimalField(max_digits=12, decimal_places=9, default=Decimal("0.01"))
    provider_pin_allowed = models.BooleanField(
        default=False, help_text=_("Whether a call may name the provider that has to serve it.")
    )
    most_attempts = models.PositiveSmallIntegerField(
        default=4, validators=[MinValueValidator(1)], help_text=_("Providers asked for one call, at most.")
    )
    deadline_seconds = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text=_("Longest time for one call. Empty: the installation's.")
    )
    expected_messages = models.PositiveIntegerField(
        null=True, blank=True, help_text=_("Messages a month of one user: an assumption of the plan's economics.")
    )
    expected_cost_usd = models.JSONField(
        default=dict, blank=True, help_text=_("Provider slug to the cost of a message in USD: an assumption of the economics.")
    )

    class Meta:
        verbose_name = _("plan routing")
        constraints = [
            models.CheckConstraint(condition=Q(margin_multiplier__gt=0), name="planrouting_margin_positive"),
            models.CheckConstraint(condition=Q(usd_per_credit__gt=0), name="planrouting_credit_value_positive"),
            models.CheckConstraint(condition=Q(most_attempts__gte=1), name="planrouting_attempts_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.plan} ({self.get_strategy_display()})"


class Budget(models.Model):
    """The operator's ceiling on provider cost per UTC day and UTC month: over all providers, or for one."""

    provider = models.OneToOneField(
        Provider, on_delete=models.CASCADE, null=True, blank=True, related_name="budget", help_text=_("Empty: all.")
    )
    daily_limit_usd = models.DecimalField(
        **PRICE_DIGITS, null=True, blank=True, validators=[MinValueValidator(Decimal(0))], help_text=_("Empty: no limit.")
    )
    monthly_limit_usd = models.DecimalField(
        **PRICE_DIGITS, null=True, blank=True, validators=[MinValueValidator(Decimal(0))], help_text=_("Empty: no limit.")
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["provider"], nulls_distinct=False, name="budget_unique"),
            models.CheckConstraint(condition=Q(daily_limit_usd__gte=0), name="budget_not_negative"),
            models.CheckConstraint(condition=Q(monthly_limit_usd__gte=0), name="budget_month_not_negative"),
        ]

    def __str__(self) -> str:
        limits = (
            (self.daily_limit_usd, gettext("%(amount)s USD a day")),
            (self.monthly_limit_usd, gettext("%(amount)s USD a month")),
        )
        said = ", ".join(words % {"amount": f"{limit.normalize():f}"} for limit, words in limits if limit is not None)
        return f"{self.provider or gettext('All providers')}: {said or gettext('no limit')}"


class GatewayLimits(models.Model):
    """Limits over all callers together: what this installation can serve. At most one row."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True)
    queue_seconds = models.PositiveSmallIntegerField(
        default=5, help_text=_("How long a call waits for a provider's capacity before it is refused; 0: not at all.")
    )

    class Meta:
        verbose_name = _("gateway limits")
        verbose_name_plural = _("gateway limits")
        constraints = [models.CheckConstraint(condition=Q(id=1), name="gatewaylimits_one_row")]

    def __str__(self) -> str:
        return gettext("gateway limits").capitalize()


class HealthCheck(models.Model):
    """How one check of a profile went: what the console shows of its health over time."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    profile = models.ForeignKey(ModelProfile, on_delete=models.CASCADE, related_name="checks")
    checked_at = models.DateTimeField(default=clock.now)
    ok = models.BooleanField()
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    failure = models.CharField(max_length=32, blank=True, help_text=_("Failure class, empty when it answered."))
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-checked_at"]
        indexes = [models.Index(fields=["profile", "-checked_at"], name="healthcheck_profile_at")]

    def __str__(self) -> str:
        return f"{self.profile} {gettext('answered') if self.ok else reason_text(self.failure)}"


def model_price_at(profile: ModelProfile, at: datetime) -> ModelPrice | None:
    """The list price of `profile` in force at `at`."""
    return profile.prices.filter(effective_from__lte=at).order_by("-effective_from").first()
