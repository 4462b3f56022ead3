"""Payments in the console: confirm or reject what came by hand, look at proofs, put unapplied money to use."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from billing.events.admin import AuditedModelAdmin
from billing.events.services import Actor
from billing.invoices.models import Invoice
from billing.subscriptions.deeds import Deed, DeedsMixin, state_badge
from iafactory.common import clock
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReasonForm,
    decimal_column,
    decimal_text,
    json_block,
    link_column,
    linked_filter,
    list_link,
    moment_column,
    table,
)

from .confirmation import payment_ask_again
from .manual import GATEWAY, manual_confirm, manual_reject
from .models import ManualMethod, Payment, PaymentProof, SavedCard, method_names
from .refund_admin import PAYMENT_DEEDS, DisputeForm, RefundForm
from .services import unapplied_apply, unapplied_to_balance

State = Payment.State
PERMISSION = "billing.change_payment"


class ConfirmForm(ReasonForm):
    """What came, and when."""

    received = forms.DecimalField(
        label=_("Received"),
        min_value=Decimal("0.01"),
        max_digits=18,
        decimal_places=2,
        help_text=_("As it stands on the account."),
    )
    paid_at = forms.SplitDateTimeField(
        label=_("On"), required=False, widget=AdminSplitDateTime, help_text=_("UTC. Empty: now.")
    )
    field_order = ("received", "paid_at", "reason")

    def clean_paid_at(self) -> Any:
        paid_at = self.cleaned_data["paid_at"]
        if paid_at is not None and paid_at > clock.now():
            raise forms.ValidationError(_("Money does not come in the future."))
        return paid_at


class ApplyForm(ReasonForm):
    """Which open invoice the money pays."""

    invoice = forms.ModelChoiceField(label=_("Invoice"), queryset=Invoice.objects.none())
    field_order = ("invoice", "reason")


def _apply(payment: Payment, *, actor: Actor, invoice: Invoice, reason: str) -> None:
    unapplied_apply(payment=payment, invoice=invoice, actor=actor, reason=reason)


def _keep(payment: Payment, *, actor: Actor, reason: str) -> None:
    unapplied_to_balance(payment=payment, actor=actor, reason=reason)


def _confirm(payment: Payment, *, actor: Actor, **form: Any) -> None:
    manual_confirm(payment=payment, actor=actor, **form)


def _ask_gateway(payment: Payment, *, actor: Actor, reason: str) -> None:
    payment_ask_again(payment=payment, actor=actor, reason=reason)


def _reject(payment: Payment, *, actor: Actor, reason: str) -> None:
    manual_reject(payment=payment, actor=actor, reason=reason)


DEEDS = {
    "confirm": Deed(
        _("Confirm"),
        _("The money is here: its invoice is issued and paid, what was bought begins. More than is due is kept as unapplied."),
        _("Confirmed."),
        _confirm,
        PERMISSION,
        lambda row: row.gateway == GATEWAY and State.SUCCEEDED in Payment.MOVES[row.state],
        form=ConfirmForm,
    ),
    "reject": Deed(
        _("Reject"),
        _("No such money came. It can still be confirmed later."),
        _("Rejected."),
        _reject,
        PERMISSION,
        lambda row: row.gateway == GATEWAY and State.FAILED in Payment.MOVES[row.state],
        dangerous=True,
    ),
    "ask": Deed(
        _("Ask the gateway"),
        _("What the gateway says is booked, once. Money that is not what was asked for leaves the payment under review."),
        _("Asked."),
        _ask_gateway,
        PERMISSION,
        lambda row: row.gateway != GATEWAY and State.SUCCEEDED in Payment.MOVES[row.state],
        asks_others=True,
    ),
    "apply": Deed(
        _("Pay an invoice with it"),
        _("Money without an invoice pays an open one of the same account."),
        _("Applied."),
        _apply,
        PERMISSION,
        lambda row: row.unapplied_amount > 0,
        form=ApplyForm,
    ),
    "keep": Deed(
        _("Keep in hand"),
        _("Money without an invoice becomes money in hand: the account's next invoice uses it."),
        _("Kept in hand."),
        _keep,
        PERMISSION,
        lambda row: row.unapplied_amount > 0,
    ),
    **PAYMENT_DEEDS,
}


class UnappliedFilter(admin.SimpleListFilter):
    """Payments with money that no invoice took."""

    title = _("unapplied money")
    parameter_name = "unapplied"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("1", _("Some"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Payment]) -> QuerySet[Payment]:
        return queryset.filter(unapplied_amount__gt=0) if self.value() == "1" else queryset


class ProofFilter(admin.SimpleListFilter):
    """Payments by hand that wait for an operator."""

    title = _("waiting for you")
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("1", _("With a proof, not confirmed"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Payment]) -> QuerySet[Payment]:
        if self.value() != "1":
            return queryset
        return queryset.filter(gateway=GATEWAY, state=State.PENDING, proofs__isnull=False).distinct()


@admin.register(Payment)
class PaymentAdmin(DeedsMixin, AccountSearchMixin, ReadOnlyAdmin):
    """Attempts to pay, and what became of them."""

    deeds = DEEDS
    list_display = (
        "reference",
        "moment",
        "account_link",
        "invoice_link",
        "means",
        "sum",
        "currency",
        "state_label",
        "unapplied",
    )
    list_filter = (
        ProofFilter,
        UnappliedFilter,
        "state",
        "gateway",
        "purpose",
        "currency",
        linked_filter("account", Account, _("account")),
        linked_filter("saved_card", SavedCard, _("saved card")),
        "created_at",
    )
    list_select_related = ("account", "invoice")
    search_exact_fields = (
        "reference",
        "checkout_id",
        "gateway_payment_id",
        "customer_reference__iexact",
        "invoice__number",
    )
    search_help_text = _("Reference, gateway's id, the customer's transfer number, invoice number, or the account.")
    fieldsets = (
        (None, {"fields": ("reference", "state_label", "deed_buttons", "account_link", "invoice_link", "purpose", "explore")}),
        (
            _("Money"),
            {"fields": ("sum", "currency", "received", "applied", "unapplied", "refunded", "fee_amount", "fx_rate", "paid_at")},
        ),
        (_("Proofs"), {"fields": ("customer_reference", "proof_list")}),
        (
            _("Gateway"),
            {
                "fields": (
                    "gateway",
                    "means",
                    "card_link",
                    "mode",
                    "checkout_id",
                    "gateway_payment_id",
                    "checkout_url",
                    "expires_at",
                    "facts",
                )
            },
        ),
        (_("Trouble"), {"fields": ("failure_code", "failure_message", "review_reason", "next_poll_at", "polls")}),
        (_("History"), {"fields": ("created_at", "updated_at")}),
    )
    readonly_fields = (
        "state_label",
        "deed_buttons",
        "means",
        "account_link",
        "invoice_link",
        "card_link",
        "explore",
        "sum",
        "received",
        "applied",
        "unapplied",
        "refunded",
        "proof_list",
        "facts",
    )

    moment = moment_column("created_at", _("at, UTC"))
    account_link = link_column("account", "billing.account", _("account"))
    invoice_link = link_column("invoice", "billing.invoice", _("invoice"))
    card_link = link_column("saved_card", "billing.savedcard", _("saved card"))
    sum = decimal_column("amount", _("amount"))
    received = decimal_column("received_amount", _("received"))
    applied = decimal_column("applied_amount", _("applied"))
    unapplied = decimal_column("unapplied_amount", _("unapplied"))
    refunded = decimal_column("refunded_amount", _("sent back"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Payment]:
        return method_names(super().get_queryset(request))

    @admin.display(description=_("paid by"), ordering="gateway")
    def means(self, payment: Payment) -> str:
        return payment.means_name

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, payment: Payment) -> SafeString:
        return state_badge(payment)

    @admin.display(description=_("what the gateway said"))
    def facts(self, payment: Payment) -> SafeString:
        return json_block(payment.gateway_facts)

    @admin.display(description=_("proofs"))
    def proof_list(self, payment: Payment) -> SafeString:
        proofs = payment.proofs.defer("content")
        if not proofs:
            return SafeString(EMPTY)
        rows = [
            (
                format_html('<a href="{}">{}</a>', reverse("admin:billing_payment_proof", args=[proof.pk]), proof.file_name),
                proof.content_type,
                proof.size,
                f"{proof.uploaded_at:%Y-%m-%d %H:%M}",
                proof.uploaded_by,
            )
            for proof in proofs
        ]
        return table((_("file"), _("kind"), _("bytes"), _("at, UTC"), _("by")), rows)

    @admin.display(description=_("see also"))
    def explore(self, payment: Payment) -> SafeString:
        links = (
            list_link("billing.event", _("Events"), object_type__exact="payment", object_id__exact=payment.pk),
            list_link("billing.payment", _("All payments of the account"), account__id__exact=payment.account_id),
        )
        return format_html_join(" · ", "{}", ((link,) for link in links))

    def deed_form(self, request: HttpRequest, row: Payment, deed: Deed) -> ReasonForm:
        if deed.form is ConfirmForm:
            return ConfirmForm(request.POST or None, initial={"received": row.amount.quantize(Decimal("0.01"))})
        form = super().deed_form(request, row, deed)
        if isinstance(form, RefundForm | DisputeForm):
            form.fit(row)
        if isinstance(form, ApplyForm):
            invoices = Invoice.objects.filter(account=row.account_id, currency=row.currency, kind=Invoice.Kind.INVOICE)
            choice = form.fields["invoice"]
            assert isinstance(choice, forms.ModelChoiceField)
            choice.queryset = invoices.filter(state__in=(Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE))
        return form

    def deed_items(self, row: Payment, name: str) -> list[Any]:
        return [
            format_html(
                "{}: {} {} · {} · {}", row.reference, decimal_text(row.amount), row.currency, row.account, row.means_name
            ),
            *([format_html("{}: {}", _("Transfer number"), row.customer_reference)] if row.customer_reference else []),
            *([self.proof_list(row)] if name in ("confirm", "reject") else []),
        ]

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.proof_view)
        return [path("proof/<uuid:proof_id>/", view, name="billing_payment_proof"), *super().get_urls()]

    def proof_view(self, request: HttpRequest, proof_id: Any) -> HttpResponse:
        """A proof as it was sent. Nothing in it runs: it is shown alone, without scripts."""
        if not request.user.has_perm("billing.view_payment"):
            raise PermissionDenied
        proof = PaymentProof.objects.filter(pk=proof_id).first()
        if proof is None:
            raise Http404
        response = HttpResponse(bytes(proof.content), content_type=proof.content_type)
        response["Content-Security-Policy"] = "sandbox; default-src 'none'"
        response["Cache-Control"] = "private, no-store"
        return response


@admin.register(ManualMethod)
class ManualMethodAdmin(AuditedModelAdmin):
    """Ways to pay by hand: what customers are told, and where."""

    list_display = ("name", "code", "currencies", "countries", "is_cash", "is_enabled", "sort_order")
    list_filter = ("is_enabled", "is_cash")
    search_fields = ("code", "name")
