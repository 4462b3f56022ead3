"""Reading subscriptions, always of one account."""

from uuid import UUID

from django.db.models import QuerySet

from billing.accounts.models import Account
from billing.accounts.selectors import uuid_or_404
from iafactory.common.errors import ApiError

from .models import Subscription


def subscription_live(account: Account) -> Subscription | None:
    """The account's one live subscription with its plan and price; None without any."""
    return Subscription.objects.select_related("plan", "price").filter(account=account, state__in=Subscription.LIVE).first()


def subscriptions_of_account(account: Account) -> QuerySet[Subscription]:
    """Every subscription the account ever had, newest first."""
    return Subscription.objects.select_related("plan", "price").filter(account=account).order_by("-created_at")


def subscription_of_account(*, account: Account, subscription_id: str | UUID) -> Subscription:
    """One subscription of `account`; ApiError 404 `not_found` for another's, for none and for what is no id."""
    subscription = subscriptions_of_account(account).filter(pk=uuid_or_404(subscription_id)).first()
    if subscription is None:
        raise ApiError(404, "not_found", "There is no such object.")
    return subscription
