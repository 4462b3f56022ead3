"""How a customer comes in: user, account, wallet and the plan `free`, all or nothing."""

from dataclasses import dataclass

from django.db import transaction

from billing.accounts.models import Account, User
from billing.accounts.services import email_verification_request, organisation_create, user_actor, user_register
from billing.events.services import Actor
from billing.ledger.models import Wallet
from billing.ledger.services import wallet_open
from billing.plans.models import Plan
from iafactory.common.errors import ApiError

from .models import Subscription
from .services import subscription_start

FIRST_PLAN = "free"


@dataclass(frozen=True, slots=True)
class Registration:
    """What a new customer has."""

    user: User
    account: Account
    wallet: Wallet
    subscription: Subscription


def customer_register(
    *,
    email: str,
    password: str,
    name: str = "",
    language: str = "en",
    actor: Actor | None = None,
    registered_from: str = "",
) -> Registration:
    """Register a customer; after the commit a verification mail is queued, which cannot fail the registration.

    Without `actor` the customer does it for themself, from the address `registered_from`. Raises as `user_register`, and
    ApiError 503 `catalogue_missing` while no plan `free` is loaded.
    """
    with transaction.atomic():
        user, account = user_register(
            email=email, password=password, name=name, language=language, actor=actor, registered_from=registered_from
        )
        plan = Plan.objects.filter(code=FIRST_PLAN).first()
        if plan is None:
            raise ApiError(503, "catalogue_missing", "Registration opens when the plans are loaded.")
        wallet = wallet_open(account=account)
        subscription = subscription_start(account=account, plan=plan, actor=actor or user_actor(user))
        email_verification_request(user=user)
    return Registration(user, account, wallet, subscription)


def team_register(*, user: User, name: str, actor: Actor) -> Account:
    """An account for several people, owned by `user`, with a wallet and the free plan. ApiError 409 `too_many_accounts`,
    503 `catalogue_missing`."""
    with transaction.atomic():
        account = organisation_create(user=user, name=name, actor=actor)
        plan = Plan.objects.filter(code=FIRST_PLAN).first()
        if plan is None:
            raise ApiError(503, "catalogue_missing", "Teams open when the plans are loaded.")
        wallet_open(account=account)
        subscription_start(account=account, plan=plan, actor=actor)
    return account
