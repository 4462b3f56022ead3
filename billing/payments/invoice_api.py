"""`/api/payment/invoices/{number}/…`: paying an invoice that was issued. Somebody else's invoice is nobody's: 404."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.invoices.models import Invoice
from billing.invoices.paying import pay_link
from billing.invoices.selectors import invoice_of_account
from billing.ledger.serializers import instant_text
from billing.ledger.usage_api import BillingReadView
from billing.subscriptions.api import owned_account
from iafactory.common.money import ZERO, plain

from .api import agreement_of, idempotency_key_of
from .models import Payment
from .open_invoices import PayWish, invoice_order, invoice_retry, payable_require
from .serializers import OrderResultSerializer, OrderSerializer, PayLinkSerializer, payment_body

TAG = ["payment"]


class InvoiceOrderView(SessionView):
    @extend_schema(
        operation_id="payment_invoice_order",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=OrderSerializer,
        responses={201: OrderResultSerializer, **errors(400, 401, 403, 404, 409, 422, 503)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Pay an open invoice: its open checkout, or a new one. Money that the account brought before is counted first."""
        invoice, wish = _asked(request, number)
        payment = invoice_order(
            invoice=invoice, wish=wish, actor=request_actor(request), idempotency_key=idempotency_key_of(request)
        )
        return _answer(invoice, payment)


class InvoiceRetryView(SessionView):
    @extend_schema(
        operation_id="payment_invoice_retry",
        tags=TAG,
        parameters=[X_ACCOUNT],
        request=OrderSerializer,
        responses={201: OrderResultSerializer, **errors(400, 401, 403, 404, 409, 422, 503)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Pay an open invoice after an attempt that came to nothing, perhaps in another way; an open one is closed first."""
        invoice, wish = _asked(request, number)
        payment = invoice_retry(
            invoice=invoice, wish=wish, actor=request_actor(request), idempotency_key=idempotency_key_of(request)
        )
        return _answer(invoice, payment)


class InvoiceLinkView(BillingReadView):
    @extend_schema(
        operation_id="payment_invoice_link",
        tags=TAG,
        parameters=[X_ACCOUNT],
        responses={200: PayLinkSerializer, **errors(401, 403, 404, 409)},
    )
    def get(self, request: Request, number: str) -> Response:
        """A link to pay an open invoice without signing in, for 30 days: whoever holds it sees number and amount, no more."""
        invoice = invoice_of_account(account=request_account(request), number=number)
        payable_require(invoice)
        link = pay_link(invoice)
        return Response(
            {
                "url": link.url,
                "expires_at": instant_text(link.expires_at),
                "amount": plain(invoice.due),
                "currency": invoice.currency,
            }
        )


def _asked(request: Request, number: str) -> tuple[Invoice, PayWish]:
    data = validated(OrderSerializer, request.data)
    account = owned_account(request)
    invoice = invoice_of_account(account=account, number=number)
    return invoice, PayWish(gateway=data["gateway"], method=data["method"], agreement=agreement_of(account, data))


def _answer(invoice: Invoice, payment: Payment | None) -> Response:
    invoice.refresh_from_db()
    body: dict[str, Any] = {
        "invoice": invoice.number,
        "state": invoice.state,
        "payment": payment_body(payment) if payment else None,
        "checkout_url": (payment.checkout_url or None) if payment else None,
        "amount": plain(payment.amount) if payment else plain(ZERO),
        "currency": invoice.currency,
    }
    return Response(body, status=status.HTTP_201_CREATED)
