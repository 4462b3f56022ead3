"""Reading endpoints and deliveries, always within the account of whoever asks."""

from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from billing.accounts.models import Account
from billing.accounts.selectors import uuid_or_404
from iafactory.common.errors import ApiError

from .models import WebhookDelivery, WebhookEndpoint


def endpoints_of_account(account: Account) -> QuerySet[WebhookEndpoint]:
    """The endpoints of `account`, newest first."""
    return WebhookEndpoint.objects.filter(account=account).order_by("-created_at", "-id")


def endpoint_of_account(*, account: Account, endpoint_id: str | UUID) -> WebhookEndpoint:
    """One endpoint of `account`; ApiError 404 `not_found` for another's, for none and for what is no id."""
    endpoint = WebhookEndpoint.objects.filter(account=account, pk=uuid_or_404(endpoint_id)).select_related("account").first()
    if endpoint is None:
        raise _not_found()
    return endpoint


def deliveries_of_endpoint(
    *, endpoint: WebhookEndpoint, state: str | None = None, event_type: str | None = None
) -> QuerySet[WebhookDelivery]:
    """What was sent, or is to be sent, to `endpoint`, newest first."""
    deliveries = WebhookDelivery.objects.filter(endpoint=endpoint).order_by("-created_at", "-id")
    if state:
        deliveries = deliveries.filter(state=state)
    return deliveries.filter(event_type=event_type) if event_type else deliveries


def delivery_of_endpoint(*, endpoint: WebhookEndpoint, delivery_id: str | UUID) -> WebhookDelivery:
    """One delivery of `endpoint`; ApiError 404 `not_found` otherwise."""
    delivery = WebhookDelivery.objects.filter(endpoint=endpoint, pk=uuid_or_404(delivery_id)).first()
    if delivery is None:
        raise _not_found()
    return delivery


def signing_secrets(endpoint: WebhookEndpoint, at: datetime) -> list[str]:
    """The secrets that sign at `at`: the present one first, the one before while its overlap lasts."""
    found = [endpoint.secret]
    if endpoint.previous_secret and endpoint.previous_secret_until is not None and endpoint.previous_secret_until > at:
        found.append(endpoint.previous_secret)
    return found


def _not_found() -> ApiError:
    return ApiError(404, "not_found", "There is no such object.")
