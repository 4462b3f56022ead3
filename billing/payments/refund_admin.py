"""Refunds and disputes in the console: ask, approve, confirm and reject; note what a bank decides."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.models import Account
from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.subscriptions.deeds import Deed, DeedsMixin, state_badge
from iafactory.common.admin import (
    ReadOnlyAdmin,
    ReasonForm,
    decimal_column,
    decimal_text,
    json_block,
    link_column,
    linked_filter,
    list_link,
    moment_column,
)
from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO, plain
from iafactory.common.texts import Text

from .disputes import dispute_lost, dispute_open, dispute_won
from .models import Dispute, Payment, Refund
from .refunds import (
    confirmable,
    refund_approve,
    refund_confirm,
    refund_reject,
    refund_request,
    refund_shares,
    refundables,
    rejectable,
    waits_for_approval,
)

UNAPPLIED = "unapplied"


class RefundForm(ReasonForm):
    """How much of what goes back."""

    part = forms.ChoiceField(label=_("Of"))
    amount = forms.DecimalField(
        label=_("Amount"),
        min_value=Decimal("0.0001"),
        max_digits=18,
        decimal_places=4,
        help_text=_("At most what stands above."),
    )
    by_hand = forms.BooleanField(
        label=_("By hand"), required=False, help_text=_("You send the money by other means, and confirm it afterwards.")
    )
    field_order = ("part", "amount", "by_hand", "reason")

    def fit(self, payment: Payment) -> None:
        """Offer what can go back of the payment."""
        parts = [part for part in refundables(payment) if part.amount > 0]
        choice = self.fields["part"]
        assert isinstance(choice, forms.ChoiceField)
        choice.choices = [
            (
                str(part.invoice.pk) if part.invoice else UNAPPLIED,
                f"{part.invoice.number if part.invoice else _('Money without an invoice')}: "
                f"{plain(part.amount)} {payment.currency}",
            )
            for part in parts
        ]
        self.fields["reason"].help_text = _("On the credit note: the customer sees it.")
        if parts:
            self.initial["amount"] = plain(parts[0].amount)


class DisputeForm(ReasonForm):
    """What a bank contests, as the gateway's console shows it."""

    gateway_dispute_id = forms.CharField(label=_("The gateway's id of it"), max_length=128)
    amount = forms.DecimalField(label=_("Contested"), min_value=Decimal("0.01"), max_digits=18, decimal_places=4)
    respond_by = forms.DateTimeField(label=_("Respond by"), required=False, help_text=_("UTC, as 2026-11-30 12:00."))
    field_order = ("gateway_dispute_id", "amount", "respond_by", "reason")

    def fit(self, payment: Payment) -> None:
        """The whole payment is what is usually contested."""
        self.initial["amount"] = plain(payment.received_amount or payment.amount)


def _ask(payment: Payment, *, actor: Actor, part: str, **form: Any) -> None:
    invoice = None if part == UNAPPLIED else Invoice.objects.get(pk=part)
    refund_request(payment=payment, actor=actor, invoice=invoice, unapplied=invoice is None, **form)


def refund_preview(payment: Payment, *, part: str, amount: Decimal, by_hand: bool, reason: str) -> list[tuple[Any, Any]]:
    """What goes back, and what the account loses for it."""
    found = next((one for one in refundables(payment) if part == (str(one.invoice.pk) if one.invoice else UNAPPLIED)), None)
    if found is None or amount > found.amount:
        most = plain(found.amount) if found is not None else "0"
        raise ApiError(
            409,
            "refund_too_large",
            Text("At most %(amount)s %(currency)s can go back.", amount=most, currency=payment.currency),
            param="amount",
        )
    credits = sum((taken for _lot, taken in refund_shares(found, amount, payment.currency)), ZERO)
    gateway = _("by hand: you send it and confirm it afterwards") if by_hand else payment.get_gateway_display()
    told: list[tuple[Any, Any]] = [
        (_("Payment"), f"{payment.reference} · {payment.account}"),
        (_("Of"), found.invoice.number if found.invoice else _("Money without an invoice")),
        (_("Goes back"), f"{plain(amount)} {payment.currency}"),
        (_("Was paid"), f"{plain(payment.received_amount or payment.amount)} {payment.currency}"),
        (_("Sent"), gateway),
    ]
    if found.lots:
        told.append((_("Credits that leave the account"), decimal_text(credits)))
    if found.invoice is not None:
        told.append((_("Then"), _("a credit note is issued, which the customer sees in the panel")))
    return told


def _contest(payment: Payment, *, actor: Actor, **form: Any) -> None:
    dispute_open(payment=payment, actor=actor, **form)


PAYMENT_DEEDS = {
    "refund": Deed(
        _("Refund"),
        _(
            "Sends money back, at most the share of its credits that nobody used; those are taken out of the account until "
            "it is done. A plan runs on until it is canceled. Above the limit another operator approves it first."
        ),
        _("Asked for."),
        _ask,
        "billing.add_refund",
        lambda row: any(part.amount > 0 for part in refundables(row)),
        form=RefundForm,
        dangerous=True,
        preview=refund_preview,
    ),
    "dispute": Deed(
        _("Note a dispute"),
        _("The payer's bank contests this payment. Nothing of it is refunded until that is decided."),
        _("Noted."),
        _contest,
        "billing.add_dispute",
        lambda row: row.state == Payment.State.SUCCEEDED,
        form=DisputeForm,
    ),
}


def _approve(refund: Refund, *, actor: Actor, reason: str) -> None:
    refund_approve(refund=refund, actor=actor, reason=reason)


def _confirm(refund: Refund, *, actor: Actor, reason: str) -> None:
    refund_confirm(refund=refund, actor=actor, reason=reason)


def _reject(refund: Refund, *, actor: Actor, reason: str) -> None:
    refund_reject(refund=refund, actor=actor, reason=reason)


def _lost(dispute: Dispute, *, actor: Actor, reason: str) -> None:
    dispute_lost(dispute=dispute, actor=actor, reason=reason)


def _won(dispute: Dispute, *, actor: Actor, reason: str) -> None:
    dispute_won(dispute=dispute, actor=actor, reason=reason)


@admin.register(Refund)
class RefundAdmin(DeedsMixin, ReadOnlyAdmin):
    """Money that goes back."""

    deeds = {
        "approve": Deed(
            _("Approve"),
            _("It is above the limit, and another operator asked for it. Approved, it is sent."),
            _("Approved."),
            _approve,
            "billing.change_refund",
            waits_for_approval,
            dangerous=True,
        ),
        "confirm": Deed(
            _("The money went back"),
            _("A credit note is issued, and the credits that the money bought are gone."),
            _("Confirmed."),
            _confirm,
            "billing.change_refund",
            confirmable,
        ),
        "reject": Deed(
            _("No money goes back"),
            _("The credits return. If a gateway was asked and never answered, look there first."),
            _("Rejected."),
            _reject,
            "billing.change_refund",
            rejectable,
            dangerous=True,
        ),
    }
    list_display = ("reference", "moment", "payment_link", "sum", "currency", "state_label", "by_hand", "reason")
    list_filter = (
        "state",
        "by_hand",
        "currency",
        linked_filter("payment__account", Account, _("account")),
        "requested_at",
    )
    list_select_related = ("payment",)
    search_fields = ("reference__exact", "gateway_refund_id__exact", "payment__reference__exact")
    fieldsets = (
        (None, {"fields": ("reference", "state_label", "deed_buttons", "payment_link", "note_link", "reason", "explore")}),
        (_("Money"), {"fields": ("sum", "currency", "taken", "by_hand", "gateway_refund_id")}),
        (_("Operators"), {"fields": ("requested_by", "requested_at", "confirmed_by", "finished_at")}),
        (_("Trouble"), {"fields": ("failure_code", "failure_message", "next_poll_at", "told")}),
    )
    readonly_fields = ("payment_link", "note_link", "sum", "taken", "state_label", "deed_buttons", "explore", "told")

    moment = moment_column("requested_at", _("at, UTC"))
    payment_link = link_column("payment", "billing.payment", _("payment"))
    note_link = link_column("credit_note", "billing.invoice", _("credit note"))
    sum = decimal_column("amount", _("amount"))
    taken = decimal_column("credits", _("credits"))

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, refund: Refund) -> SafeString:
        return state_badge(refund)

    @admin.display(description=_("what was parked and asked"))
    def told(self, refund: Refund) -> SafeString:
        return json_block(refund.facts)

    @admin.display(description=_("see also"))
    def explore(self, refund: Refund) -> SafeString:
        return list_link("billing.event", _("Events"), object_type__exact="refund", object_id__exact=refund.pk)

    def deed_items(self, row: Refund, name: str) -> list[Any]:
        return [format_html("{}: {} {} · {} · {}", row.reference, plain(row.amount), row.currency, row.payment, row.reason)]


@admin.register(Dispute)
class DisputeAdmin(DeedsMixin, ReadOnlyAdmin):
    """Payments that a bank takes back, or wants to."""

    deeds = {
        "lost": Deed(
            _("Lost"),
            _(
                "The bank took the money: the credits it bought go; what was spent of them becomes debt, which stops new "
                "calls. A plan without credits that it paid for ends."
            ),
            _("Noted as lost."),
            _lost,
            "billing.change_dispute",
            lambda row: Dispute.State.LOST in Dispute.MOVES[row.state],
            dangerous=True,
        ),
        "won": Deed(
            _("Won"),
            _(
                "The money stays, or came back: credits that a loss took return, its debt is forgiven, and a plan that it "
                "ended begins anew with the time that was left, unless the account has another by now."
            ),
            _("Noted as won."),
            _won,
            "billing.change_dispute",
            lambda row: Dispute.State.WON in Dispute.MOVES[row.state],
        ),
    }
    list_display = ("gateway_dispute_id", "moment", "payment_link", "sum", "currency", "state_label", "respond_by")
    list_filter = ("state", "currency", "opened_at")
    list_select_related = ("payment",)
    search_fields = ("gateway_dispute_id__exact", "payment__reference__exact")
    fieldsets = (
        (None, {"fields": ("gateway_dispute_id", "state_label", "deed_buttons", "payment_link", "reason", "explore")}),
        (_("Money"), {"fields": ("sum", "currency", "told")}),
        (_("Time"), {"fields": ("opened_at", "respond_by", "closed_at")}),
    )
    readonly_fields = ("payment_link", "sum", "state_label", "deed_buttons", "explore", "told")

    moment = moment_column("opened_at", _("at, UTC"))
    payment_link = link_column("payment", "billing.payment", _("payment"))
    sum = decimal_column("amount", _("amount"))

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, dispute: Dispute) -> SafeString:
        return state_badge(dispute)

    @admin.display(description=_("what a loss took"))
    def told(self, dispute: Dispute) -> SafeString:
        return json_block(dispute.facts)

    @admin.display(description=_("see also"))
    def explore(self, dispute: Dispute) -> SafeString:
        return list_link("billing.event", _("Events"), object_type__exact="dispute", object_id__exact=dispute.pk)

    def deed_items(self, row: Dispute, name: str) -> list[Any]:
        return [format_html("{}: {} {} · {}", row.gateway_dispute_id, plain(row.amount), row.currency, row.payment)]
