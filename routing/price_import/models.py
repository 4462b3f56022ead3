"""What a price file would change, kept until an operator applies or closes it."""

from decimal import Decimal

from django.db import models
from django.utils.translation import gettext_lazy as _

from iafactory.common import clock
from iafactory.common.ids import uuid7


class PriceProposal(models.Model):
    """The differences between one price file and the list prices of the day it was read."""

    class State(models.TextChoices):
        OPEN = "open", _("To be reviewed")
        APPLIED = "applied", _("Applied")
        CLOSED = "closed", _("Closed, nothing applied")

    MOVES: dict[str, tuple[str, ...]] = {State.OPEN: (State.APPLIED, State.CLOSED), State.APPLIED: (), State.CLOSED: ()}

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    source = models.CharField(max_length=200, help_text=_("The file the prices came from."))
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    unchanged = models.PositiveIntegerField(default=0, help_text=_("Profiles whose price is the file's."))
    unknown = models.JSONField(default=list, blank=True, help_text=_("Entries of the file that no profile stands for."))
    created_at = models.DateTimeField(default=clock.now, editable=False)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.source}, {self.created_at:%Y-%m-%d %H:%M}"


class PriceProposalLine(models.Model):
    """What the file says of one profile."""

    class Kind(models.TextChoices):
        NEW = "new", _("New: no price so far")
        CHANGED = "changed", _("Changed")
        MISSING = "missing", _("Not in the file")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    proposal = models.ForeignKey(PriceProposal, on_delete=models.CASCADE, related_name="lines")
    profile = models.ForeignKey("routing.ModelProfile", on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=8, choices=Kind)
    present = models.ForeignKey(
        "routing.ModelPrice", on_delete=models.PROTECT, null=True, related_name="+", help_text=_("The price in force then.")
    )
    prices = models.JSONField(default=dict, help_text=_("The whole price proposed, as decimal strings."))
    differences = models.JSONField(default=list, help_text=_("Field by field: before, after and percent."))
    warnings = models.JSONField(default=list, help_text=_("Why an operator should look twice."))
    source = models.CharField(max_length=200, blank=True)
    applied = models.OneToOneField(
        "routing.ModelPrice", on_delete=models.PROTECT, null=True, blank=True, related_name="proposed_by"
    )

    class Meta:
        ordering = ["proposal", "profile__slug"]
        constraints = [models.UniqueConstraint(fields=["proposal", "profile"], name="proposalline_unique")]

    def __str__(self) -> str:
        return f"{self.profile} ({self.get_kind_display()})"

    @property
    def applicable(self) -> bool:
        """Whether it says a price that could be applied."""
        return self.kind != self.Kind.MISSING and self.applied_id is None


# Money inside JSON is a decimal string.
def price_text(value: Decimal) -> str:
    """A price as proposals and price rows keep it in JSON: plain digits, no trailing zeros."""
    return f"{value.normalize():f}"
