"""The installation's own limits: one row, set in the console, on record."""

import pytest
from django.test import Client
from django.urls import reverse

from billing.events.models import Event
from routing.models import GatewayLimits

pytestmark = pytest.mark.django_db

ADD = reverse("admin:routing_gatewaylimits_add")


def test_limits_are_set_once_and_edited_after(console: Client) -> None:
    added = console.post(ADD, {"requests_per_minute": "600", "concurrent_calls": "", "queue_seconds": "5"})
    again = console.get(ADD)
    changed = console.post(
        reverse("admin:routing_gatewaylimits_change", args=[1]),
        {"requests_per_minute": "900", "concurrent_calls": "50", "queue_seconds": "0"},
    )

    row = GatewayLimits.objects.get()
    assert (added.status_code, again.status_code, changed.status_code) == (302, 403, 302)
    assert (row.requests_per_minute, row.concurrent_calls, row.queue_seconds) == (900, 50, 0)
    assert sorted(Event.objects.values_list("kind", flat=True)) == ["gateway_limits.created", "gateway_limits.edited"]
