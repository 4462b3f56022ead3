"""The comparison with gateways in the console: days with their counts, rows with both sides, and deeds that put them right."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.events.services import Actor
from billing.subscriptions.deeds import Deed, DeedsMixin, state_badge
from iafactory.common.admin import (
    ReadOnlyAdmin,
    ReasonForm,
    decimal_text,
    json_block,
    link_column,
    linked_filter,
    list_link,
    moment_column,
    table,
)

from .deeds import applicable, keepable, reconciliation_again, row_apply, row_explain, row_keep, row_recheck, row_refund
from .models import Reconciliation, ReconciliationRow

Outcome = ReconciliationRow.Outcome
State = ReconciliationRow.State
PERMISSION = "billing.resolve_reconciliationrow"


class ApplyForm(ReasonForm):
    """Whose money it is, where no payment of ours says it."""

    account = forms.CharField(label=_("Account"), max_length=36, required=False)
    field_order = ("account", "reason")

    def fit(self, row: ReconciliationRow) -> None:
        """Ask for the account only where it is needed."""
        if row.payment_id is not None:
            del self.fields["account"]
            return
        self.fields["account"].required = True
        self.fields["account"].help_text = _("Id of the account whose money it is; it is kept there without an invoice.")


def _apply(row: ReconciliationRow, *, actor: Actor, reason: str, account: str = "") -> None:
    row_apply(row=row, actor=actor, reason=reason, account=account)


def _keep(row: ReconciliationRow, *, actor: Actor, reason: str) -> None:
    row_keep(row=row, actor=actor, reason=reason)


def _refund(row: ReconciliationRow, *, actor: Actor, reason: str) -> None:
    row_refund(row=row, actor=actor, reason=reason)


def _explain(row: ReconciliationRow, *, actor: Actor, reason: str) -> None:
    row_explain(row=row, actor=actor, reason=reason)


def _recheck(row: ReconciliationRow, *, actor: Actor, reason: str) -> None:
    row_recheck(row=row, actor=actor, reason=reason)


def _again(run: Reconciliation, *, actor: Actor, reason: str) -> None:
    reconciliation_again(reconciliation=run, actor=actor, reason=reason)


@admin.register(Reconciliation)
class ReconciliationAdmin(DeedsMixin, ReadOnlyAdmin):
    """A gateway's days, compared with our books."""

    deeds = {
        "again": Deed(
            _("Compare again"),
            _("The gateway is asked for the day once more. What was put right or explained stays so until its figures change."),
            _("To be compared."),
            _again,
            PERMISSION,
            lambda row: row.state in (Reconciliation.State.COMPLETE, Reconciliation.State.WAITING),
        ),
    }
    list_display = ("day", "gateway", "mode", "state_label", "open_rows", "expected", "different", "listed", "note")
    list_filter = ("state", "gateway", "mode", "listed", "day")
    fieldsets = (
        (None, {"fields": ("gateway", "mode", "day", "state_label", "deed_buttons", "note", "listed")}),
        (_("What was found"), {"fields": ("counts",)}),
        (_("Work"), {"fields": ("attempts", "started_at", "finished_at", "next_attempt_at", "created_at")}),
    )
    readonly_fields = ("state_label", "deed_buttons", "counts")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Reconciliation]:
        queryset: QuerySet[Reconciliation] = super().get_queryset(request)
        return queryset.annotate(
            number_open=Count("rows", filter=Q(rows__state=State.OPEN)),
            number_expected=Count("rows", filter=Q(rows__outcome=Outcome.EXPECTED)),
            number_different=Count("rows", filter=~Q(rows__outcome=Outcome.EXPECTED)),
        )

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, run: Reconciliation) -> SafeString:
        return state_badge(run)

    @admin.display(description=_("open"), ordering="number_open")
    def open_rows(self, run: Any) -> SafeString:
        lookups = {"reconciliation__id__exact": run.pk, "state__exact": State.OPEN.value}
        return list_link("billing.reconciliationrow", run.number_open, **lookups)

    @admin.display(description=_("expected"), ordering="number_expected")
    def expected(self, run: Any) -> int:
        return int(run.number_expected)

    @admin.display(description=_("different"), ordering="number_different")
    def different(self, run: Any) -> int:
        return int(run.number_different)

    @admin.display(description=_("rows"))
    def counts(self, run: Reconciliation) -> SafeString:
        """Rows by outcome, each a link to them, and how many of them wait for an operator."""
        found = run.rows.values_list("outcome").annotate(number=Count("pk"), waiting=Count("pk", filter=Q(state=State.OPEN)))
        numbers = {outcome: (number, waiting) for outcome, number, waiting in found.order_by("outcome")}
        rows = []
        for outcome in Outcome:
            number, waiting = numbers.get(outcome, (0, 0))
            lookups = {"reconciliation__id__exact": run.pk, "outcome__exact": outcome.value}
            rows.append((list_link("billing.reconciliationrow", outcome.label, **lookups), number, waiting))
        return table((_("outcome"), _("rows"), _("open")), rows)


@admin.register(ReconciliationRow)
class ReconciliationRowAdmin(DeedsMixin, ReadOnlyAdmin):
    """Payments and refunds in our books and at their gateway."""

    deeds = {
        "apply": Deed(
            _("Book what the gateway says"),
            _(
                "The gateway is asked once more, and what it says is booked: a missing payment succeeds and brings what it is "
                "for; money that never came is taken back like a lost dispute; a refund is made or undone."
            ),
            _("Booked."),
            _apply,
            PERMISSION,
            applicable,
            form=ApplyForm,
            dangerous=True,
            asks_others=True,
        ),
        "keep": Deed(
            _("Keep what is too much"),
            _("It is booked as money without an invoice: it can pay one, or become money in hand, on the payment's page."),
            _("Kept."),
            _keep,
            PERMISSION,
            keepable,
            asks_others=True,
        ),
        "refund": Deed(
            _("Send back what is too much"),
            _("It is booked as money without an invoice and refunded. Above the limit another operator approves it first."),
            _("The refund was asked for."),
            _refund,
            "billing.add_refund",
            keepable,
            dangerous=True,
            asks_others=True,
        ),
        "explain": Deed(
            _("Explain"),
            _("Nothing is booked; the reason stands with the row. It opens again when its figures change."),
            _("Explained."),
            _explain,
            PERMISSION,
            lambda row: row.state == State.OPEN,
        ),
        "recheck": Deed(
            _("Look again"),
            _("The gateway is asked once more, and both sides are compared."),
            _("Compared."),
            _recheck,
            PERMISSION,
            lambda row: row.state == State.OPEN,
            asks_others=True,
        ),
    }
    list_display = (
        "moment",
        "gateway",
        "subject",
        "outcome_label",
        "state_label",
        "our_money",
        "their_money",
        "payment_link",
        "note",
    )
    list_filter = (
        "state",
        "outcome",
        "subject",
        "gateway",
        "mode",
        linked_filter("reconciliation", Reconciliation, _("day")),
        "reconciliation__day",
        "checked_at",
    )
    list_select_related = ("payment", "refund", "reconciliation")
    search_fields = ("key__exact", "payment__reference__exact", "refund__reference__exact")
    search_uuid_fields = ("pk", "payment_id", "refund_id", "payment__account_id")
    search_help_text = _("The gateway's id, our reference, id of payment, refund or account.")
    fieldsets = (
        (None, {"fields": ("gateway", "mode", "subject", "key", "outcome_label", "state_label", "deed_buttons", "note")}),
        (_("Ours and theirs"), {"fields": ("sides", "payment_link", "refund_link", "day_link")}),
        (_("What our books say"), {"fields": ("ours_block",)}),
        (_("What the gateway says"), {"fields": ("theirs_block",)}),
        (_("History"), {"fields": ("checked_at", "closed_at", "closed_by", "reason", "explore")}),
    )
    readonly_fields = (
        "outcome_label",
        "state_label",
        "deed_buttons",
        "sides",
        "payment_link",
        "refund_link",
        "day_link",
        "ours_block",
        "theirs_block",
        "explore",
    )

    moment = moment_column("checked_at", _("looked at, UTC"))
    payment_link = link_column("payment", "billing.payment", _("payment"))
    refund_link = link_column("refund", "billing.refund", _("refund"))
    day_link = link_column("reconciliation", "billing.reconciliation", _("day"))

    @admin.display(description=_("outcome"), ordering="outcome")
    def outcome_label(self, row: ReconciliationRow) -> Any:
        return row.get_outcome_display()

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, row: ReconciliationRow) -> SafeString:
        return state_badge(row)

    @admin.display(description=_("ours"), ordering="our_amount")
    def our_money(self, row: ReconciliationRow) -> str:
        return f"{decimal_text(row.our_amount)} {row.our_currency}"

    @admin.display(description=_("theirs"), ordering="their_amount")
    def their_money(self, row: ReconciliationRow) -> str:
        return f"{decimal_text(row.their_amount)} {row.their_currency}"

    @admin.display(description=_("both sides"))
    def sides(self, row: ReconciliationRow) -> SafeString:
        rows = (
            (_("money"), self.our_money(row), self.their_money(row)),
            (_("state"), row.ours.get("state", ""), row.theirs.get("state", "")),
            (_("asked for"), row.ours.get("asked", ""), row.theirs.get("asked", "")),
            (_("reference"), row.ours.get("reference", ""), row.theirs.get("reference", "")),
        )
        return table((_("what"), _("our books"), _("gateway")), rows)

    @admin.display(description=_("our books"))
    def ours_block(self, row: ReconciliationRow) -> SafeString:
        return json_block(row.ours)

    @admin.display(description=_("gateway"))
    def theirs_block(self, row: ReconciliationRow) -> SafeString:
        return json_block(row.theirs)

    @admin.display(description=_("see also"))
    def explore(self, row: ReconciliationRow) -> SafeString:
        links = (
            list_link("billing.event", _("Events"), object_type__exact="reconciliation_row", object_id__exact=row.pk),
            list_link("billing.gatewaywebhook", _("Webhooks"), q=row.key),
        )
        return format_html_join(" · ", "{}", ((link,) for link in links))

    def deed_form(self, request: HttpRequest, row: ReconciliationRow, deed: Deed) -> ReasonForm:
        form = super().deed_form(request, row, deed)
        if isinstance(form, ApplyForm):
            form.fit(row)
        return form

    def deed_items(self, row: ReconciliationRow, name: str) -> list[Any]:
        return [
            f"{row.get_gateway_display()} · {row.get_subject_display()} {row.key} · {row.get_outcome_display()}",
            _("Our books: %(ours)s · gateway: %(theirs)s") % {"ours": self.our_money(row), "theirs": self.their_money(row)},
            *([row.note] if row.note else []),
        ]
