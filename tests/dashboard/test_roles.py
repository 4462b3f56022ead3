"""Who may what: every page and every action of the console, tried by each role, against one table."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.db import models
from django.test import Client
from django.urls import NoReverseMatch, get_resolver, reverse
from rest_framework.test import APIClient

from billing.accounts.models import Account, ApiKey, User
from billing.accounts.tokens import session_tokens
from billing.events.admin import AuditedModelAdmin
from billing.events.models import Event
from billing.invoices.models import Invoice
from billing.models import Coupon
from dashboard.roles import FINANCE, MAY, OWNER, READ_ONLY, ROLES, SUPPORT, right, roles_sync
from iafactory.common.admin import ReadOnlyAdmin

from .conftest import PASSWORD

Populate = Callable[[int, int], None]

# v: its list and pages open; a: add; c: change; d: delete what no history holds.
PAGES = """
"""


def member(role: str) -> User:
    user = User.objects.create_user(f"{role.lower()}@example.com", PASSWORD, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def browser(role: str) -> Client:
    client = Client()
    client.force_login(member(role))
    return client


def address(model: type[models.Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def letters(client: Client, model: type[models.Model], row: models.Model) -> str:
    """What the console lets this browser do with `model`, as the table spells it."""
    changelist, page = client.get(address(model, "changelist")), client.get(address(model, "change", row.pk))
    add = client.get(address(model, "add"))
    assert {changelist.status_code, page.status_code, add.status_code} <= {200, 403}
    found = "v" if changelist.status_code == 200 else ""
    found += "a" if add.status_code == 200 else ""
    found += "c" if page.status_code == 200 and page.context["has_change_permission"] else ""
    found += "d" if page.status_code == 200 and page.context["has_delete_permission"] else ""
    return found or "-"


def test_dump(populate):
    populate(1, 1)
    users = {r: browser(r) for r in ROLES}
    out = []
    for model in sorted(admin.site._registry, key=lambda m: m._meta.label_lower):
        row = (
            model._default_manager.last()
            if model._meta.label_lower != "billing.user"
            else User.objects.filter(is_staff=False).first()
        )
        out.append(f"{model._meta.label_lower:32}" + "".join(f"{letters(c, model, row):10}" for c in users.values()))
    open("/tmp/table.txt", "w").write("\n".join(out))
