"""`POST /api/payment/webhook/{gateway}`: where payment gateways tell us what happened."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.accounts.api import errors
from iafactory.common import clock
from iafactory.common.client_address import request_client_address

from .receiving import MAX_BODY_BYTES, body_too_large, webhook_receive


class AnyAnswer(BaseContentNegotiation):
    """Gateways accept anything, whatever their headers say."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class GatewayWebhookView(APIView):
    """Open to all: only what the gateway's signature covers is believed, and even that only leads to asking it back."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    content_negotiation_class = AnyAnswer
    gateway = ""

    @extend_schema(
        operation_id="payment_webhook",
        summary="Receive a payment gateway's webhook",
        tags=["payment"],
        auth=[],
        request={"application/json": OpenApiTypes.OBJECT, "application/x-www-form-urlencoded": OpenApiTypes.OBJECT},
        parameters=[OpenApiParameter("token", str, description="PayU only: guards the events that it does not sign.")],
        responses={200: OpenApiResponse(description="Stored; it will be worked."), **errors(400, 404, 413)},
    )
    def post(self, request: Request, gateway: str = "") -> Response:
        """Store and verify; the work is done later. Anything but 200 makes gateways send again."""
        webhook_receive(
            gateway=self.gateway or gateway,
            body=_raw_body(request),
            headers={name.lower(): value for name, value in request.headers.items()},
            token=request.query_params.get("token", ""),
            address=request_client_address(request.META) or None,
            at=clock.now(),
        )
        return Response({"received": True})


def _raw_body(request: Request) -> bytes:
    """The bytes that arrived, read before any parser; raises ApiError 413 before reading too many."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise body_too_large()
    body: bytes = request._request.body
    return body
