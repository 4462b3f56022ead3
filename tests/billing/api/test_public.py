"""What is sold, told to everybody."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from rest_framework.test import APIClient

from billing.plans.models import CreditPack, Plan, PlanPrice, ServicePrice

pytestmark = pytest.mark.django_db

D = Decimal


def test_public_plans_with_the_prices_in_force() -> None:
    plan = Plan.objects.create(
        code="credits-starter",
        family="credits",
        name="Credits Starter",
        description="500 credits.",
        visibility=Plan.Visibility.PUBLIC,
        billing_mode="credits",
        period_credits=D(500),
        daily_limit=D(100),
        features=["rag", "legal"],
    )
    Plan.objects.create(code="hidden", family="credits", name="Hidden", billing_mode="credits")
    Plan.objects.create(code="old", family="credits", name="Old", billing_mode="credits", visibility=Plan.Visibility.ARCHIVED)
    for currency, amount, year in (("DZD", 1000, 2024), ("DZD", 2000, 2025), ("DZD", 3000, 2100), ("USD", "9.99", 2025)):
        PlanPrice.objects.create(
            plan=plan, currency=currency, amount=D(amount), effective_from=datetime(year, 1, 1, tzinfo=UTC)
        )

    response = APIClient().get("/api/billing/plans")

    assert (response.status_code, response.headers["cache-control"]) == (200, "public, max-age=60")
    assert response.json() == {
        "results": [
            {
                "code": "credits-starter",
                "family": "credits",
                "name": "Credits Starter",
                "description": "500 credits.",
                "interval": "month",
                "interval_count": 1,
                "renews": True,
                "billing_mode": "credits",
                "period_credits": 500,
                "daily_limit": 100,
                "requests_per_minute": None,
                "tokens_per_minute": None,
                "concurrent_calls": None,
                "trial_days": 0,
                "features": ["rag", "legal"],
                "prices": [
                    {"currency": "DZD", "amount": 2000, "tax_included": True},
                    {"currency": "USD", "amount": 9.99, "tax_included": True},
                ],
            }
        ]
    }


def test_public_packs() -> None:
    CreditPack.objects.create(code="credits-500", name="500 credits", credits=D(500), bonus_credits=D(5), amount=D(5))
    CreditPack.objects.create(code="secret", name="Secret", credits=D(500), amount=D(1), is_public=False)

    body = APIClient().get("/api/billing/packs").json()

    assert body == {
        "results": [
            {
                "code": "credits-500",
                "name": "500 credits",
                "credits": 500,
                "bonus_credits": 5,
                "currency": "USD",
                "amount": 5,
            }
        ]
    }


def test_credit_costs() -> None:
    ServicePrice.objects.create(code="legal", name="Legal assistant", credits=D(3))
    ServicePrice.objects.create(code="api", name="API call", credits=D("0.5"))

    body = APIClient().get("/api/billing/credit-costs").json()

    assert body == {
        "results": [
            {"code": "api", "name": "API call", "credits": 0.5},
            {"code": "legal", "name": "Legal assistant", "credits": 3},
        ]
    }


@pytest.mark.parametrize("path", ["plans", "packs", "credit-costs"])
def test_stale_credentials_do_no_harm(path: str) -> None:
    response = APIClient().get(f"/api/billing/{path}", HTTP_AUTHORIZATION="Bearer iaf_gone")

    assert response.status_code == 200


@pytest.mark.parametrize("path", ["plans", "packs", "credit-costs"])
def test_nothing_to_post(path: str) -> None:
    assert APIClient().post(f"/api/billing/{path}", {}, format="json").status_code == 405
