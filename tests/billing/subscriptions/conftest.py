"""Everything a sale needs, and a clock that tests move."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.invoices.models import SellerProfile
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from billing.plans.models import Plan
from billing.subscriptions.services import subscription_start
from tests.billing.subscriptions.selling import plan_make
from tests.factories import account_make

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def time(db: None) -> Iterator[FrozenDateTimeFactory]:
    """The clock, standing at noon UTC on 31 January 2026."""
    with freeze_time(START) as frozen:
        yield frozen


@pytest.fixture
def shop(time: FrozenDateTimeFactory) -> SellerProfile:
    """What is shipped for selling, and the plan `free`."""
    with catalog_writing() as writer:
        selling_write(writer)
    plan_make("free", None, family="free", interval="none", daily_limit=3)
    return SellerProfile.objects.get()


@pytest.fixture
def customer(shop: SellerProfile) -> Account:
    """An account on `free`, with nothing."""
    account = account_make()
    subscription_start(account=account, plan=Plan.objects.get(code="free"), actor=SYSTEM)
    return account
