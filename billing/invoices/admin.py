"""Invoices in the console, down to the calls behind their lines; who sells, who is billed, which taxes apply."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.accounts.admin import AccountSearchMixin
from billing.accounts.models import Account
from billing.events.admin import AuditedModelAdmin, operator_actor
from billing.events.names import means_label
from billing.events.reasons import reason_text
from billing.events.services import Actor
from iafactory.common.admin import (
    EMPTY,
    ReadOnlyAdmin,
    ReasonForm,
    TextFilter,
    change_link,
    change_url,
    decimal_text,
    link_column,
    linked_filter,
    list_link,
    localised,
    moment_column,
    presence_filter,
    table,
    text_filter,
)
from iafactory.common.csv_tables import csv_response
from iafactory.common.errors import ApiError
from iafactory.common.ids import uuid7

from . import services
from .api import pdf_response
from .delivery import invoice_mail_again, invoice_pdf_ensure
from .document import LANGUAGES
from .export import csv_chunks
from .identifiers import IDENTIFIERS, IdentifierInvalid, identifiers_check, indian_state_check
from .models import BillingProfile, Invoice, InvoiceLine, InvoicePdf, MoneyBalance, NumberSeries, SellerProfile, TaxRate
from .rounding import is_quantised, minor_digits
from .selectors import creditable
from .serializers import amount_due
from .tax import tax_rule_read

# What is told of a seller and a customer, in this order.
_PARTY_FACTS = {
    "legal_form": _("legal form"),
    "address": _("address"),
    "postal_code": _("postal code"),
    "city": _("city"),
    "region": _("region"),
    "country": _("country"),
    "email": _("e-mail"),
    "phone": _("phone"),
    "language": _("language"),
}
# Lines that stand for calls of a period.
_USED = (InvoiceLine.Kind.PLAN, InvoiceLine.Kind.PRORATION, InvoiceLine.Kind.OVERAGE)


def money(amount: Decimal, currency: str) -> str:
    """An amount at its currency's minor unit, thousands apart."""
    return f"{localised(f'{amount:,.{minor_digits(currency)}f}')} {currency}"


def _figure(amount: Decimal, currency: str) -> SafeString:
    return format_html('<span class="figure">{}</span>', money(amount, currency))


def money_column(field: str, description: Any) -> Callable[[Any, Any], SafeString]:
    """A column for the amount `field` of rows with a currency."""

    @admin.display(ordering=field, description=description)
    def column(model_admin: Any, row: Any) -> SafeString:
        return _figure(getattr(row, field), row.currency)

    return column


class CreditForm(ReasonForm):
    """How much of an invoice is taken back, and where the money goes. `deed` makes one note of however many submits."""

    amount = forms.DecimalField(label=_("Amount, tax included"), max_digits=18, decimal_places=4)
    to_balance = forms.TypedChoiceField(
        label=_("The money"),
        choices=[("yes", _("is in hand for the next invoice")), ("no", _("is sent back; the note stays open until it is"))],
        coerce=lambda value: value == "yes",
        widget=forms.RadioSelect,
        initial="yes",
    )
    deed = forms.UUIDField(widget=forms.HiddenInput, initial=uuid7)

    field_order = ("amount", "to_balance", "reason", "deed")

    def __init__(self, *args: Any, invoice: Invoice, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invoice = invoice
        most = money(creditable(invoice), invoice.currency)
        self.fields["amount"].help_text = _("At most %s; stamp duty and rounding stay.") % most

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if not is_quantised(amount, self.invoice.currency) or not 0 < amount <= creditable(self.invoice):
            raise forms.ValidationError(_("Between 0 and what can still be credited, in whole minor units."))
        return amount


@dataclass(frozen=True, slots=True)
class Deed:
    """Something an operator does with one invoice: `offered` says when, `do` calls one service."""

    label: Any
    title: Any
    explanation: Any
    done: Any
    offered: Callable[[Invoice], bool]
    do: Callable[[Invoice, Actor, dict[str, Any]], Any]
    dangerous: bool = False


def _credit(invoice: Invoice, actor: Actor, data: dict[str, Any]) -> Invoice:
    return services.credit_note_issue(
        invoice=invoice,
        amount=data["amount"],
        reason=data["reason"],
        actor=actor,
        key=f"operator:{data['deed']}",
        to_balance=data["to_balance"],
    )


def _is_open_invoice(invoice: Invoice) -> bool:
    return invoice.state == Invoice.State.OPEN and invoice.kind == Invoice.Kind.INVOICE


# By the name of its permission, which is also its address.
DEEDS = {
    "finalise": Deed(
        label=_("Finalise…"),
        title=_("Finalise a draft"),
        explanation=_("It gets its number and today's date, is owed from now on, and can only be corrected by a credit note."),
        done=_("Issued."),
        offered=lambda invoice: (
            invoice.state == Invoice.State.DRAFT and invoice.closed_at is None and invoice.total > invoice.balance_applied
        ),
        do=lambda invoice, actor, data: services.invoice_finalise(invoice=invoice, actor=actor, use_balance=False),
    ),
    "void": Deed(
        label=_("Void…"),
        title=_("Void an invoice"),
        explanation=_("As if it had never been owed: its number stays, its document is marked. This cannot be undone."),
        done=_("Voided."),
        offered=lambda invoice: _is_open_invoice(invoice) and not invoice.amount_paid,
        do=lambda invoice, actor, data: services.invoice_void(invoice=invoice, reason=data["reason"], actor=actor),
        dangerous=True,
    ),
    "writeoff": Deed(
        label=_("Uncollectible…"),
        title=_("Give an invoice up"),
        explanation=_("What is due is written off. A late payment still pays it."),
        done=_("Written off."),
        offered=_is_open_invoice,
        do=lambda invoice, actor, data: services.invoice_give_up(invoice=invoice, reason=data["reason"], actor=actor),
        dangerous=True,
    ),
    "credit": Deed(
        label=_("Credit note…"),
        title=_("Issue a credit note"),
        explanation=_("Lines and taxes are taken back in proportion, at their own rates. Credits in lots are not touched."),
        done=_("Credited."),
        offered=lambda invoice: (
            invoice.state == Invoice.State.PAID and invoice.kind == Invoice.Kind.INVOICE and creditable(invoice) > 0
        ),
        do=_credit,
        dangerous=True,
    ),
    "mail": Deed(
        label=_("Mail again…"),
        title=_("Mail a document again"),
        explanation=_("The customer gets the document once more, as it stands now."),
        done=_("It will be mailed in a moment."),
        offered=lambda invoice: invoice.state not in (Invoice.State.DRAFT, Invoice.State.VOID),
        do=lambda invoice, actor, data: invoice_mail_again(invoice=invoice, actor=actor, reason=data["reason"]),
    ),
}


class FiscalYearFilter(TextFilter):
    """Documents of one fiscal year, by the calendar year in which it begins."""

    title = _("fiscal year")
    parameter_name = "fiscal_year"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        if not value:
            return queryset
        return queryset.filter(fiscal_year=int(value)) if re.fullmatch("[0-9]{4}", value) else queryset.none()


@admin.register(Invoice)
class InvoiceAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """What was billed, and how each line came about."""

    list_display = ("name", "account_link", "kind", "state_label", "total_", "due_", "issue_date", "due_at", "mailed")
    list_display_links = ("name",)
    list_filter = (
        "state",
        "kind",
        "purpose",
        text_filter("currency", _("currency")),
        text_filter("seller_code", _("series (seller)")),
        FiscalYearFilter,
        linked_filter("account", Account, _("account")),
        presence_filter("mailed_at", _("mail"), given=_("Mailed"), empty=_("Not mailed")),
        "issue_date",
        "due_at",
    )
    list_select_related = ("account",)
    search_exact_fields = ("number", "origin_key")
    search_uuid_fields = ("pk", "subscription_id")
    search_help_text = _("Number, invoice or subscription id, account, e-mail or beginning of a key.")
    fieldsets = (
        (None, {"fields": ("name", "kind", "state_label", "purpose", "account_link", "documents", "explore")}),
        (_("Amounts"), {"fields": ("amounts",)}),
        (_("Lines"), {"fields": ("line_table", "corrections")}),
        (_("Sold by, billed to"), {"fields": ("parties",)}),
        (_("Dates, UTC"), {"fields": ("created_at", "issued_at", "issue_date", "due_at", "paid_at", "closed_at", "mailed_at")}),
        (_("Payment"), {"fields": ("means", "payments")}),
        (_("How it came about"), {"classes": ("collapse",), "fields": ("origin_key", "subscription_id", "fx_rate", "reason")}),
    )
    readonly_fields = (
        *("name", "state_label", "account_link", "documents", "explore", "amounts", "line_table", "corrections", "parties"),
        "means",
        "payments",
    )

    account_link = link_column("account", "billing.account", _("account"))
    total_ = money_column("total", _("total"))
    mailed = moment_column("mailed_at", _("mailed, UTC"))

    @admin.display(description=_("number"), ordering="number")
    def name(self, invoice: Invoice) -> str:
        return str(invoice)

    @admin.display(description=_("state"), ordering="state")
    def state_label(self, invoice: Invoice) -> SafeString:
        return format_html('<span class="state state-{}">{}</span>', invoice.state, invoice.get_state_display())

    @admin.display(description=_("due"))
    def due_(self, invoice: Invoice) -> SafeString:
        return _figure(amount_due(invoice), invoice.currency)

    @admin.display(description=_("document"))
    def documents(self, invoice: Invoice) -> SafeString:
        if invoice.state == Invoice.State.DRAFT:
            return SafeString(EMPTY)
        address = reverse("admin:billing_invoice_pdf", args=[invoice.pk])
        links = ((f"{address}?language={language}", language) for language in LANGUAGES)
        kept = InvoicePdf.objects.filter(invoice=invoice).order_by("rendered_at").defer("content")
        rows = [(pdf.language, pdf.get_edition_display(), pdf.sha256, f"{pdf.rendered_at:%Y-%m-%d %H:%M:%S}") for pdf in kept]
        return format_html(
            '<a href="{}">PDF</a> ({}) {}',
            address,
            format_html_join(" · ", '<a href="{}">{}</a>', links),
            table((_("language"), _("edition"), "SHA-256", _("rendered, UTC")), rows) if rows else "",
        )

    @admin.display(description=_("amounts"))
    def amounts(self, invoice: Invoice) -> SafeString:
        rows = [
            (_("Without tax"), invoice.net),
            (_("Tax"), invoice.tax_total),
            (_("Stamp duty"), invoice.stamp_total),
            (_("Rounding"), invoice.rounding_total),
            (_("Total"), invoice.total),
            (_("From money in hand"), -invoice.balance_applied),
            (_("Paid"), -invoice.amount_paid),
            (_("Due"), amount_due(invoice)),
            (_("Credited"), invoice.credited_total),
        ]
        shown = [(label, _figure(amount, invoice.currency)) for label, amount in rows]
        return table((_("what"), _("amount")), shown)

    @admin.display(description=_("lines"))
    def line_table(self, invoice: Invoice) -> SafeString:
        headings = (_("what"), _("quantity"), _("price"), _("without tax"), _("tax"), _("with tax"), _("behind it"))
        rows = [
            (
                line.description,
                decimal_text(line.quantity),
                decimal_text(line.unit_price),
                _figure(line.amount, invoice.currency),
                _figure(line.tax_amount, invoice.currency),
                _figure(line.gross, invoice.currency),
                self._behind(line, invoice),
            )
            for line in invoice.lines.select_related("corrects").order_by("position")
        ]
        return table(headings, rows) if rows else SafeString(EMPTY)

    def _behind(self, line: InvoiceLine, invoice: Invoice) -> SafeString:
        """Where a line leads: the calls of its period, the lot it bills, the line it takes back."""
        links: list[SafeString] = []
        if line.kind in _USED and line.period_start is not None:
            bounds: dict[str, Any] = {"started_at__gte": line.period_start.isoformat()}
            if line.period_end is not None:
                bounds["started_at__lt"] = line.period_end.isoformat()
            if invoice.subscription_id is not None:
                bounds["subscription_id__exact"] = invoice.subscription_id
            calls = list_link("billing.usagerecord", _("Calls"), account__id__exact=invoice.account_id, **bounds)
            links.append(calls)
        if line.lot_id is not None:
            links.append(change_link("billing.lot", line.lot_id, _("Lot")))
        if line.corrects is not None:
            links.append(change_link("billing.invoice", line.corrects.invoice_id, _("Corrected invoice")))
        return format_html_join(" · ", "{}", ((link,) for link in links)) if links else SafeString(EMPTY)

    @admin.display(description=_("credit notes"))
    def corrections(self, invoice: Invoice) -> SafeString:
        if invoice.corrects_id is not None:
            return format_html("{} {}", _("Corrects"), change_link("billing.invoice", invoice.corrects_id, invoice.corrects))
        rows = [
            (
                change_link("billing.invoice", note.pk, note),
                note.issue_date,
                _figure(note.total, note.currency),
                reason_text(note.reason),
            )
            for note in invoice.credit_notes.order_by("issued_at")
        ]
        return table((_("number"), _("date"), _("total"), _("reason")), rows) if rows else SafeString(EMPTY)

    @admin.display(description=_("parties"))
    def parties(self, invoice: Invoice) -> SafeString:
        seller, customer = invoice.seller_snapshot, invoice.customer_snapshot
        rows: list[tuple[Any, ...]] = [(_("Name"), seller.get("legal_name", ""), customer.get("name", ""))]
        rows += [(told, seller.get(name, ""), customer.get(name, "")) for name, told in _PARTY_FACTS.items()]
        known = [party.get("identifiers") or {} for party in (seller, customer)]
        rows += [(name.upper(), *(party.get(name, "") for party in known)) for name in sorted({*known[0], *known[1]})]
        return table(("", _("seller"), _("customer")), [row for row in rows if any(row[1:])])

    @admin.display(description=_("payment means"))
    def means(self, invoice: Invoice) -> str:
        return means_label(invoice.payment_means) or EMPTY

    @admin.display(description=_("payments"))
    def payments(self, invoice: Invoice) -> SafeString:
        # Payments stand above invoices: their page is linked where there is one.
        if not admin.site.is_registered(apps.get_model("billing", "Payment")):
            return SafeString(EMPTY)
        return list_link("billing.payment", _("Payments of this invoice"), invoice__id__exact=invoice.pk)

    @admin.display(description=_("see also"))
    def explore(self, invoice: Invoice) -> SafeString:
        links = [
            list_link("billing.event", _("Events"), object_type__exact="invoice", object_id__exact=invoice.pk),
            list_link("billing.ledgertransaction", _("In the books"), q=f"invoice:{invoice.pk}"),
            list_link("billing.invoice", _("All invoices of the account"), account__id__exact=invoice.account_id),
        ]
        if invoice.subscription_id is not None:
            links.append(change_link("billing.subscription", invoice.subscription_id, _("Subscription")))
        return format_html_join(" · ", "{}", ((link,) for link in links))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("export/", view(self.export_view), name="billing_invoice_export"),
            path("<uuid:invoice_id>/pdf/", view(self.pdf_view), name="billing_invoice_pdf"),
            path("<uuid:invoice_id>/<str:name>/act/", view(self.act_view), name="billing_invoice_act"),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        invoice = self.get_object(request, object_id)
        steps = (
            []
            if invoice is None
            else [
                (reverse("admin:billing_invoice_act", args=[invoice.pk, name]), deed.label)
                for name, deed in DEEDS.items()
                if deed.offered(invoice) and request.user.has_perm(f"billing.{name}_invoice")
            ]
        )
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "steps": steps})

    def pdf_view(self, request: HttpRequest, invoice_id: UUID) -> HttpResponse:
        """The document, rendered now if nobody asked before."""
        invoice = get_object_or_404(Invoice.objects.select_related("account", "seller", "corrects"), pk=invoice_id)
        if not self.has_view_permission(request, invoice):
            raise PermissionDenied
        try:
            pdf = invoice_pdf_ensure(invoice=invoice, language=request.GET.get("language", ""))
        except ApiError as error:
            self.message_user(request, error.text, messages.WARNING)
            return HttpResponseRedirect(change_url("billing.invoice", invoice.pk))
        return pdf_response(invoice, pdf)

    def export_view(self, request: HttpRequest) -> HttpResponse:
        """The list as it is filtered, as a table."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        found: QuerySet[Invoice] = self.get_changelist_instance(request).get_queryset(request)
        return csv_response(request, csv_chunks(found, for_operator=True), file_name="invoices.csv")  # type: ignore[return-value]

    def act_view(self, request: HttpRequest, invoice_id: UUID, name: str) -> HttpResponse:
        """Ask why, then do one thing with one invoice."""
        deed = DEEDS.get(name)
        if deed is None or not request.user.has_perm(f"billing.{name}_invoice"):
            raise PermissionDenied
        invoice = get_object_or_404(Invoice.objects.select_related("account", "seller"), pk=invoice_id)
        address = change_url("billing.invoice", invoice.pk)
        if not deed.offered(invoice):
            self.message_user(request, _("Nothing to do: it is %s.") % invoice.get_state_display(), messages.WARNING)
            return HttpResponseRedirect(address)
        data = request.POST or None
        form = CreditForm(data, invoice=invoice) if name == "credit" else ReasonForm(data)
        if request.method == "POST" and form.is_valid():
            try:
                with transaction.atomic():
                    deed.do(invoice, operator_actor(request), form.cleaned_data)
                    self.log_change(request, invoice, f"{deed.done} {form.cleaned_data['reason']}")
            except ApiError as error:
                form.add_error(None, error.text)
            else:
                self.message_user(request, deed.done, messages.SUCCESS)
                return HttpResponseRedirect(address)
        return self.render_step(
            request,
            title=deed.title,
            subtitle=invoice,
            form=form,
            submit=deed.title,
            dangerous=deed.dangerous,
            explanation=deed.explanation,
            items=[format_html("{} · {} · {}", invoice, invoice.account, money(invoice.total, invoice.currency))],
            back=address,
        )


class IdentifiersForm(forms.ModelForm):  # type: ignore[type-arg]
    """Each identifier in a field of its own, checked by the rules of the party's country."""

    NAMES = tuple(dict.fromkeys([name for names in IDENTIFIERS.values() for name in names] + ["lut", "vat"]))

    rc = forms.CharField(label="RC", required=False, max_length=64, help_text=_("Algeria, such as 16/00-1234567 B 18."))
    nif = forms.CharField(label="NIF", required=False, max_length=64, help_text=_("Algeria: 15 or 20 digits."))
    ai = forms.CharField(label="AI", required=False, max_length=64, help_text=_("Algeria: article d'imposition, 11 digits."))
    nis = forms.CharField(label="NIS", required=False, max_length=64, help_text=_("Algeria: 15 or 18 digits."))
    gstin = forms.CharField(label="GSTIN", required=False, max_length=64, help_text=_("India: 15 characters."))
    lut = forms.CharField(label="LUT", required=False, max_length=64, help_text=_("India: letter of undertaking for exports."))
    vat = forms.CharField(label=_("VAT number"), required=False, max_length=64, help_text=_("Elsewhere."))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.NAMES:
            self.initial.setdefault(name, (self.instance.identifiers or {}).get(name, ""))

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        country = data.get("country") or ""
        identifiers: dict[str, str] = {
            name: value for name, value in (self.instance.identifiers or {}).items() if name not in self.NAMES
        }
        for name in self.NAMES:
            try:
                identifiers |= identifiers_check(country, {name: data.get(name) or ""})
            except IdentifierInvalid as error:
                self.add_error(name, error.message.translated())
        if country == "IN" and data.get("region"):
            try:
                data["region"] = indian_state_check(data["region"])
            except IdentifierInvalid as error:
                self.add_error("region", error.message.translated())
        if data.get("region") and identifiers.get("gstin", data["region"])[:2] != data["region"] and country == "IN":
            self.add_error("gstin", _("The GSTIN is of another state."))
        self.instance.identifiers = identifiers
        return data


class SellerForm(IdentifiersForm):
    """Numbers of one seller must not be those of another, nor its invoices' those of its credit notes: they are addresses."""

    website = forms.URLField(label=_("website"), required=False, max_length=200, assume_scheme="https")

    def clean(self) -> dict[str, Any]:
        data = super().clean()
        prefixes = [data.get("invoice_prefix") or "", data.get("credit_note_prefix") or ""]
        if prefixes[0] == prefixes[1]:
            self.add_error("credit_note_prefix", _("Credit notes need another prefix than invoices."))
        taken = SellerProfile.objects.exclude(code=data.get("code") or "")
        if taken.filter(Q(invoice_prefix__in=prefixes) | Q(credit_note_prefix__in=prefixes)).exists():
            self.add_error("invoice_prefix", _("Another seller's numbers have one of these prefixes."))
        return data


class PartyAdmin(AuditedModelAdmin):
    """Parties of invoices: their identifiers are fields of the form, kept together."""

    form = IdentifiersForm

    def _audited(self, form: Any) -> list[str]:
        changed = set(form.changed_data) & set(IdentifiersForm.NAMES)
        return super()._audited(form) + ["identifiers"] * bool(changed)


@admin.register(SellerProfile)
class SellerProfileAdmin(PartyAdmin):
    """Who sells. Issued invoices keep their copy: an edit changes the next ones only."""

    form = SellerForm
    list_display = ("legal_name", "code", "country", "tax_registered", "is_default", "valid_from", "valid_until")
    list_filter = ("country", "tax_registered", "is_default")
    search_fields = ("legal_name", "code")
    fieldsets = (
        (None, {"fields": ("code", "is_default", "valid_from", "valid_until")}),
        (_("Printed"), {"fields": ("legal_name", "legal_form", "activity", "capital")}),
        (
            _("Address"),
            {"fields": ("address", "postal_code", "city", "region", "country", "phone", "email", "website", "bank_details")},
        ),
        (_("Identifiers"), {"fields": IdentifiersForm.NAMES}),
        (_("Tax"), {"fields": ("tax_registered", "tax_mention", "exports_untaxed", "default_sac")}),
        (_("Numbers and dates"), {"fields": ("invoice_prefix", "credit_note_prefix", "time_zone")}),
    )


@admin.register(BillingProfile)
class BillingProfileAdmin(AccountSearchMixin, PartyAdmin):
    """Whom invoices are made out to."""

    list_display = ("name", "account_link", "country", "tax_status", "language", "updated_at")
    list_filter = ("country", "tax_status", "language", linked_filter("account", Account, _("account")))
    list_select_related = ("account",)
    search_uuid_fields = ("account_id",)
    search_exact_fields = ("name", "email")
    search_help_text = _("Name, e-mail or account.")
    autocomplete_fields = ("account",)
    fieldsets = (
        (None, {"fields": ("account", "name", "legal_form", "activity", "email", "phone", "language")}),
        (_("Address"), {"fields": ("address", "postal_code", "city", "region", "country")}),
        (_("Identifiers"), {"fields": IdentifiersForm.NAMES}),
        (_("Tax"), {"fields": ("tax_status", "exemption")}),
    )

    account_link = link_column("account", "billing.account", _("account"))

    def event_account_id(self, row: Any) -> UUID | None:
        return UUID(str(row.account_id))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("account",) if obj is not None else ()


class TaxRateForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule that the arithmetic can read."""

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if "components" not in self.fields:  # only the end of a rule in force is in the form
            return data
        read: dict[str, Any] = {
            name: data[name] for name in ("country", "code", "label", "category", "components", "mention") if name in data
        }
        try:
            tax_rule_read({"scope": data.get("scope"), "regions": data.get("regions") or (), **read})
        except (KeyError, TypeError, ValueError, ArithmeticError):
            message = _('A list such as [{"code": "TVA", "rate": "0.19", "label": "TVA"}]; rates are fractions as text.')
            self.add_error("components", message)
        return data


@admin.register(TaxRate)
class TaxRateAdmin(AuditedModelAdmin):
    """Tax rules. One in force is ended, never changed: only its end can be edited."""

    form = TaxRateForm
    list_display = ("code", "country", "scope", "category", "label", "rates", "valid_from", "valid_until")
    list_filter = ("country", "scope", "category")
    search_fields = ("code", "label")
    fields = (
        *("country", "code", "scope", "category", "regions", "label", "components", "mention", "valid_from", "valid_until"),
    )

    @admin.display(description=_("rates"))
    def rates(self, rate: TaxRate) -> str:
        return ", ".join(f"{part.get('label', part['code'])} {Decimal(part['rate']) * 100:f} %" for part in rate.components)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return tuple(name for name in self.fields if name != "valid_until") if obj is not None else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(NumberSeries)
class NumberSeriesAdmin(ReadOnlyAdmin):
    """The next number of each series."""

    list_display = ("seller", "kind", "fiscal_year", "next_number", "last_date", "documents")
    list_filter = ("kind", "fiscal_year", text_filter("seller", _("seller")))
    search_fields = ("seller",)

    @admin.display(description=_("documents"))
    def documents(self, series: NumberSeries) -> SafeString:
        wanted = {"seller_code": series.seller, "kind__exact": series.kind, "fiscal_year": series.fiscal_year}
        return list_link("billing.invoice", _("Documents"), **wanted)


@admin.register(MoneyBalance)
class MoneyBalanceAdmin(AccountSearchMixin, ReadOnlyAdmin):
    """Money customers have in hand for their next invoices."""

    list_display = ("account_link", "amount_", "currency")
    list_display_links = ("amount_",)
    list_filter = (text_filter("currency", _("currency")), linked_filter("account", Account, _("account")))
    list_select_related = ("account",)
    search_uuid_fields = ("account_id",)
    search_help_text = _("Account, e-mail or beginning of a key.")
    fields = ("account_link", "amount_", "movements")
    readonly_fields = fields

    account_link = link_column("account", "billing.account", _("account"))
    amount_ = money_column("amount", _("in hand"))

    @admin.display(description=_("last 100 movements"))
    def movements(self, balance: MoneyBalance) -> SafeString:
        rows = [
            (
                f"{entry.at:%Y-%m-%d %H:%M:%S}",
                _figure(entry.amount, balance.currency),
                _figure(entry.balance_after, balance.currency),
                change_link("billing.invoice", entry.invoice_id, entry.invoice),
                reason_text(entry.reason),
            )
            for entry in balance.entries.select_related("invoice").order_by("-at", "-id")[:100]
        ]
        headings = (_("at, UTC"), _("amount"), _("balance after"), _("invoice"), _("reason"))
        return table(headings, rows) if rows else SafeString(EMPTY)
