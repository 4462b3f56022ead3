"""Invoices: what was billed, what comes next, the documents."""

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_safe

from .session import panel_page

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
    """One document by its number: parties, lines, taxes."""
    return render(request, "panel/invoice.html", {"invoice": request.panel.api.get("billing-invoice", number)})


@require_safe
@panel_page
def invoice_pdf(request: Any, number: str) -> HttpResponseBase:
    """The document itself, to the byte."""
    pdf: HttpResponseBase = request.panel.api.get("billing-invoice-pdf", number, accept="application/pdf")
    return pdf
