"""Accounts for the marketplace's users, and the plans they have there.

Lock order: marketplace account, then what subscriptions lock. Events are written in the transaction of the change.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction

from billing.accounts.models import Account
from billing.events.models import Event
from billing.events.services import Actor, event_record
from billing.ledger.services import wallet_open
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from billing.subscriptions.selectors import subscription_live
from billing.subscriptions.services import subscription_switch
from iafactory.common.errors import ApiError

from .models import Marketplace, MarketplaceAccount, MarketplacePlan, subscription_normalise

DEFAULT_PLAN = "free"
# Calls that were on their way when a subscription changed still name the one before.
STRAGGLERS = timedelta(seconds=60)
# The system may start a plan without a payment here: the marketplace collects it.
RAPIDAPI = Actor(Event.ActorKind.SYSTEM, label="RapidAPI")


def account_follow(*, external_user: str, subscription: str, now: datetime) -> MarketplaceAccount:
    """The account of one user of the marketplace, made at first sight, on the plan that `subscription` stands for.

    Any number of calls at once make one account and one change of plan. A call that names the subscription before, within
    `STRAGGLERS` of a change, changes nothing. Raises ApiError 503 `catalogue_missing` while no plan `free` is loaded.
    """
    subscription = subscription_normalise(subscription)
    found = MarketplaceAccount.objects.filter(marketplace=Marketplace.RAPIDAPI, external_user=external_user).first()
    if found is None:
        found = _provision(external_user, subscription, now)
    with transaction.atomic():
        row = MarketplaceAccount.objects.select_for_update(no_key=True).get(pk=found.pk)
        # A call that was on its way when its subscription stopped being that.
        if subscription == row.previous_subscription and row.subscription_since > now - STRAGGLERS:
            return row
        live = subscription_live(row.account)
        plan = _plan_for(subscription, live)
        if row.subscription != subscription:
            event_record(
                kind="marketplace_account.subscription_changed",
                object_type="marketplace_account",
                object_id=row.pk,
                account_id=row.account_id,
                actor=RAPIDAPI,
                before={"subscription": row.subscription},
                after={"subscription": subscription, "plan": plan.code},
            )
            row.previous_subscription, row.subscription, row.subscription_since = row.subscription, subscription, now
            row.save(update_fields=["previous_subscription", "subscription", "subscription_since"])
        if live is None or live.plan_id != plan.pk:
            _switch(row.account, plan, subscription)
    return row


def _provision(external_user: str, subscription: str, now: datetime) -> MarketplaceAccount:
    try:
        with transaction.atomic():
            account = Account.objects.create(
                kind=Account.Kind.ORGANISATION,
                name=f"RapidAPI {external_user}"[:150],
                currency="USD",
                time_zone=settings.DEFAULT_ACCOUNT_TIME_ZONE,
            )
            # The unique name lets one of many first calls through; the others find what it made.
            row = MarketplaceAccount.objects.create(
                external_user=external_user, account=account, subscription=subscription, subscription_since=now
            )
            wallet_open(account=account)
            event_record(
                kind="account.created",
                object_type="account",
                object_id=account.pk,
                account_id=account.pk,
                actor=RAPIDAPI,
                after={"name": account.name, "kind": account.kind, "marketplace": row.marketplace, "user": external_user},
            )
            _switch(account, _plan_for(subscription, None), subscription)
        return row
    except IntegrityError as error:
        if "marketplaceaccount_user_unique" not in str(error):
            raise
    return MarketplaceAccount.objects.get(marketplace=Marketplace.RAPIDAPI, external_user=external_user)


def _plan_for(subscription: str, live: Subscription | None) -> Plan:
    """The plan a subscription stands for. An archived one keeps those who have it and takes nobody new."""
    mapped = MarketplacePlan.objects.select_related("plan").filter(marketplace=Marketplace.RAPIDAPI, subscription=subscription)
    for found in mapped:
        if found.plan.visibility != Plan.Visibility.ARCHIVED or (live is not None and live.plan_id == found.plan_id):
            return found.plan
    plan = Plan.objects.filter(code=DEFAULT_PLAN).first()
    if plan is None:
        raise ApiError(503, "catalogue_missing", "Registration opens when the plans are loaded.")
    return plan


def _switch(account: Account, plan: Plan, subscription: str) -> None:
    reason = f"RapidAPI subscription {subscription or 'none'}"
    switched = subscription_switch(account=account, plan=plan, actor=RAPIDAPI, reason=reason)
    if switched.price_id is not None:
        # Paid at the marketplace: what costs nothing here is renewed without an invoice.
        Subscription.objects.filter(pk=switched.pk).update(price=None)
