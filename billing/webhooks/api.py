"""`/api/billing/webhooks*`: a customer's endpoints and what was sent to them. Members read, owners change."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts.api import X_ACCOUNT, SessionView, errors, validated
from billing.accounts.credentials import request_account, request_actor
from billing.accounts.models import Account, Membership
from billing.accounts.selectors import membership_role
from iafactory.common.errors import ApiError

from . import selectors, services
from .catalogue import CATALOGUE
from .models import WebhookDelivery, WebhookEndpoint
from .serializers import (
    DeliveryDetailSerializer,
    DeliveryQuerySerializer,
    DeliverySerializer,
    EndpointChangeSerializer,
    EndpointCreateSerializer,
    EndpointSerializer,
    EndpointWithSecretSerializer,
    EventTypeSerializer,
    ReplayedSerializer,
    ReplaySinceSerializer,
    RotateSerializer,
    endpoint_body,
)


class EventTypesView(SessionView):
    @extend_schema(
        operation_id="webhooks_event_types",
        tags=["webhooks"],
        responses={200: EventTypeSerializer(many=True), **errors(401, 403)},
    )
    def get(self, request: Request) -> Response:
        """The events that endpoints may choose from."""
        listed = [
            {"name": entry.name, "description": entry.description, "fields": sorted(entry.fields)}
            for entry in CATALOGUE.values()
        ]
        return Response(listed)


class EndpointsView(SessionView, GenericAPIView):
    serializer_class = EndpointSerializer
    queryset = WebhookEndpoint.objects.none()

    @extend_schema(
        operation_id="webhooks_list",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        responses={200: EndpointSerializer(many=True), **errors(401, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        """The account's endpoints, newest first, never their secrets."""
        endpoints = selectors.endpoints_of_account(request_account(request))
        return self.get_paginated_response(EndpointSerializer(self.paginate_queryset(endpoints), many=True).data)

    @extend_schema(
        operation_id="webhooks_create",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        request=EndpointCreateSerializer,
        responses={201: EndpointWithSecretSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def post(self, request: Request) -> Response:
        """Register an address for events. Messages are signed (Standard Webhooks) with `secret`, shown in this answer only."""
        endpoint, secret = services.endpoint_create(
            **validated(EndpointCreateSerializer, request.data), account=_owned(request), actor=request_actor(request)
        )
        return Response(endpoint_body(endpoint, secret), status=status.HTTP_201_CREATED)


class EndpointView(SessionView):
    @extend_schema(
        operation_id="webhooks_retrieve",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        responses={200: EndpointSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, endpoint_id: str) -> Response:
        """One endpoint, without its secret."""
        endpoint = selectors.endpoint_of_account(account=request_account(request), endpoint_id=endpoint_id)
        return Response(EndpointSerializer(endpoint).data)

    @extend_schema(
        operation_id="webhooks_change",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        request=EndpointChangeSerializer,
        responses={200: EndpointSerializer, **errors(400, 401, 403, 404, 409)},
    )
    def patch(self, request: Request, endpoint_id: str) -> Response:
        """Change what is given; `is_enabled` switches it off, which cancels what waits, and on again."""
        data = validated(EndpointChangeSerializer, request.data)
        enabled: bool | None = data.pop("is_enabled", None)
        actor = request_actor(request)
        endpoint = selectors.endpoint_of_account(account=_owned(request), endpoint_id=endpoint_id)
        with transaction.atomic():
            endpoint = services.endpoint_change(endpoint=endpoint, actor=actor, **data)
            if enabled is True:
                endpoint = services.endpoint_enable(endpoint=endpoint, actor=actor)
            elif enabled is False:
                by = WebhookEndpoint.DisabledBy.CUSTOMER
                endpoint = services.endpoint_disable(endpoint=endpoint, by=by, actor=actor)
        return Response(EndpointSerializer(endpoint).data)

    @extend_schema(
        operation_id="webhooks_delete",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        responses={204: None, **errors(401, 403, 404)},
    )
    def delete(self, request: Request, endpoint_id: str) -> Response:
        """Forget an endpoint with all its deliveries."""
        endpoint = selectors.endpoint_of_account(account=_owned(request), endpoint_id=endpoint_id)
        services.endpoint_delete(endpoint=endpoint, actor=request_actor(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class RotateSecretView(SessionView):
    @extend_schema(
        operation_id="webhooks_rotate_secret",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        request=RotateSerializer,
        responses={200: EndpointWithSecretSerializer, **errors(400, 401, 403, 404)},
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """A new `secret`, in this answer only. For `overlap_seconds` messages carry a signature by each of the two."""
        data = validated(RotateSerializer, request.data)
        endpoint, secret = services.endpoint_secret_rotate(
            endpoint=selectors.endpoint_of_account(account=_owned(request), endpoint_id=endpoint_id),
            overlap=timedelta(seconds=data["overlap_seconds"]),
            actor=request_actor(request),
        )
        return Response(endpoint_body(endpoint, secret))


class TestView(SessionView):
    @extend_schema(
        operation_id="webhooks_test",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        request=None,
        responses={202: DeliverySerializer, **errors(401, 403, 404, 409, 429)},
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Send a message of the type `webhook.test`; its delivery tells how it went."""
        endpoint = selectors.endpoint_of_account(account=_owned(request), endpoint_id=endpoint_id)
        return Response(DeliverySerializer(services.endpoint_test(endpoint=endpoint)).data, status=status.HTTP_202_ACCEPTED)


class ReplaySinceView(SessionView):
    @extend_schema(
        operation_id="webhooks_replay",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        request=ReplaySinceSerializer,
        responses={202: ReplayedSerializer, **errors(400, 401, 403, 404, 409, 429)},
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Send again what failed or was canceled since an instant and has not arrived otherwise."""
        data = validated(ReplaySinceSerializer, request.data)
        endpoint = selectors.endpoint_of_account(account=_owned(request), endpoint_id=endpoint_id)
        count = services.deliveries_replay(endpoint=endpoint, since=data["since"], actor=request_actor(request))
        return Response({"replayed": count}, status=status.HTTP_202_ACCEPTED)


class DeliveriesView(SessionView, GenericAPIView):
    serializer_class = DeliverySerializer
    queryset = WebhookDelivery.objects.none()

    @extend_schema(
        operation_id="webhooks_deliveries",
        tags=["webhooks"],
        parameters=[X_ACCOUNT, DeliveryQuerySerializer],
        responses={200: DeliverySerializer(many=True), **errors(400, 401, 403, 404)},
    )
    def get(self, request: Request, endpoint_id: str) -> Response:
        """What was sent, or is to be sent, newest first; kept for 30 days."""
        endpoint = selectors.endpoint_of_account(account=request_account(request), endpoint_id=endpoint_id)
        found = selectors.deliveries_of_endpoint(endpoint=endpoint, **validated(DeliveryQuerySerializer, request.query_params))
        return self.get_paginated_response(DeliverySerializer(self.paginate_queryset(found), many=True).data)


class DeliveryView(SessionView):
    @extend_schema(
        operation_id="webhooks_delivery",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        responses={200: DeliveryDetailSerializer, **errors(401, 403, 404)},
    )
    def get(self, request: Request, endpoint_id: str, delivery_id: str) -> Response:
        """One delivery: the message, and each attempt with the first bytes of its answer."""
        endpoint = selectors.endpoint_of_account(account=request_account(request), endpoint_id=endpoint_id)
        delivery = selectors.delivery_of_endpoint(endpoint=endpoint, delivery_id=delivery_id)
        return Response(DeliveryDetailSerializer(delivery).data)


class DeliveryReplayView(SessionView):
    @extend_schema(
        operation_id="webhooks_delivery_replay",
        tags=["webhooks"],
        parameters=[X_ACCOUNT],
        request=None,
        responses={202: DeliverySerializer, **errors(401, 403, 404, 409, 429)},
    )
    def post(self, request: Request, endpoint_id: str, delivery_id: str) -> Response:
        """Send a finished delivery again, with the same body and `webhook-id`, as a delivery of its own."""
        endpoint = selectors.endpoint_of_account(account=_owned(request), endpoint_id=endpoint_id)
        delivery = selectors.delivery_of_endpoint(endpoint=endpoint, delivery_id=delivery_id)
        replay = services.delivery_replay(delivery=delivery, actor=request_actor(request))
        return Response(DeliverySerializer(replay).data, status=status.HTTP_202_ACCEPTED)


def _owned(request: Request) -> Account:
    """The account, of which the user must be an owner: 403 `owner_required`."""
    account = request_account(request)
    user: Any = request.user
    if membership_role(account=account, user=user) != Membership.Role.OWNER:
        raise ApiError(403, "owner_required", "Only an owner of the account may change its webhooks.")
    return account
