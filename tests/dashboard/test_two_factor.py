"""Operators' second factor: nothing opens without it, no code works twice, guessing gets slow, an owner resets it."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.test import Client
from django.urls import reverse
from django_otp.oath import TOTP
from freezegun import freeze_time
from rest_framework.test import APIClient

from billing.accounts.models import Account, User
from billing.accounts.services import operator_key_create
from billing.accounts.tokens import access_token
from billing.events.models import Event
from billing.events.services import Actor
from dashboard.models import OperatorDevice, RecoveryCode
from dashboard.two_factor.services import code_check, device_begin, device_confirm
from iafactory.common import clock
from iafactory.common.errors import ApiError

from .conftest import PASSWORD
from .test_console_pages import text_of

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
VERIFY = reverse("admin:two_factor")
SET_UP = reverse("admin:two_factor_set_up")
CODES = reverse("admin:two_factor_codes")
HOME = reverse("admin:index")
ACCOUNTS = reverse("admin:billing_account_changelist")
LOGIN = "/api/auth/login"


@pytest.fixture(autouse=True)
def needed(settings: Any) -> None:
    settings.OPERATOR_TWO_FACTOR = True


@pytest.fixture
def codes(operator: User) -> list[str]:
    """The operator has set an app up a day ago; the recovery codes."""
    with freeze_time(NOON - timedelta(days=1)):
        device = device_begin(user=operator)
        return device_confirm(user=operator, code=app_code(device))[1]


def app_code(device: OperatorDevice, *, later: int = 0) -> str:
    """What the app shows now, or `later` seconds from now."""
    moment = TOTP(bytes.fromhex(device.secret))
    moment.time = clock.now().timestamp() + later
    return f"{moment.token():06d}"


def log_in(user: User) -> Client:
    """A browser in which the password was given."""
    client = Client()
    answer = client.post(reverse("admin:login"), {"username": user.email, "password": PASSWORD, "next": HOME})
    assert answer.status_code == 302
    return client


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- The console ---


def test_nothing_opens_before_a_second_factor_is_set_up(operator: User, account: Account) -> None:
    client = log_in(operator)

    pages = [client.get(page) for page in (HOME, ACCOUNTS, reverse("admin:billing_account_change", args=[account.pk]), CODES)]
    granted = client.post(reverse("admin:billing_account_block", args=[account.pk]), {"reason": "x"})
    landed = client.get(HOME, follow=True)

    assert [page.status_code for page in pages] == [302] * 4
    assert {page["location"].partition("?")[0] for page in pages} == {reverse("admin:login")}
    assert granted.status_code == 302
    assert landed.redirect_chain[-1][0].partition("?")[0] == SET_UP
    account.refresh_from_db()
    assert account.status == "active"


@freeze_time(NOON)
def test_setting_up_shows_a_code_to_scan_and_recovery_codes_once(operator: User) -> None:
    client = log_in(operator)
    page = client.get(SET_UP).content.decode()
    device = OperatorDevice.objects.get()

    confirmed = client.post(SET_UP, {"code": app_code(device), "next": ACCOUNTS})
    again = client.get(SET_UP)

    assert "<svg" in page
    assert "viewBox=" in page  # else a style sheet's size would cut it
    assert ' style="' not in page
    assert len(confirmed.context["codes"]) == 10
    assert "no-store" in confirmed["cache-control"]
    assert client.get(HOME).status_code == 200
    assert (again.status_code, again["location"]) == (302, CODES)
    event = Event.objects.get(kind="two_factor.set_up")
    assert (event.actor_label, event.object_id) == (operator.email, str(operator.pk))
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM dashboard_operatordevice")
        assert device.secret not in cursor.fetchone()[0]
    assert confirmed.context["codes"][0].replace("-", "") not in str(list(RecoveryCode.objects.values()))


@freeze_time(NOON)
def test_a_wrong_first_code_sets_nothing_up(operator: User) -> None:
    client = log_in(operator)
    client.get(SET_UP)

    answer = client.post(SET_UP, {"code": "000000"})

    assert "The code is wrong" in text_of(answer)
    assert not OperatorDevice.objects.get().confirmed
    assert client.get(HOME).status_code == 302


@freeze_time(NOON)
def test_the_code_opens_the_page_that_was_asked_for(operator: User, codes: list[str]) -> None:
    client = log_in(operator)
    asked = client.get(ACCOUNTS, follow=True)
    assert (asked.redirect_chain[-1][0], asked.status_code) == (f"{VERIFY}?next={quote(ACCOUNTS, safe='')}", 200)

    answer = client.post(VERIFY, {"code": app_code(OperatorDevice.objects.get()), "next": ACCOUNTS})

    assert (answer.status_code, answer["location"]) == (302, ACCOUNTS)
    assert client.get(ACCOUNTS).status_code == 200


@freeze_time(NOON)
def test_no_way_out_to_another_site(operator: User, codes: list[str]) -> None:
    client = log_in(operator)

    answer = client.post(VERIFY, {"code": codes[0], "next": "https://evil.example/"})

    assert answer["location"] == HOME


@freeze_time(NOON)
def test_a_code_works_once_and_only_for_a_minute(operator: User, codes: list[str]) -> None:
    device = OperatorDevice.objects.get()
    code = app_code(device)
    log_in(operator).post(VERIFY, {"code": code})
    second = log_in(operator)

    again = second.post(VERIFY, {"code": code})

    assert "The code is wrong, was used, or has run out" in text_of(again)
    assert second.get(HOME).status_code == 302
    with freeze_time(NOON + timedelta(minutes=5)), pytest.raises(ApiError, match="wrong"):
        code_check(user=operator, code=app_code(device, later=-120))


@freeze_time(NOON)
def test_a_recovery_code_works_once_however_it_is_typed(operator: User, codes: list[str]) -> None:
    first, second = log_in(operator), log_in(operator)

    opened = first.post(VERIFY, {"code": f" {codes[0].upper().replace('-', ' ')} "})
    refused = second.post(VERIFY, {"code": codes[0]})

    assert (opened.status_code, refused.status_code) == (302, 200)
    assert Event.objects.get(kind="two_factor.recovery_code_used").after == {"left": 9}


def test_guessing_gets_slow(operator: User, codes: list[str]) -> None:
    def guess(code: str, seconds: float) -> str:
        with freeze_time(NOON + timedelta(seconds=seconds)):
            try:
                code_check(user=operator, code=code)
            except ApiError as refused:
                return refused.code
            return "opened"

    with freeze_time(NOON + timedelta(seconds=4)):
        right = app_code(OperatorDevice.objects.get())

    told = [
        guess("000000", 0),
        guess("000000", 0.5),
        guess("000000", 1.5),
        guess(right, 3),
        guess(right, 4),
        guess(codes[0], 4),
    ]

    assert told == [
        "two_factor_code_wrong",
        "too_many_attempts",
        "two_factor_code_wrong",
        "too_many_attempts",
        "opened",
        "opened",
    ]


@pytest.mark.django_db(transaction=True)
def test_parallel_logins_share_no_code(db: None) -> None:
    user = User.objects.create_superuser("racer@example.com", PASSWORD)
    with freeze_time(NOON, real_asyncio=True):
        device = device_begin(user=user)
        recovery = device_confirm(user=user, code=app_code(device))[1][0]
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def attempt() -> None:
        try:
            start.wait()
            code_check(user=user, code=recovery)
            outcomes.append("opened")
        except ApiError as refused:
            outcomes.append(refused.code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (outcomes.count("opened"), len(outcomes)) == (1, 6)


@freeze_time(NOON)
def test_new_recovery_codes_need_a_code_and_end_the_old(operator: User, codes: list[str]) -> None:
    client = log_in(operator)
    client.post(VERIFY, {"code": codes[0]})

    refused = client.post(CODES, {"code": codes[0]})
    with freeze_time(NOON + timedelta(minutes=1)):
        renewed = client.post(CODES, {"code": codes[1]}).context["codes"]

    assert "The code is wrong" in text_of(refused)
    assert (len(renewed), set(renewed) & set(codes)) == (10, set())
    with freeze_time(NOON + timedelta(minutes=2)), pytest.raises(ApiError, match="wrong"):
        code_check(user=operator, code=codes[2])


@freeze_time(NOON)
def test_an_owner_resets_the_factor_of_another(operator: User, codes: list[str]) -> None:
    client = log_in(operator)
    client.post(VERIFY, {"code": codes[0]})
    clerk = User.objects.create_user("clerk@example.com", PASSWORD, is_staff=True)
    device_confirm(user=clerk, code=app_code(device_begin(user=clerk)))
    clerks = log_in(clerk)
    OperatorDevice.objects.filter(user=clerk).update(last_step=-1)
    clerks.post(VERIFY, {"code": app_code(OperatorDevice.objects.get(user=clerk))})
    target = reverse("admin:billing_user_reset_two_factor", args=[clerk.pk])
    before = clerks.get(HOME).status_code

    page = client.get(reverse("admin:billing_user_change", args=[clerk.pk])).content.decode()
    answer = client.post(target, {"reason": "lost phone"})
    own = client.post(reverse("admin:billing_user_reset_two_factor", args=[operator.pk]), {"reason": "x"})

    assert target in page
    assert (before, answer.status_code, own.status_code, clerks.get(HOME).status_code) == (200, 302, 403, 302)
    assert not OperatorDevice.objects.filter(user=clerk).exists()
    event = Event.objects.get(kind="two_factor.reset")
    assert (event.object_id, event.actor_label, event.reason) == (str(clerk.pk), operator.email, "lost phone")


@freeze_time(NOON)
def test_the_last_operator_is_reset_on_the_server(operator: User, codes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    call_command("reset_two_factor", "Operator@Example.com", reason="lost phone")

    assert capsys.readouterr().out == "Reset.\n"
    assert not OperatorDevice.objects.exists()
    assert (Event.objects.get(kind="two_factor.reset").reason, RecoveryCode.objects.count()) == ("lost phone", 0)
    with pytest.raises(CommandError, match="no such operator"):
        call_command("reset_two_factor", "nobody@example.com", reason="x")


def test_switched_off_nobody_is_asked(operator: User, settings: Any) -> None:
    settings.OPERATOR_TWO_FACTOR = False

    assert log_in(operator).get(HOME).status_code == 200


def test_customers_and_strangers_see_none_of_it(account: Account) -> None:
    stranger = Client()
    customer = Client()
    customer.force_login(account.personal_of)

    answers = [client.get(page) for client in (stranger, customer) for page in (VERIFY, SET_UP, CODES)]

    assert [answer.status_code for answer in answers] == [302] * 6
    assert not OperatorDevice.objects.exists()


# --- The APIs ---


def test_the_api_refuses_operators_without_a_second_factor(operator: User) -> None:
    login = {"email": operator.email, "password": PASSWORD}

    assert error(APIClient().post(LOGIN, login, format="json")) == (401, "two_factor_required")
    assert error(APIClient().post(LOGIN, {**login, "code": "123456"}, format="json")) == (403, "two_factor_not_set_up")


@freeze_time(NOON)
def test_the_api_asks_for_the_code_and_keeps_it_over_refreshes(operator: User, codes: list[str]) -> None:
    login = {"email": operator.email, "password": PASSWORD}

    without = APIClient().post(LOGIN, login, format="json")
    wrong = APIClient().post(LOGIN, {**login, "code": "000000"}, format="json")
    with freeze_time(NOON + timedelta(seconds=5)):
        tokens = APIClient().post(LOGIN, {**login, "code": codes[0]}, format="json").json()
        body = {"refresh_token": tokens["refresh_token"]}
        refreshed = APIClient().post("/api/auth/refresh", body, format="json").json()
        answers = [dashboard(pair["access_token"]) for pair in (tokens, refreshed)]

    assert error(without) == (401, "two_factor_required")
    assert error(wrong) == (401, "two_factor_code_wrong")
    assert [answer.status_code for answer in answers] == [200, 200]


@freeze_time(NOON)
def test_tokens_without_a_second_factor_operate_nothing(operator: User, codes: list[str]) -> None:
    assert error(dashboard(access_token(operator))) == (403, "two_factor_required")


@freeze_time(NOON)
def test_tokens_end_with_the_device_they_were_proven_by(operator: User, codes: list[str]) -> None:
    login = {"email": operator.email, "password": PASSWORD, "code": codes[0]}
    tokens = APIClient().post(LOGIN, login, format="json").json()
    OperatorDevice.objects.all().delete()

    assert error(dashboard(tokens["access_token"])) == (403, "two_factor_required")


def test_operators_keys_need_no_code(operator: User) -> None:
    actor = Actor(Event.ActorKind.OPERATOR, id=operator.pk, label=operator.email)
    _key, secret = operator_key_create(user=operator, name="program", actor=actor)

    assert dashboard(secret).status_code == 200


def test_customers_log_in_as_ever(account: Account) -> None:
    login = {"email": "sara@example.com", "password": PASSWORD}

    assert APIClient().post(LOGIN, login, format="json").status_code == 200


def dashboard(credential: str) -> Any:
    return APIClient().get("/api/admin/dashboard", headers={"Authorization": f"Bearer {credential}"})
