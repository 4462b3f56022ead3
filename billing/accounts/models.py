"""Who pays (accounts), who logs in (users), and what programs call with (API keys)."""

from datetime import datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, available_timezones

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy as _

from iafactory.common import clock
from iafactory.common.ids import uuid7


def email_normalise(email: str) -> str:
    """The one spelling under which an address is stored and looked up."""
    return email.strip().lower()


def validate_time_zone(value: str) -> None:
    if value not in available_timezones():
        raise ValidationError(_("%(value)s is not an IANA time zone."), params={"value": value})


class UserManager(BaseUserManager["User"]):
    """Django's manager contract for a user whose name is an e-mail address."""

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=email_normalise(username or ""))

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        user = self.model(email=email_normalise(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        fields = {"is_staff": True, "is_superuser": True, "email_verified_at": clock.now()} | fields
        return self.create_user(email, password, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A person who logs in, by e-mail address. Money belongs to accounts, never to users."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(_("e-mail"), max_length=254, unique=True, help_text=_("Login name, in lower case."))
    name = models.CharField(max_length=150, blank=True)
    language = models.CharField(max_length=8, default="en", help_text=_("Language of e-mails: en, fr or ar."))
    is_active = models.BooleanField(default=True, help_text=_("Switched off, the user cannot log in."))
    is_staff = models.BooleanField(_("operator"), default=False, help_text=_("May open the operator's console."))
    email_verified_at = models.DateTimeField(null=True, blank=True)
    date_joined = models.DateTimeField(default=clock.now, editable=False)
    registered_from = models.GenericIPAddressField(null=True, blank=True, editable=False)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    class Meta:
        ordering = ["-date_joined"]
        permissions = [("mail_reset_user", "Can mail customers a link that resets their password")]
        constraints = [
            models.CheckConstraint(condition=Q(email=Lower("email")), name="user_email_lower_case"),
        ]

    def __str__(self) -> str:
        return self.email


class Account(models.Model):
    """Who pays: a person's own account or an organisation's. Balance, plan, keys and invoices hang on it."""

    class Kind(models.TextChoices):
        PERSONAL = "personal", _("Personal")
        ORGANISATION = "organisation", _("Organisation")

    class Status(models.TextChoices):
        ACTIVE = "active", _("Active")
        BLOCKED = "blocked", _("Blocked")
        CLOSED = "closed", _("Closed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.PERSONAL)
    name = models.CharField(max_length=150)
    personal_of = models.OneToOneField(
        User,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="personal_account",
        help_text=_("The user whose personal account this is; `user_id` in service calls means it."),
    )
    billing_email = models.EmailField(blank=True)
    external_id = models.CharField(
        max_length=128, null=True, blank=True, unique=True, help_text=_("The id under which another service knows it.")
    )
    country = models.CharField(max_length=2, default="DZ", help_text=_("ISO 3166 code."))
    currency = models.CharField(max_length=3, default="DZD", help_text=_("ISO 4217 code of invoices."))
    language = models.CharField(max_length=8, default="en")
    time_zone = models.CharField(
        max_length=64,
        default="Africa/Algiers",
        validators=[validate_time_zone],
        help_text=_("IANA zone in which its days and months begin; a change applies after the running window."),
    )
    next_time_zone = models.CharField(
        max_length=64,
        blank=True,
        db_default="",
        editable=False,
        help_text=_("The zone that counts from `next_time_zone_at` on."),
    )
    next_time_zone_at = models.DateTimeField(null=True, blank=True, editable=False)
    status = models.CharField(max_length=16, choices=Status, default=Status.ACTIVE)
    status_reason = models.CharField(max_length=200, blank=True)
    blocked_until = models.DateTimeField(
        null=True, blank=True, help_text=_("A block that ends by itself; empty: until an operator ends it.")
    )
    overflow_allowed = models.BooleanField(
        default=True, help_text=_("Beyond the plan's quota, bought credits pay at pay-as-you-go prices.")
    )
    created_at = models.DateTimeField(default=clock.now, editable=False)
    members = models.ManyToManyField(User, through="Membership", related_name="accounts")

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="personal", personal_of__isnull=False) | Q(kind="organisation", personal_of__isnull=True),
                name="account_personal_has_user",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def blocked_at(self, at: datetime) -> bool:
        """Whether the account may not call at `at`: blocked or closed, and no end of it has passed."""
        return self.status != self.Status.ACTIVE and (self.blocked_until is None or self.blocked_until > at)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


class Membership(models.Model):
    """A user's right to act for an account."""

    class Role(models.TextChoices):
        OWNER = "owner", _("Owner")
        MEMBER = "member", _("Member")

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["created_at"]
        constraints = [models.UniqueConstraint(fields=["account", "user"], name="membership_unique")]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_role_display()})"


class Invitation(models.Model):
    """An address that may become a member of an account, until it does, or the invitation ends."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField(max_length=254, help_text=_("In lower case."))
    role = models.CharField(max_length=16, choices=Membership.Role, default=Membership.Role.MEMBER)
    invited_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(default=clock.now, editable=False)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "email"],
                condition=Q(accepted_at__isnull=True, revoked_at__isnull=True),
                name="invitation_open_unique",
            ),
            models.CheckConstraint(condition=Q(email=Lower("email")), name="invitation_email_lower_case"),
        ]

    def __str__(self) -> str:
        return f"{self.email} → {self.account}"

    def open_at(self, at: datetime) -> bool:
        """Whether it may be accepted at `at`."""
        return self.accepted_at is None and self.revoked_at is None and self.expires_at > at


class AccountLimits(models.Model):
    """What an operator set for one account in place of its plan's limits. Empty: the plan's."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, primary_key=True, related_name="limits")
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    requests_per_hour = models.PositiveIntegerField(null=True, blank=True)
    requests_per_day = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True)
    daily_limit = models.DecimalField(
        max_digits=20, decimal_places=6, null=True, blank=True, help_text=_("Requests or credits a day, as the plan counts.")
    )
    until = models.DateTimeField(null=True, blank=True, help_text=_("When these limits end; empty: until changed."))
    reason = models.CharField(max_length=200)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("account limits")
        verbose_name_plural = _("account limits")

    def __str__(self) -> str:
        return str(self.account)


class ApiKey(models.Model):
    """What a program calls with. The secret is shown once; only its SHA-256 is kept."""

    class Scope(models.TextChoices):
        INFERENCE = "inference", _("Call models")
        BILLING_READ = "billing:read", _("Read balance and usage")
        CREDITS_READ = "credits:read", _("Service: check credits")
        CREDITS_WRITE = "credits:write", _("Service: consume and hold credits")
        CREDITS_ADMIN = "credits:admin", _("Service: grant due credits")
        ADMIN = "admin", _("Operator: what its owner may do in the console")

    # What a customer may give to a key of their own; the others are given by operators.
    CUSTOMER_SCOPES: ClassVar[tuple[str, ...]] = (Scope.INFERENCE, Scope.BILLING_READ)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="api_keys")
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, db_index=True, help_text=_("First characters of the secret."))
    last_four = models.CharField(max_length=4, help_text=_("Last characters of the secret."))
    key_hash = models.CharField(max_length=64, unique=True, help_text=_("SHA-256 of the secret, hexadecimal."))
    scopes = ArrayField(models.CharField(max_length=32, choices=Scope), default=list)
    created_at = models.DateTimeField(default=clock.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_from = models.GenericIPAddressField(null=True, blank=True)
    # Limits of this key alone, below the plan's. Empty: the plan's.
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True)
    daily_credits = models.DecimalField(
        max_digits=20, decimal_places=6, null=True, blank=True, help_text=_("Credits this key may spend a day.")
    )
    monthly_credits = models.DecimalField(
        max_digits=20, decimal_places=6, null=True, blank=True, help_text=_("Credits this key may spend a calendar month.")
    )
    # Where and for what the key works. Empty: everywhere, for everything.
    allowed_networks = ArrayField(
        models.CharField(max_length=43), default=list, blank=True, help_text=_("Addresses or CIDR networks.")
    )
    allowed_models = ArrayField(models.CharField(max_length=200), default=list, blank=True)
    allowed_endpoints = ArrayField(
        models.CharField(max_length=64), default=list, blank=True, help_text=_("Paths such as /v1/chat/completions.")
    )
    allowed_origins = ArrayField(
        models.CharField(max_length=200), default=list, blank=True, help_text=_("Origins of browsers that may use it.")
    )
    replaced_by = models.OneToOneField(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="replaces",
        help_text=_("The key that rotation made; this one works until it expires."),
    )

    class Meta:
        verbose_name = _("API key")
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["account", "-created_at"], name="apikey_account_created")]

    def __str__(self) -> str:
        return f"{self.prefix}…{self.last_four}"

    def usable_at(self, at: datetime) -> bool:
        """Whether the key opens anything at `at`."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > at)
