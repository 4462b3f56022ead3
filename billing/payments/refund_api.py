"""`POST /api/payment/invoices/{number}/refund`: operators send money back."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import AccountsView, errors, validated
from billing.accounts.authentication import OperatorAuthentication
from billing.accounts.credentials import request_operator
from billing.accounts.permissions import MayOperate
from billing.accounts.serializers import StrictCharField
from billing.invoices.models import Invoice
from billing.invoices.serializers import MoneyField
from billing.ledger.serializers import AmountField, CreditsField
from iafactory.common.errors import ApiError
from iafactory.common.money import plain

from .models import Payment, Refund
from .refunds import refund_request, refundables, waits_for_approval

_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="A repetition with the same key answers the refund that the first one asked for, as it stands.",
)


class RefundAskSerializer(serializers.Serializer):
    amount = AmountField(required=False, allow_null=True, default=None, help_text="By default all that can go back.")
    reason = StrictCharField(max_length=200, help_text="Stands on the credit note.")
    payment = StrictCharField(
        max_length=40, required=False, default="", allow_blank=True, help_text="Its reference, where several paid the invoice."
    )
    by_hand = serializers.BooleanField(
        default=False, help_text="You send the money by other means and confirm it in the console."
    )


class RefundSerializer(serializers.Serializer):
    """Money of a payment that goes back."""

    id = serializers.UUIDField()
    reference = serializers.CharField()
    state = serializers.ChoiceField(choices=Refund.State.choices)
    payment = serializers.CharField(help_text="The payment's reference.")
    invoice = serializers.CharField()
    amount = MoneyField()
    currency = serializers.CharField()
    credits = CreditsField(help_text="Taken out of the account meanwhile; a failure restores them.")
    by_hand = serializers.BooleanField(help_text="An operator sends the money and confirms it in the console.")
    waits_for_approval = serializers.BooleanField(help_text="It is above the limit: another operator approves it first.")


def _payment(invoice: Invoice, reference: str) -> Payment:
    """The payment of an invoice that is named, or else the latest of which something can go back."""
    paid = Payment.objects.filter(allocations__invoice=invoice).order_by("-paid_at")
    if reference:
        found = paid.filter(reference=reference).first()
    else:
        found = next(
            (one for one in paid if any(part.amount > 0 and part.invoice == invoice for part in refundables(one))), None
        )
        found = found or paid.first()
    if found is None:
        raise ApiError(409, "payment_not_refundable", "No payment paid this invoice.")
    return found


class InvoiceRefundView(AccountsView):
    authentication_classes = [OperatorAuthentication]
    permission_classes = [MayOperate]
    operator_permission = "billing.add_refund"

    @extend_schema(
        operation_id="payment_invoice_refund",
        tags=["operators"],
        request=RefundAskSerializer,
        parameters=[_IDEMPOTENCY_KEY],
        responses={201: RefundSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Send back what was paid of an invoice, wholly or in part: at most the share of its credits that nobody used.

        The gateway is asked at once; the answer says `requested`, events tell the rest. For operators.
        """
        data = validated(RefundAskSerializer, request.data)
        invoice = Invoice.objects.filter(number=number, kind=Invoice.Kind.INVOICE).first()
        if invoice is None:
            raise ApiError(404, "not_found", "There is no such invoice.")
        key = request.META.get("HTTP_IDEMPOTENCY_KEY", "").strip()[:255]
        refund = _known(invoice, key) or refund_request(
            payment=_payment(invoice, data["payment"]),
            invoice=invoice,
            amount=data["amount"],
            reason=data["reason"],
            by_hand=data["by_hand"],
            actor=request_operator(request),
            idempotency_key=key or None,
        )
        return Response(_body(refund, invoice), status=status.HTTP_201_CREATED)


def _known(invoice: Invoice, key: str) -> Refund | None:
    """The refund that a request with this key asked for before: its payment may have nothing left since."""
    if not key:
        return None
    return Refund.objects.filter(facts__invoice=str(invoice.pk), facts__idempotency_key=key).select_related("payment").first()


def _body(refund: Refund, invoice: Invoice) -> dict[str, Any]:
    return {
        "id": str(refund.pk),
        "reference": refund.reference,
        "state": refund.state,
        "payment": refund.payment.reference,
        "invoice": invoice.number,
        "amount": plain(refund.amount),
        "currency": refund.currency,
        "credits": plain(refund.credits),
        "by_hand": refund.by_hand,
        "waits_for_approval": waits_for_approval(refund),
    }
