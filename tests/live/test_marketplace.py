"""RapidAPI's users call through its proxy, each with an account of their own; nobody else comes in that way."""

import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from billing.accounts.models import Account
from billing.accounts.services import account_block
from billing.events.services import SYSTEM
from billing.ledger.models import UsageRecord
from billing.marketplace.models import MarketplaceAccount, MarketplacePlan
from billing.plans.models import Plan
from billing.subscriptions.models import Subscription
from tests.live.conftest import Live, free_port, seconds_until, soonest, start_web, wait_until

SECRET = "0d6f2c9a-1b7e-4f0a-9d55-71a0cafe1234"
NEXT_SECRET = "7be1f0de-55aa-4b3c-8a11-0123456789ab"
CHAT = "/v1/chat/completions"
OWN = "/api/v2/chat"
GOOD: dict[str, Any] = {"model": "llama-3.3-70b", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def door(live_servers: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A web process that knows the marketplace's secrets."""
    log = tmp_path_factory.mktemp("marketplace") / "web.log"
    port = free_port()
    secrets = f"{SECRET},{NEXT_SECRET}"
    web: subprocess.Popen[bytes] = start_web(port, live_servers.simulator_url, log, RAPIDAPI_PROXY_SECRETS=secrets)
    try:
        yield Live(f"http://127.0.0.1:{port}", live_servers.simulator_url, web)
    finally:
        web.send_signal(signal.SIGTERM)
        web.wait(60)


@pytest.fixture
def user(live: Live) -> str:
    """A user of the marketplace whom we have never seen."""
    return f"user-{uuid.uuid4()}"


def through(user: str, subscription: str = "BASIC", secret: str = SECRET) -> dict[str, str]:
    return {"x-rapidapi-proxy-secret": secret, "x-rapidapi-user": user, "x-rapidapi-subscription": subscription}


Call = Callable[..., httpx2.Response]


@pytest.fixture
def call(door: Live, live: Live) -> Call:
    def chat(headers: dict[str, str], path: str = CHAT, **fields: Any) -> httpx2.Response:
        return door.post(path, None, json=GOOD | fields, headers=headers)

    return chat


def account_of(user: str) -> Account:
    return MarketplaceAccount.objects.get(external_user=user).account


def error(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("path", [CHAT, OWN])
def test_a_user_of_the_marketplace_calls_without_key_or_token(call: Call, user: str, path: str) -> None:
    answer = call(through(user), path)

    account = account_of(user)
    assert answer.status_code == 200
    [usage] = UsageRecord.objects.filter(account=account)
    assert (usage.end, usage.plan, usage.api_key_id, usage.endpoint) == ("complete", "free", None, path)
    assert Subscription.objects.get(account=account).plan.code == "free"


def test_the_accounts_own_limits_apply(call: Call, user: str) -> None:
    statuses = [call(through(user)).status_code for _ in range(3)]

    fourth = call(through(user))

    assert statuses == [200, 200, 200]
    assert error(fourth) == (429, "quota_exceeded")
    assert call(through(f"{user}-other")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/balance", "/api/v2/models", "/api/v2/usage/today"])
def test_reading_works_too(door: Live, user: str, path: str) -> None:
    answer = httpx2.get(f"{door.url}{path}", headers=through(user), timeout=30)

    assert answer.status_code == 200


@pytest.mark.parametrize("path", [CHAT, OWN, "/v1/messages"])
@pytest.mark.parametrize(
    "change",
    [
        {"x-rapidapi-proxy-secret": "wrong"},
        {"x-rapidapi-proxy-secret": ""},
        {"x-rapidapi-proxy-secret": SECRET[:-1]},
        {"x-rapidapi-proxy-secret": None},
        {"x-rapidapi-proxy-secret": None, "x-rapidapi-subscription": None},
        {"x-rapidapi-proxy-secret": None, "x-rapidapi-user": None},
        {"x-rapidapi-proxy-secret": "wrong", "x-rapidapi-user": None},
    ],
    ids=str,
)
def test_without_a_right_secret_such_headers_open_nothing(
    call: Call, user: str, path: str, change: dict[str, str | None]
) -> None:
    headers = {name: value for name, value in (through(user) | change).items() if value is not None}

    answer = call(headers, path)

    assert answer.status_code == 401
    assert "marketplace_refused" in answer.text
    assert (SECRET in answer.text, user in answer.text) == (False, False)
    assert not MarketplaceAccount.objects.filter(external_user=user).exists()


def test_a_key_does_not_help_a_wrong_secret(door: Live, live: Live, user: str) -> None:
    customer = live.customer()

    answer = door.post(CHAT, customer, json=GOOD, headers=through(user, secret="wrong"))

    assert error(answer) == (401, "marketplace_refused")
    assert UsageRecord.objects.filter(account=customer.account).count() == 0


def test_a_key_of_ours_beside_the_secret_is_refused_and_a_foreign_one_ignored(
    door: Live, live: Live, call: Call, user: str
) -> None:
    customer = live.customer()

    bearer = door.post(CHAT, customer, json=GOOD, headers=through(user))
    header = call(through(user) | {"x-api-key": customer.secret})
    token = call(through(user) | {"authorization": "Bearer e30.e30.e30"})
    foreign = call(through(user) | {"authorization": "Bearer sk-dummy"})

    assert [error(answer) for answer in (bearer, header, token)] == [(400, "two_credentials")] * 3
    assert foreign.status_code == 200
    assert UsageRecord.objects.filter(account=customer.account).count() == 0


def test_a_door_without_secrets_is_closed(live: Live, user: str) -> None:
    answers = [live.post(CHAT, None, json=GOOD, headers=through(user, secret=secret)) for secret in ("", SECRET)]

    assert [error(answer) for answer in answers] == [(401, "marketplace_refused")] * 2
    assert not MarketplaceAccount.objects.filter(external_user=user).exists()


def test_both_secrets_of_a_rotation_open(call: Call, user: str) -> None:
    assert [call(through(user, secret=secret)).status_code for secret in (SECRET, NEXT_SECRET)] == [200, 200]


@pytest.mark.parametrize("name", ["", "x" * 201, "caf\u00e9", "a\tb"])
def test_the_secret_without_a_user_names_nobody(door: Live, name: str) -> None:
    headers = {key.encode(): value.encode("latin-1") for key, value in through(name).items()}

    answer = httpx2.post(f"{door.url}{CHAT}", json=GOOD, headers=headers, timeout=30)

    assert error(answer) == (400, "invalid_request")


def test_sixty_four_first_calls_make_one_account(call: Call, user: str) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: call(through(user)), range(64)))

    assert {answer.status_code for answer in answers} == {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) == 3
    assert MarketplaceAccount.objects.filter(external_user=user).count() == 1
    assert Subscription.objects.filter(account=account_of(user)).count() == 1


def test_the_plan_follows_the_subscription_and_the_table(call: Call, user: str) -> None:
    name = f"TIER-{uuid.uuid4()}".upper()[:40]
    mapped = MarketplacePlan.objects.create(subscription=name, plan=Plan.objects.get(code="student"))
    call(through(user))

    upgraded = call(through(user, name.lower()))
    straggler = call(through(user))
    plans = [row.plan for row in UsageRecord.objects.filter(account=account_of(user)).order_by("started_at")]
    mapped.plan = Plan.objects.get(code="pro")
    mapped.save()

    def served_by_pro() -> bool:
        call(through(user, name))
        return UsageRecord.objects.filter(account=account_of(user), plan="pro").exists()

    wait_until(served_by_pro, what="the new plan")
    assert (upgraded.status_code, straggler.status_code) == (200, 200)
    assert plans == ["free", "student", "student"]
    live_now = Subscription.objects.get(account=account_of(user), state="active")
    assert (live_now.plan.code, live_now.price) == ("pro", None)


def test_a_blocked_account_is_kept_out_within_a_second(call: Call, user: str) -> None:
    refused: list[tuple[int, str]] = []

    def block() -> float:
        one = f"{user}-{len(refused)}"
        call(through(one))
        account_block(account=account_of(one), actor=SYSTEM, reason="test")
        seconds = seconds_until(lambda: call(through(one)).status_code == 403, what="refused")
        refused.append(error(call(through(one))))
        return seconds

    assert soonest(block, promised_seconds=1) < 1
    assert set(refused) == {(403, "account_blocked")}


def test_no_secret_is_written_to_the_log(call: Call, user: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    call(through(user))
    call(through(user, secret="wrong-secret-of-somebody"))

    logs = list(tmp_path_factory.getbasetemp().glob("marketplace*/web.log"))
    text = "".join(log.read_text() for log in logs)
    assert len(logs) >= 1
    assert (SECRET in text, "wrong-secret-of-somebody" in text) == (False, False)
