"""A seller, tax rules and an account to bill."""

from datetime import UTC, datetime

import pytest

from billing.accounts.models import Account
from billing.invoices.models import SellerProfile
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from tests.factories import account_make

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.fixture
def shipped(db: None) -> SellerProfile:
    """What is shipped: a seller who may not charge tax."""
    with catalog_writing() as writer:
        selling_write(writer)
    return SellerProfile.objects.get()


@pytest.fixture
def seller(shipped: SellerProfile) -> SellerProfile:
    """An Algerian seller registered for tax."""
    shipped.tax_registered = True
    shipped.save()
    return shipped


@pytest.fixture
def account(db: None) -> Account:
    return account_make()
