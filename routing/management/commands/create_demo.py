"""`manage.py create_demo`: an operator and a customer with credits and an API key, to try the product with at once."""

import json
import os
import secrets
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from billing.accounts.models import Account, ApiKey, User, email_normalise
from billing.accounts.services import api_key_create, api_key_revoke, email_verify
from billing.accounts.tokens import email_verification_token
from billing.events.services import SYSTEM, event_record
from billing.ledger.models import Lot
from billing.ledger.services import credits_grant
from billing.plans.models import Plan
from billing.subscriptions.onboarding import customer_register
from billing.subscriptions.services import subscription_switch
from iafactory.common import clock
from iafactory.common.crypto import secret_hash
from iafactory.common.errors import ApiError

ADMIN_EMAIL = "admin@iafactory.local"
DEMO_EMAIL = "demo@iafactory.local"
DEMO_PLAN = "payg"
DEMO_CREDITS = Decimal(1000)
KEY_NAME = "Demo key"


class Command(BaseCommand):
    help = (
        "Create an operator and a demo customer with 1,000 credits and an API key. Safe to repeat. Not in production. "
        "DEMO_ADMIN_EMAIL, DEMO_ADMIN_PASSWORD, DEMO_PASSWORD (default: the operator's) and DEMO_API_KEY set what would "
        "otherwise be generated."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one line of JSON and nothing else.")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("A demo account has no place in production; use createsuperuser.")
        try:
            with transaction.atomic():
                result = _demo_create()
        except ApiError as error:
            raise CommandError(error.message) from error
        if options["json"]:
            self.stdout.write(json.dumps(result))
            return
        for name, value in result.items():
            self.stdout.write(f"{name}: {value or '(unchanged, not known here)'}")


def _demo_create() -> dict[str, str | None]:
    """Make what is missing; passwords that no longer are what was given here come back as None."""
    admin_email = email_normalise(os.environ.get("DEMO_ADMIN_EMAIL") or ADMIN_EMAIL)
    admin_password = os.environ.get("DEMO_ADMIN_PASSWORD") or secrets.token_urlsafe(15)
    demo_password = os.environ.get("DEMO_PASSWORD") or admin_password
    admin = User.objects.filter(email=admin_email).first() or _operator_create(admin_email, admin_password)
    demo = User.objects.filter(email=DEMO_EMAIL).first() or _customer_create(demo_password)
    account = Account.objects.get(personal_of=demo)
    credits_grant(
        account_id=account.pk,
        amount=DEMO_CREDITS,
        kind=Lot.Kind.BONUS,
        source="Demo credits",
        reason="Credits to try the product with",
        actor=SYSTEM,
        idempotency_key="demo-credits",
    )
    return {
        "admin_email": admin_email,
        "admin_password": admin_password if admin.is_staff and admin.check_password(admin_password) else None,
        "api_key": _api_key(account, demo, os.environ.get("DEMO_API_KEY") or None),
        "demo_email": DEMO_EMAIL,
        "demo_password": demo_password if demo.check_password(demo_password) else None,
    }


def _operator_create(email: str, password: str) -> User:
    # Registered as everybody is, so that an operator too has a personal account to call models with.
    user = customer_register(email=email, password=password, name="Operator", actor=SYSTEM).user
    user = email_verify(token=email_verification_token(user))
    user.is_staff = user.is_superuser = True
    user.save(update_fields=["is_staff", "is_superuser"])
    event_record(
        kind="user.operator_made",
        object_type="user",
        object_id=user.pk,
        actor=SYSTEM,
        before={"is_staff": False, "is_superuser": False},
        after={"is_staff": True, "is_superuser": True},
        reason="Demo",
    )
    return user


def _customer_create(password: str) -> User:
    registration = customer_register(email=DEMO_EMAIL, password=password, name="Demo", actor=SYSTEM)
    plan = Plan.objects.filter(code=DEMO_PLAN).first()
    if plan is None:
        raise CommandError(f"There is no plan {DEMO_PLAN!r}: run load_catalog first.")
    subscription_switch(account=registration.account, plan=plan, actor=SYSTEM, reason="Demo")
    return email_verify(token=email_verification_token(registration.user))


def _api_key(account: Account, user: User, wanted: str | None) -> str:
    """The secret of the one usable demo key: the wanted one where that is possible, else a new one.

    A wanted key that was revoked stays revoked. Other demo keys end, because nobody can read their secret again.
    """
    now = clock.now()
    demo_keys = list(ApiKey.objects.filter(account=account, name=KEY_NAME, revoked_at__isnull=True))
    current = next((k for k in demo_keys if wanted and k.key_hash == secret_hash(wanted) and k.usable_at(now)), None)
    if current is not None and wanted is not None:
        secret = wanted
    else:
        taken = wanted is not None and ApiKey.objects.filter(key_hash=secret_hash(wanted)).exists()
        current, secret = api_key_create(
            account=account,
            created_by=user,
            name=KEY_NAME,
            scopes=ApiKey.CUSTOMER_SCOPES,
            expires_at=None,
            actor=SYSTEM,
            secret=None if taken else wanted,
        )
    for key in demo_keys:
        if key.pk != current.pk:
            api_key_revoke(key=key, actor=SYSTEM, reason="Replaced by a new demo key")
    return secret
