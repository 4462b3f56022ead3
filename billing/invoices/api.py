"""`/api/billing/invoices`: what was billed to an account, its documents, and what will be billed next."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from billing.accounts.api import X_ACCOUNT, errors, validated
from billing.accounts.credentials import request_account
from billing.accounts.models import Account
from billing.ledger.serializers import cursor_read
from billing.ledger.usage_api import BillingReadView, CsvRenderer
from iafactory.common.csv_tables import csv_response
from iafactory.common.rendering import MoneyJSONRenderer, encode_json

from . import selectors
from .delivery import invoice_pdf_ensure
from .export import csv_chunks, invoices_after
from .mail import file_name
from .models import Invoice, InvoicePdf
from .serializers import (
    InvoiceDetailSerializer,
    InvoicePageSerializer,
    InvoiceQuerySerializer,
    PdfQuerySerializer,
    UpcomingInvoicesSerializer,
    cursor_write,
    invoice_body,
    invoice_detail,
)

TAG = ["billing"]
_FILTERS = {
    "state": "state",
    "kind": "kind",
    "purpose": "purpose",
    "currency": "currency",
    "subscription_id": "subscription_id",
    "from": "issue_date__gte",
    "to": "issue_date__lte",
}


class PdfRenderer(BaseRenderer):
    """Lets `Accept: application/pdf` be negotiated; the view answers the bytes itself."""

    media_type = "application/pdf"
    format = "pdf"
    charset = None

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        return encode_json(data)


class InvoicesView(BillingReadView):
    renderer_classes = [MoneyJSONRenderer, CsvRenderer]

    @extend_schema(
        operation_id="billing_invoices",
        tags=TAG,
        parameters=[
            X_ACCOUNT,
            InvoiceQuerySerializer,
            OpenApiParameter("format", str, enum=["json", "csv"], description="`csv`: every row as a table, without pages."),
        ],
        responses={
            (200, "application/json"): InvoicePageSerializer,
            (200, "text/csv"): OpenApiTypes.STR,
            **errors(400, 401, 403, 404),
        },
    )
    def get(self, request: Request) -> Any:
        """Issued invoices and credit notes, newest first. As `text/csv` all of them at once."""
        query = validated(InvoiceQuerySerializer, request.query_params)
        wanted = {lookup: query[name] for name, lookup in _FILTERS.items() if name in query}
        invoices = selectors.invoices_of_account(request_account(request)).filter(**wanted).select_related("corrects")
        if request.accepted_renderer.format == CsvRenderer.format:
            return csv_response(request._request, csv_chunks(invoices), file_name="invoices.csv")
        return Response(_page(request, invoices, query))


def _page(request: Request, invoices: QuerySet[Invoice], query: dict[str, Any]) -> dict[str, Any]:
    start = cursor_read(query["cursor"]) if "cursor" in query else None
    page = list(invoices_after(invoices, start)[: query["page_size"] + 1])
    more, page = len(page) > query["page_size"], page[: query["page_size"]]
    cursor = cursor_write(page[-1]) if more else None
    return {
        "results": [invoice_body(invoice) for invoice in page],
        "next": replace_query_param(request.build_absolute_uri(), "cursor", cursor) if cursor else None,
        "next_cursor": cursor,
    }


class InvoicePreviewView(BillingReadView):
    # Subscriptions stand above invoices: the URLconf says who knows what comes next.
    upcoming: Callable[[Account], list[dict[str, Any]]] | None = None

    @extend_schema(
        operation_id="billing_invoices_preview",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: UpcomingInvoicesSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """The invoices that come next if nothing changes: the next period, and use beyond the plan so far."""
        assert self.upcoming is not None
        return Response({"results": self.upcoming(request_account(request))})


class InvoiceView(BillingReadView):
    @extend_schema(
        operation_id="billing_invoice",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: InvoiceDetailSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One document by its number: parties as they were, lines, taxes, credit notes."""
        return Response(invoice_detail(_invoice(request, number)))


class InvoicePdfView(BillingReadView):
    renderer_classes = [PdfRenderer, MoneyJSONRenderer]

    @extend_schema(
        operation_id="billing_invoice_pdf",
        tags=TAG,
        parameters=[X_ACCOUNT, PdfQuerySerializer],
        responses={(200, "application/pdf"): OpenApiTypes.BINARY, **errors(400, 401, 403, 404)},
    )
    def get(self, request: Request, number: str) -> HttpResponse:
        """The document as it was rendered: the same bytes every time; `ETag` is their SHA-256."""
        query = validated(PdfQuerySerializer, request.query_params)
        invoice = _invoice(request, number)
        return pdf_response(invoice, invoice_pdf_ensure(invoice=invoice, language=query.get("language", "")))


def _invoice(request: Request, number: str) -> Invoice:
    # The address of a number may end in a slash too.
    return selectors.invoice_of_account(account=request_account(request), number=number.rstrip("/"))


def pdf_response(invoice: Invoice, pdf: InvoicePdf) -> HttpResponse:
    """A document for the browser's own viewer, under its number."""
    response = HttpResponse(bytes(pdf.content), content_type="application/pdf")
    response["Content-Disposition"] = f'inline; filename="{file_name(invoice)}"'
    response["ETag"] = f'"{pdf.sha256}"'
    return response
