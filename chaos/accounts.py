"""Who calls during a run: accounts with credits, one on a quota, one nearly out of credits, one that repeats itself.

Rows are written by the services the product uses, in this process. Import it after `django.setup()`.
"""

import secrets
from decimal import Decimal
from uuid import UUID

from billing.accounts.models import Account, ApiKey
from billing.accounts.services import api_key_create
from billing.accounts.tokens import api_key_secret
from billing.events.services import SYSTEM
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant
from billing.plans.models import Plan
from billing.subscriptions.onboarding import customer_register
from billing.subscriptions.services import subscription_switch
from iafactory.common.crypto import secret_hash
from routing.models import PlanRouting

from .load import Customer, OnceKey

QUOTA_PLAN = "chaos-quota"
WHOLE_PLAN = "chaos-whole"
RICH_CREDITS = 1000
POOR_CREDITS = 4
TOP_UP_CREDITS = 2


def plans_make(*, daily_quota: int) -> None:
    """A plan with a quota that a run reaches, and one on which every small call holds and costs exactly one credit."""
    shared = {"strategy": "split", "default_models": {"groq": "llama-3.3-70b"}, "models_allowed": ["*"]}
    quota = Plan.objects.create(
        code=QUOTA_PLAN, family="chaos", name="Quota", interval="none", billing_mode="quota", daily_limit=daily_quota
    )
    PlanRouting.objects.create(plan=quota, split={"groq": 1}, fallback=["openrouter", "google"], **shared)
    whole = Plan.objects.create(
        code=WHOLE_PLAN, family="chaos", name="Whole", interval="none", billing_mode="credits", rounding="whole"
    )
    PlanRouting.objects.create(plan=whole, split={"groq": 1}, fallback=["openrouter", "google"], **shared)


def customer_make(name: str, *, plan: str, credits: int) -> Customer:
    """An account on `plan` with bought credits and an API key."""
    account = customer_register(
        email=f"{name}@chaos.example.com",
        password=secrets.token_urlsafe(12),
        name=name,
        actor=SYSTEM,
    ).account
    subscription_switch(account=account, plan=Plan.objects.get(code=plan), actor=SYSTEM)
    if credits:
        top_up(str(account.pk), credits, key=f"chaos-first-{name}")
    _, secret = api_key_create(account=account, created_by=None, name=name, actor=SYSTEM)
    return Customer(name, str(account.pk), secret, charged=plan != QUOTA_PLAN)


def top_up(account_id: str, credits: int, *, key: str) -> None:
    """Bought credits, once per `key`."""
    credits_grant(
        account_id=UUID(account_id),
        amount=Decimal(credits),
        kind=Lot.Kind.PURCHASE,
        source="chaos",
        reason="chaos",
        actor=SYSTEM,
        idempotency_key=key,
    )


def once_keys_make(customer: Customer, count: int) -> list[OnceKey]:
    """Idempotency keys, each with an API key of its own: usage rows name the API key, so the books tell repetitions apart."""
    account = Account.objects.get(pk=customer.account_id)
    key_secrets = [api_key_secret() for _ in range(count)]
    rows = [
        ApiKey(
            account=account,
            name=f"repetition {number}",
            prefix=secret[:10],
            last_four=secret[-4:],
            key_hash=secret_hash(secret),
            scopes=list(ApiKey.CUSTOMER_SCOPES),
        )
        for number, secret in enumerate(key_secrets)
    ]
    ApiKey.objects.bulk_create(rows)
    return [
        OnceKey(f"repetition-{number}", str(row.pk), Customer(customer.name, customer.account_id, secret))
        for number, (row, secret) in enumerate(zip(rows, key_secrets, strict=True))
    ]
