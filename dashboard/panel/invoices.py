"""Invoices: what was billed, what comes next, the documents."""

import secrets
from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from iafactory.common.errors import ApiError

from .buying import attempt_key, go_to_payment, way_chosen, ways_to_pay
from .session import done, panel_page, refused

PAGE_SIZE = 50


@require_safe
@panel_page
def invoices(request: Any) -> HttpResponseBase:
    """Issued invoices and credit notes, newest first, and those that come next; `format=csv` for all of them."""
    api = request.panel.api
    if request.GET.get("format") == "csv":
        table: HttpResponseBase = api.get("billing-invoices", accept="text/csv", format="csv")
        return table
    page = api.get("billing-invoices", page_size=PAGE_SIZE, cursor=request.GET.get("cursor", ""))
    upcoming = api.get("billing-invoices-preview")["results"]
    return render(request, "panel/invoices.html", {"page": page, "upcoming": upcoming})


@require_safe
@panel_page
def invoice(request: Any, number: str) -> HttpResponseBase:
    """One document by its number: parties, lines, taxes; what is due can be paid here."""
    found = request.panel.api.get("billing-invoice", number)
    context = {"invoice": found, "ways": [], "attempt": secrets.token_hex(16)}
    if found["amount_due"] and request.panel.is_owner:
        context["ways"] = ways_to_pay(request)
    return render(request, "panel/invoice.html", context)


@require_POST
@panel_page
def invoice_pay(request: Any, number: str) -> HttpResponseBase:
    """Pay what is due of an invoice in the way that was chosen."""
    api = request.panel.api
    way = way_chosen(request, ways_to_pay(request))
    try:
        opened = api.post("payment-invoice-order", number, data=way, idempotency_key=attempt_key(request))["payment"]
    except ApiError as error:
        return refused(request, error, "panel:invoice", number)
    if opened:
        return go_to_payment(opened)
    return done(request, _("The invoice is paid."), "panel:invoice", number)


@require_safe
@panel_page
def invoice_pdf(request: Any, number: str) -> HttpResponseBase:
    """The document itself, to the byte."""
    pdf: HttpResponseBase = request.panel.api.get("billing-invoice-pdf", number, accept="application/pdf")
    return pdf
