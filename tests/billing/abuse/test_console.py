"""Abuse in the console: what an operator sees, may do, and is kept from doing by mistake."""

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from billing.accounts.models import Account, AccountLimits, ApiKey, User
from billing.accounts.services import api_key_create
from billing.events.models import Event
from billing.events.services import SYSTEM
from ratelimit.blocks import network_block
from ratelimit.models import AbuseSignal, NetworkBlock
from ratelimit.signals import signal_close, signal_raise

pytestmark = pytest.mark.django_db
LIST = "admin:ratelimit_abusesignal_changelist"
DEEDS = ("warn", "slow-down", "ban", "dismiss")


@pytest.fixture
def console(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


@pytest.fixture
def signal(account: Account) -> AbuseSignal:
    evidence = {"messages": 401, "limit": 400}
    signal_raise(subject=f"account:{account.pk}", signal="messages_a_day", evidence=evidence)
    return AbuseSignal.objects.get()


def text_of(answer: Any) -> str:
    """What a reader of the page sees, on one line."""
    page = re.sub(r"<(script|style).*?</\1>", " ", answer.content.decode(), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def act_address(name: str, *signals: AbuseSignal) -> str:
    wanted = ",".join(str(signal.pk) for signal in signals)
    return f"{reverse('admin:ratelimit_abusesignal_act', args=[name])}?signals={wanted}"


def clerk(*rights: str) -> Client:
    user = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client()
    client.force_login(user)
    return client


# --- Signals ---


def test_open_signals_come_first(console: Client, account: Account) -> None:
    for number, state in enumerate(("open", "acted", "dismissed")):
        signal_raise(subject=f"account:{account.pk}", signal=f"kind-{number}", evidence={})
        if state != "open":
            signal_close(subjects=[f"account:{account.pk}"], signal=f"kind-{number}", state=state, reason="x")

    rows = console.get(reverse(LIST)).context["cl"].result_list

    assert [row.state for row in rows] == ["open", "dismissed", "acted"]


def test_the_page_shows_evidence_account_and_deeds(console: Client, account: Account, signal: AbuseSignal) -> None:
    answer = console.get(reverse("admin:ratelimit_abusesignal_change", args=[signal.pk]))

    page, source = text_of(answer), answer.content.decode()
    assert "figure value limit 400 messages 401" in page
    assert "Warn… · Slow down… · Ban… · Dismiss…" in page
    assert f'href="{reverse("admin:billing_account_change", args=[account.pk])}">account:{account.pk}' in source
    assert act_address("ban", signal) in source


def test_the_list_tells_the_figures(console: Client, account: Account, signal: AbuseSignal) -> None:
    answer = console.get(reverse(LIST))

    assert "limit 400, messages 401" in text_of(answer)


def test_a_signal_about_a_key_leads_to_its_account(console: Client, account: Account) -> None:
    key, _ = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    raised = signal_raise(subject=f"key:{key.pk}", signal="key_networks", evidence={"examples": ["10.0.0.0/24", "10.0.1.0/24"]})
    assert raised is not None

    answer = console.get(reverse("admin:ratelimit_abusesignal_change", args=[raised.id]))

    assert reverse("admin:billing_apikey_change", args=[key.pk]) in answer.content.decode()
    assert reverse("admin:billing_account_change", args=[account.pk]) in answer.content.decode()
    assert "10.0.0.0/24, 10.0.1.0/24" in text_of(answer)


def test_a_signal_about_an_address_offers_to_keep_it_out(console: Client, account: Account) -> None:
    evidence = {"registrations": 10, "accounts": [str(account.pk)]}
    raised = signal_raise(subject="address:203.0.113.9", signal="many_accounts", evidence=evidence)
    assert raised is not None

    answer = console.get(reverse("admin:ratelimit_abusesignal_change", args=[raised.id]))
    form = console.get(reverse("admin:ratelimit_networkblock_add"), {"network": "203.0.113.9", "reason": "many accounts"})

    assert "Dismiss… · Block the network…" in text_of(answer)
    assert "Ban…" not in text_of(answer)
    assert reverse("admin:billing_account_change", args=[account.pk]) in answer.content.decode()
    assert 'value="203.0.113.9"' in form.content.decode()


@pytest.mark.parametrize("name", DEEDS)
def test_every_deed_asks_first(console: Client, account: Account, signal: AbuseSignal, name: str) -> None:
    page = console.get(act_address(name, signal))
    unsaid = console.post(act_address(name, signal), {})

    assert (page.status_code, unsaid.status_code) == (200, 200)
    assert "More messages than the plan allows: limit 400, messages 401" in text_of(page)
    assert account.name in text_of(page)
    signal.refresh_from_db()
    assert signal.state == "open"
    assert not Event.objects.filter(object_type="account").exists()


def test_banning_from_a_signal(console: Client, account: Account, signal: AbuseSignal, operator: User) -> None:
    data = {"reason": "resold", "until_0": "2099-01-02", "until_1": "03:04:05"}

    answer = console.post(act_address("ban", signal), data, follow=True)

    account.refresh_from_db()
    signal.refresh_from_db()
    assert "Banned." in text_of(answer)
    assert account.blocked_until is not None
    assert (account.status, account.status_reason) == ("blocked", "resold")
    assert account.blocked_until.isoformat() == "2099-01-02T03:04:05+00:00"
    assert (signal.state, signal.closed_reason) == ("acted", "banned: resold")
    event = Event.objects.get(kind="account.blocked")
    assert (event.actor_id, event.reason) == (operator.pk, "resold")


def test_slowing_down_from_a_signal(console: Client, account: Account, signal: AbuseSignal) -> None:
    console.post(act_address("slow-down", signal), {"reason": "bursts", "requests_per_minute": "3"})

    limits = AccountLimits.objects.get(account=account)
    signal.refresh_from_db()
    assert (limits.requests_per_minute, limits.reason, limits.until) == (3, "bursts", None)
    assert signal.state == "acted"


def test_slowing_down_without_a_limit_says_so(console: Client, account: Account, signal: AbuseSignal) -> None:
    answer = console.post(act_address("slow-down", signal), {"reason": "bursts"})

    assert "Set at least one limit." in text_of(answer)
    assert not AccountLimits.objects.exists()


def test_warning_from_a_signal(console: Client, account: Account, signal: AbuseSignal) -> None:
    console.post(act_address("warn", signal), {"reason": "bursts", "message": "Please slow down."})

    event = Event.objects.get(kind="account.warned")
    assert (event.account_id, event.after) == (account.pk, {"message": "Please slow down."})


def test_dismissing_from_a_signal(console: Client, signal: AbuseSignal) -> None:
    console.post(act_address("dismiss", signal), {"reason": "fine"})

    signal.refresh_from_db()
    assert (signal.state, signal.closed_reason) == ("dismissed", "fine")


def test_an_end_in_the_past_is_refused(console: Client, account: Account, signal: AbuseSignal) -> None:
    answer = console.post(act_address("ban", signal), {"reason": "resold", "until_0": "2020-01-01", "until_1": "00:00:00"})

    account.refresh_from_db()
    assert "The end must lie in the future." in text_of(answer)
    assert account.status == "active"


def test_the_lists_actions_lead_to_the_same_page(console: Client, signal: AbuseSignal) -> None:
    chosen = {"action": "ban_selected", "_selected_action": [str(signal.pk)]}

    answer = console.post(reverse(LIST), chosen)

    assert answer.status_code == 302
    assert answer["location"] == act_address("ban", signal)


def test_what_is_closed_is_not_acted_on(console: Client, account: Account, signal: AbuseSignal) -> None:
    signal_close(subjects=[signal.subject], state="dismissed", reason="x")

    answer = console.post(act_address("ban", signal), {"reason": "late"}, follow=True)

    account.refresh_from_db()
    assert "There is nothing open to act on." in text_of(answer)
    assert account.status == "active"


@pytest.mark.parametrize(
    ("rights", "allowed"),
    [
        ((), set()),
        (("view_abusesignal", "change_account"), set()),
        (("view_abusesignal", "change_abusesignal"), {"warn", "dismiss"}),
        (("view_abusesignal", "change_abusesignal", "change_account"), set(DEEDS)),
    ],
)
def test_each_deed_needs_its_rights(signal: AbuseSignal, rights: tuple[str, ...], allowed: set[str]) -> None:
    client = clerk(*rights)

    seen = {name for name in DEEDS if client.get(act_address(name, signal)).status_code == 200}
    refused = {name for name in DEEDS if client.post(act_address(name, signal), {}).status_code == 403}

    assert seen == allowed
    assert refused == set(DEEDS) - allowed


def test_there_is_no_other_deed(console: Client, signal: AbuseSignal) -> None:
    assert console.get(act_address("delete", signal)).status_code == 403


# --- Network blocks ---

ADD = "admin:ratelimit_networkblock_add"


def block_data(network: str, **changes: str) -> dict[str, str]:
    return {"network": network, "reason": "bots", "expires_at_0": "", "expires_at_1": ""} | changes


def test_a_network_is_kept_out_with_an_event(console: Client) -> None:
    answer = console.post(reverse(ADD), block_data("203.0.113.7"))

    row = NetworkBlock.objects.get()
    assert answer.status_code == 302
    assert (row.network, row.reason, row.created_by) == ("203.0.113.7/32", "bots", "operator@example.com")
    event = Event.objects.get(kind="network_block.created")
    assert (event.object_id, event.reason) == (str(row.pk), "bots")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("0.0.0.0/0", "Your own address, 127.0.0.1, lies in this network"),
        ("127.0.0.1", "Your own address, 127.0.0.1, lies in this network"),
        ("::ffff:127.0.0.0/104", "Your own address, 127.0.0.1, lies in this network"),
        ("::/0", "::/0 are 340,282,366,920,938,463,463,374,607,431,768,211,456 addresses."),
        ("10.0.0.0/8", "10.0.0.0/8 are 16,777,216 addresses."),
    ],
)
def test_what_may_shut_out_everybody_is_confirmed_first(console: Client, network: str, words: str) -> None:
    asked = console.post(reverse(ADD), block_data(network))
    before = NetworkBlock.objects.count()
    console.post(reverse(ADD), block_data(network, confirmed="on"))

    assert words in text_of(asked)
    assert before == 0
    assert NetworkBlock.objects.count() == 1


def test_the_operators_address_is_the_one_behind_the_proxy(console: Client, settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["127.0.0.0/8"]

    own = console.post(reverse(ADD), block_data("203.0.113.0/24"), headers={"x-forwarded-for": "203.0.113.7"})
    proxy = console.post(reverse(ADD), block_data("127.0.0.1"), headers={"x-forwarded-for": "203.0.113.7"})

    assert "Your own address, 203.0.113.7, lies in this network" in text_of(own)
    assert proxy.status_code == 302


@pytest.mark.parametrize("network", ["", "here", "203.0.113.1/24", "203.0.113.0/33"])
def test_what_is_no_network_is_refused(console: Client, network: str) -> None:
    answer = console.post(reverse(ADD), block_data(network))

    assert answer.status_code == 200
    assert not NetworkBlock.objects.exists()


def test_the_same_network_in_another_spelling_is_refused(console: Client) -> None:
    console.post(reverse(ADD), block_data("203.0.113.7"))

    answer = console.post(reverse(ADD), block_data("203.0.113.7/32"))

    assert answer.status_code == 200
    assert NetworkBlock.objects.count() == 1


def test_prolonging_and_letting_in_again_are_told(console: Client) -> None:
    row = network_block(network="203.0.113.7", reason="bots")
    change = reverse("admin:ratelimit_networkblock_change", args=[row.pk])

    data = {"reason": "worse", "expires_at_0": "2099-01-01", "expires_at_1": "00:00:00"}
    changed = console.post(change, data)
    deleted = console.post(reverse("admin:ratelimit_networkblock_delete", args=[row.pk]), {"post": "yes"})

    assert (changed.status_code, deleted.status_code) == (302, 302)
    assert not NetworkBlock.objects.exists()
    events = Event.objects.filter(object_type="network_block").order_by("id").values_list("kind", flat=True)
    assert list(events) == ["network_block.changed", "network_block.deleted"]


# --- Limits ---


@pytest.fixture
def key(account: Account) -> ApiKey:
    made, _ = api_key_create(account=account, created_by=None, name="main", actor=SYSTEM)
    return made


def test_limits_of_a_key_are_edited_with_a_reason(console: Client, key: ApiKey) -> None:
    target = reverse("admin:billing_apikey_limits", args=[key.pk])
    data = {"requests_per_minute": "5", "daily_credits": "2.5", "allowed_networks": "10.0.0.0/8\r\n\r\n2001:db8::/32\r\n"}

    unsaid = console.post(target, data)
    saved = console.post(target, data | {"reason": "asked for"})
    again = console.get(target)
    page = console.get(reverse("admin:billing_apikey_change", args=[key.pk]))

    key.refresh_from_db()
    assert (unsaid.status_code, saved.status_code) == (200, 302)
    assert (key.requests_per_minute, str(key.daily_credits)) == (5, "2.500000")
    assert key.allowed_networks == ["10.0.0.0/8", "2001:db8::/32"]
    event = Event.objects.get(kind="api_key.limits_changed")
    assert (event.reason, event.actor_label) == ("asked for", "operator@example.com")
    assert "10.0.0.0/8\n2001:db8::/32</textarea>" in again.content.decode()
    assert "requests per minute 5" in text_of(page)
    assert "10.0.0.0/8, 2001:db8::/32" in text_of(page)


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("allowed_networks", "here", "here is not a network."),
        ("allowed_models", "a\0b", "Null characters are not allowed."),
        ("requests_per_minute", "-1", "greater than or equal to 0"),
        ("requests_per_minute", "99999999999", "less than or equal to 2147483647"),
    ],
)
def test_a_wrong_limit_of_a_key_is_named(console: Client, key: ApiKey, field: str, text: str, words: str) -> None:
    data = {field: text, "reason": "x"}

    answer = console.post(reverse("admin:billing_apikey_limits", args=[key.pk]), data)

    assert answer.status_code == 200
    assert words in text_of(answer)
    assert not Event.objects.filter(kind="api_key.limits_changed").exists()


def test_limits_of_a_key_need_the_right_to_change_it(key: ApiKey) -> None:
    client = clerk("view_apikey")

    assert client.get(reverse("admin:billing_apikey_limits", args=[key.pk])).status_code == 403


def test_limits_of_an_account_are_edited_with_an_event(console: Client, account: Account) -> None:
    data = {"account": str(account.pk), "reason": "agreed", "requests_per_minute": "7", "until_0": "", "until_1": ""}

    added = console.post(reverse("admin:billing_accountlimits_add"), data)

    assert added.status_code == 302
    assert AccountLimits.objects.get().requests_per_minute == 7
    event = Event.objects.get(kind="account_limits.created")
    assert (event.account_id, event.after["requests_per_minute"]) == (account.pk, 7)


def account_data(account: Account, initial: int, **limits: str) -> dict[str, str]:
    """What the account's page posts when only its limits are edited."""
    names = ("name", "billing_email", "country", "currency", "language", "time_zone")
    return {
        **{name: getattr(account, name) for name in names},
        "external_id": "",
        "overflow_allowed": "on",
        "limits-TOTAL_FORMS": "1",
        "limits-INITIAL_FORMS": str(initial),
        "limits-0-account": str(account.pk),
        "limits-0-until_0": "",
        "limits-0-until_1": "",
        **{f"limits-0-{name}": value for name, value in limits.items()},
    }


def test_limits_are_edited_on_the_accounts_page(console: Client, account: Account) -> None:
    target = reverse("admin:billing_account_change", args=[account.pk])

    added = console.post(target, account_data(account, 0, requests_per_minute="7", reason="agreed"))
    changed = console.post(target, account_data(account, 1, daily_limit="2.5", reason="less"))
    page = console.get(target)
    removed = console.post(target, account_data(account, 1, daily_limit="2.5", reason="less", DELETE="on"))

    assert [answer.status_code for answer in (added, changed, page, removed)] == [302, 302, 200, 302]
    assert 'name="limits-0-daily_limit" value="2.500000"' in page.content.decode()
    assert not AccountLimits.objects.exists()
    told = Event.objects.filter(kind="account.limits_changed").order_by("id").values_list("reason", "before", "after")
    assert list(told) == [
        ("agreed", {}, {"requests_per_minute": 7}),
        ("less", {"requests_per_minute": 7}, {"daily_limit": "2.5"}),
        ("limits removed", {"daily_limit": "2.5"}, {}),
    ]
    assert set(Event.objects.values_list("actor_label", flat=True)) == {"operator@example.com"}


def test_limits_without_a_limit_or_a_reason_are_refused(console: Client, account: Account) -> None:
    target = reverse("admin:billing_account_change", args=[account.pk])

    no_limit = console.post(target, account_data(account, 0, reason="agreed"))
    no_reason = console.post(target, account_data(account, 0, requests_per_minute="7"))

    assert "Set at least one limit, or delete them all." in text_of(no_limit)
    assert no_reason.status_code == 200
    assert not AccountLimits.objects.exists()


def test_the_menu_has_a_section_for_abuse(console: Client) -> None:
    sections = console.get(reverse("admin:index")).context["app_list"]

    [abuse] = [section for section in sections if section["name"] == "Abuse"]
    assert [entry["object_name"] for entry in abuse["models"]] == ["AbuseSignal", "NetworkBlock", "AccountLimits"]
