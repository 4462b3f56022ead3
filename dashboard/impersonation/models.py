"""Operators who look at the panel as a customer, each for a while and for a reason."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account, User
from iafactory.common.ids import uuid7


class Impersonation(models.Model):
    """One time that an operator was logged in as a customer. Its id is drawn with the form that began it."""

    class Ending(models.TextChoices):
        OPERATOR = "operator", _("The operator ended it")
        EXPIRED = "expired", _("Its time was over")
        REPLACED = "replaced", _("The operator began another")
        SIGNED_OUT = "signed_out", _("The operator signed out")
        WITHDRAWN = "withdrawn", _("The operator or the customer might not any more")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    operator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", verbose_name=_("operator"))
    user = models.ForeignKey(
        User,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("customer"),
        help_text=_("Whom they saw."),
    )
    account = models.ForeignKey(
        Account,
        on_delete=models.PROTECT,
        related_name="impersonations",
        verbose_name=_("account"),
        help_text=_("The one account they saw."),
    )
    reason = models.CharField(_("reason"), max_length=200)
    began_at = models.DateTimeField(_("began"))
    expires_at = models.DateTimeField(_("ends at the latest"))
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    ending = models.CharField(_("how it ended"), max_length=16, choices=Ending, blank=True)

    class Meta:
        verbose_name = _("login as a customer")
        verbose_name_plural = _("logins as customers")
        ordering = ["-began_at"]
        permissions = [("begin_impersonation", "Can log in as a customer")]
        indexes = [models.Index(fields=["account", "-began_at"], name="impersonation_account")]
        constraints = [
            models.UniqueConstraint(fields=["operator"], condition=Q(ended_at__isnull=True), name="impersonation_one_open"),
            models.CheckConstraint(condition=Q(expires_at__gt=F("began_at")), name="impersonation_life_order"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, ending="") | (Q(ended_at__isnull=False) & ~Q(ending="")),
                name="impersonation_end_told",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.operator} → {self.user}"
