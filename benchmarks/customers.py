"""Customers and an operator for a benchmark, made as the product makes them, inside the running product's database.

python -m benchmarks.customers customers 16     prints the API keys of so many new customers with credits
python -m benchmarks.customers operator         prints a session of the console
"""

import json
import secrets
import sys
from decimal import Decimal

CREDITS = Decimal(10_000_000)


def main() -> None:
    import django

    django.setup()
    match sys.argv[1:]:
        case ["customers", count]:
            print(json.dumps(customers_make(int(count))))
        case ["operator"]:
            print(json.dumps(operator_session()))
        case _:
            sys.exit(__doc__)


def customers_make(count: int) -> list[str]:
    """A key of each. Nothing of what is sold or spent is limited but by their credits."""
    from billing.accounts.services import api_key_create
    from billing.events.services import SYSTEM
    from billing.ledger.models import Lot
    from billing.ledger.services import credits_grant
    from billing.plans.models import Plan
    from billing.subscriptions.onboarding import customer_register
    from billing.subscriptions.services import subscription_switch
    from routing.models import Budget

    Budget.objects.update(daily_limit_usd=None, monthly_limit_usd=None)
    plan = Plan.objects.get(code="payg")
    run, keys = secrets.token_hex(4), []
    for number in range(count):
        account = customer_register(
            email=f"bench-{run}-{number}@example.com",
            password=secrets.token_urlsafe(12),
            name=f"Bench {number}",
            actor=SYSTEM,
        ).account
        subscription_switch(account=account, plan=plan, actor=SYSTEM)
        credits_grant(
            account_id=account.pk,
            amount=CREDITS,
            kind=Lot.Kind.PURCHASE,
            source="bench",
            reason="bench",
            actor=SYSTEM,
            idempotency_key=f"bench-{account.pk}",
        )
        keys.append(api_key_create(account=account, created_by=None, name="bench", actor=SYSTEM)[1])
    return keys


def operator_session() -> str:
    """The key of a session in which an operator with every right is logged in."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from billing.accounts.models import User

    operator, _ = User.objects.get_or_create(email="scale@example.com", defaults={"is_staff": True, "is_superuser": True})
    session = SessionStore()
    session[SESSION_KEY] = str(operator.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = operator.get_session_auth_hash()
    session.save()
    return str(session.session_key)


if __name__ == "__main__":
    main()
