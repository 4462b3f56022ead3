"""Operators' keys in the console: made on the operator's page, shown once."""

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.models import Account, ApiKey, User

pytestmark = pytest.mark.django_db


def page_of(user: User) -> str:
    return reverse("admin:billing_user_operator_key", args=[user.pk])


def data(**changes: str) -> dict[str, str]:
    return {"name": "backup", "expires_at_0": "", "expires_at_1": "", "allowed_networks": "192.0.2.0/24"} | changes


def test_a_key_is_made_and_its_secret_shown_once(console: Client, operator: User) -> None:
    answer = console.post(page_of(operator), data())

    key = ApiKey.objects.get()
    secret = answer.context["secret"]
    assert secret in answer.content.decode()
    assert "no-store" in answer["cache-control"]
    assert (key.scopes, key.allowed_networks, key.account.personal_of) == (["admin"], ["192.0.2.0/24"], operator)
    user_page = console.get(reverse("admin:billing_user_change", args=[operator.pk])).content.decode()
    assert page_of(operator) in user_page
    assert secret not in user_page + console.get(reverse("admin:billing_apikey_change", args=[key.pk])).content.decode()


def test_what_is_no_network_is_refused(console: Client, operator: User) -> None:
    answer = console.post(page_of(operator), data(allowed_networks="everywhere"))

    assert answer.status_code == 200
    assert answer.context["form"].errors
    assert not ApiKey.objects.exists()


def test_customers_have_no_such_page(console: Client, account: Account) -> None:
    assert account.personal_of is not None

    assert console.post(page_of(account.personal_of), data()).status_code == 404


def test_the_accounts_page_offers_no_operators_key(console: Client, account: Account) -> None:
    target = reverse("admin:billing_account_new_key", args=[account.pk])

    answer = console.post(target, {"name": "x", "scopes": ["admin"]})

    assert answer.status_code == 200
    assert not ApiKey.objects.exists()


def test_another_operators_key_takes_a_superuser(operator: User) -> None:
    clerk = User.objects.create_user("clerk@example.com", "correct horse battery", is_staff=True)
    clerk.user_permissions.add(Permission.objects.get(codename="add_apikey"))
    client = Client()
    client.force_login(clerk)

    answer = client.post(page_of(operator), data())

    assert "made by themself or by a superuser" in answer.content.decode()
    assert not ApiKey.objects.exists()
