"""E-mail verification and password reset: the API, the mails, the pages."""

import re
from typing import Any

import pytest
from django.core import mail
from django.test import Client
from freezegun import freeze_time
from rest_framework.test import APIClient
from rest_framework_simplejwt.token_blacklist.models import BlacklistedToken

from billing.accounts import services
from billing.accounts.models import User
from billing.accounts.tokens import email_verification_token, password_reset_token, session_tokens
from billing.events.models import Event

from .conftest import PASSWORD, code, logged_in, refusal

NEW = "another horse battery"


def event_kinds() -> list[str]:
    return list(Event.objects.order_by("id").values_list("kind", flat=True))


def mailed_token() -> str:
    [message] = mail.outbox
    [token] = re.findall(r"\?token=(\S+)", message.body)
    return token


# --- Verification ---


def verify(token: Any) -> Any:
    return APIClient().post("/api/auth/verify-email", {"token": token}, format="json")


def test_mailed_token_verifies_the_address(amina: User) -> None:
    services.email_verification_send(user_id=amina.pk)

    response = verify(mailed_token().replace("%3A", ":"))

    amina.refresh_from_db()
    assert response.status_code == 200
    assert response.json() == {"email": "amina@example.com", "email_verified": True}
    assert amina.email_verified_at is not None
    [event] = Event.objects.all()
    assert (event.kind, event.actor_id, event.account_id) == (
        "user.email_verified",
        amina.pk,
        amina.personal_account.pk,
    )


def test_verifying_again_changes_nothing(amina: User) -> None:
    token = email_verification_token(amina)
    verify(token)
    amina.refresh_from_db()
    first = amina.email_verified_at

    again = verify(token)

    amina.refresh_from_db()
    assert again.status_code == 200
    assert amina.email_verified_at == first
    assert event_kinds() == ["user.email_verified"]


def test_token_of_an_earlier_address_is_refused(amina: User) -> None:
    token = email_verification_token(amina)
    User.objects.update(email="amina@other.example")

    assert code(verify(token)) == (400, "invalid_token")
    assert User.objects.get().email_verified_at is None


def test_verification_token_ends_after_three_days(amina: User) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        token = email_verification_token(amina)
    with freeze_time("2026-11-23 10:00:02"):
        late = verify(token)
    with freeze_time("2026-11-23 09:59:59"):
        in_time = verify(token)

    assert code(late) == (400, "invalid_token")
    assert in_time.status_code == 200


@pytest.mark.parametrize("token", ["x", "a:b:c", "é"])
def test_forged_verification_token_is_refused(amina: User, token: str) -> None:
    assert code(verify(token)) == (400, "invalid_token")
    assert User.objects.get().email_verified_at is None


def test_reset_token_is_no_verification_token(amina: User) -> None:
    assert code(verify(password_reset_token(amina))) == (400, "invalid_token")


@pytest.mark.parametrize("token", [5, None, "", {}, "a\x00", "x" * 10_000_000])
def test_verification_names_the_wrong_field(db: None, token: Any) -> None:
    assert refusal(verify(token)) == (400, "invalid_request", "token")


def test_resend_mails_again(amina: User, work: Any, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        response = logged_in(amina).post("/api/auth/verify-email/resend")

    assert (response.status_code, response.json()) == (202, {"accepted": True})
    assert work() == ["billing.accounts.email_verification_send"]
    assert [message.to for message in mail.outbox] == [["amina@example.com"]]


def test_resend_to_a_verified_address_sends_nothing(amina: User, work: Any, django_capture_on_commit_callbacks: Any) -> None:
    services.email_verify(token=email_verification_token(amina))

    with django_capture_on_commit_callbacks(execute=True):
        response = logged_in(amina).post("/api/auth/verify-email/resend")

    assert response.status_code == 202
    assert work() == []


def test_resend_is_braked(amina: User) -> None:
    client = logged_in(amina)

    with freeze_time("2026-11-20 10:30:00"):
        client = logged_in(amina)
        statuses = [client.post("/api/auth/verify-email/resend").status_code for _ in range(5)]
        refused = client.post("/api/auth/verify-email/resend")

    assert statuses == [202] * 5
    assert code(refused) == (429, "too_many_attempts")


def test_resend_needs_a_session(client: APIClient, db: None) -> None:
    assert code(client.post("/api/auth/verify-email/resend")) == (401, "not_authenticated")


def test_task_that_runs_after_the_click_sends_nothing(amina: User) -> None:
    services.email_verify(token=email_verification_token(amina))

    assert services.email_verification_send(user_id=amina.pk) is False
    assert mail.outbox == []


@pytest.mark.parametrize(
    ("language", "verification", "reset"),
    [
        ("en", "Confirm your e-mail address", "Choose a new password"),
        ("fr", "Confirmez votre adresse e-mail", "Choisissez un nouveau mot de passe"),
        ("ar", "تأكيد عنوان بريدك الإلكتروني", "اختر كلمة مرور جديدة"),
        ("xx", "Confirm your e-mail address", "Choose a new password"),
    ],
)
def test_mails_speak_the_users_language(person: Any, language: str, verification: str, reset: str) -> None:
    user = person("amina@example.com", language=language)

    services.email_verification_send(user_id=user.pk)
    services.password_reset_send(email=user.email)

    assert [message.subject for message in mail.outbox] == [verification, reset]
    assert "http://127.0.0.1:8000/auth/verify-email?token=" in mail.outbox[0].body
    assert "http://127.0.0.1:8000/auth/password-reset?token=" in mail.outbox[1].body
    assert "{" not in mail.outbox[0].body + mail.outbox[1].body


# --- Password reset ---


def request_reset(email: Any, **headers: str) -> Any:
    return APIClient().post("/api/auth/password-reset", {"email": email}, format="json", **headers)


def confirm(token: Any, password: Any = NEW) -> Any:
    body = {"token": token, "password": password}
    return APIClient().post("/api/auth/password-reset/confirm", body, format="json")


def test_reset_request_mails_a_link(amina: User, work: Any) -> None:
    response = request_reset("Amina@example.com")

    assert (response.status_code, response.json()) == (202, {"accepted": True})
    assert work() == ["billing.accounts.password_reset_send"]
    assert [message.to for message in mail.outbox] == [["amina@example.com"]]
    assert event_kinds() == ["user.password_reset_mailed"]


@pytest.mark.parametrize("email", ["nobody@example.com", "off@example.com"])
def test_unknown_address_gets_the_same_answer_and_the_same_work(person: Any, work: Any, email: str) -> None:
    person("amina@example.com")
    person("off@example.com", is_active=False)
    known = request_reset("amina@example.com")
    work()
    mail.outbox.clear()
    events = event_kinds()

    unknown = request_reset(email)

    assert (unknown.status_code, unknown.content) == (known.status_code, known.content)
    assert work() == ["billing.accounts.password_reset_send"]
    assert mail.outbox == []
    assert event_kinds() == events


def test_reset_requests_are_braked_alike_for_known_and_unknown(amina: User, work: Any) -> None:
    with freeze_time("2026-11-20 10:30:00"):
        statuses = [request_reset("amina@example.com").status_code for _ in range(5)]
        statuses += [request_reset("nobody@example.com").status_code for _ in range(5)]
        known, unknown = request_reset("amina@example.com"), request_reset("nobody@example.com")

    assert statuses == [202] * 10
    assert code(known) == code(unknown) == (429, "too_many_attempts")
    assert len(work()) == 10


def test_reset_requests_are_braked_per_peer(db: None) -> None:
    with freeze_time("2026-11-20 10:30:00"):
        statuses = [request_reset(f"n{n}@example.com", REMOTE_ADDR="10.0.0.1").status_code for n in range(30)]
        refused = request_reset("m@example.com", REMOTE_ADDR="10.0.0.1")

    assert statuses == [202] * 30
    assert code(refused) == (429, "too_many_attempts")


@pytest.mark.parametrize("email", [5, None, "", "x", [], "a\x00@example.com", "a" * 10_000_000])
def test_reset_request_names_the_wrong_field(db: None, work: Any, email: Any) -> None:
    assert refusal(request_reset(email)) == (400, "invalid_request", "email")
    assert work() == []


def test_reset_sets_the_password_once(client: APIClient, amina: User) -> None:
    services.password_reset_send(email=amina.email)
    token = mailed_token()

    first, second = confirm(token), confirm(token, "a third horse battery")

    assert (first.status_code, first.content) == (204, b"")
    assert code(second) == (400, "invalid_token")
    old = client.post("/api/auth/login", {"email": amina.email, "password": PASSWORD}, format="json")
    new = client.post("/api/auth/login", {"email": amina.email, "password": NEW}, format="json")
    assert code(old) == (401, "invalid_credentials")
    assert new.status_code == 200
    assert event_kinds() == ["user.password_reset_mailed", "user.password_reset", "user.signed_in"]


def test_reset_ends_every_session(amina: User, boris: User) -> None:
    first, second, stranger = session_tokens(amina), session_tokens(amina), session_tokens(boris)
    amina_client, boris_client = logged_in(amina), logged_in(boris)

    confirm(password_reset_token(amina))

    answers = [
        APIClient().post("/api/auth/refresh", {"refresh_token": tokens.refresh_token}, format="json")
        for tokens in (first, second, stranger)
    ]
    assert code(answers[0]) == code(answers[1]) == (401, "token_revoked")
    assert answers[2].status_code == 200
    assert code(amina_client.get("/api/auth/me")) == (401, "token_revoked")
    assert boris_client.get("/api/auth/me").status_code == 200
    assert BlacklistedToken.objects.filter(token__user=amina).count() == 3


def test_reset_verifies_the_address_that_read_the_mail(amina: User) -> None:
    confirm(password_reset_token(amina))

    amina.refresh_from_db()
    assert amina.email_verified_at is not None


def test_reset_opens_a_locked_login(client: APIClient, amina: User) -> None:
    wrong = {"email": amina.email, "password": "wrong horse battery"}
    [client.post("/api/auth/login", wrong, format="json") for _ in range(11)]

    confirm(password_reset_token(amina))

    response = client.post("/api/auth/login", {"email": amina.email, "password": NEW}, format="json")
    assert response.status_code == 200


def test_reset_token_ends_after_two_hours(amina: User) -> None:
    with freeze_time("2026-11-20 10:00:00"):
        token = password_reset_token(amina)
    with freeze_time("2026-11-20 12:00:01"):
        late = confirm(token)
    amina.refresh_from_db()

    assert code(late) == (400, "invalid_token")
    assert amina.check_password(PASSWORD)


def test_weak_new_password_leaves_the_token_good(amina: User) -> None:
    token = password_reset_token(amina)
    session = session_tokens(amina)

    weak = confirm(token, "password1234")

    assert refusal(weak) == (400, "invalid_request", "password")
    assert not BlacklistedToken.objects.exists()
    assert event_kinds() == []
    assert APIClient().get("/api/auth/me", HTTP_AUTHORIZATION=f"Bearer {session.access_token}").status_code == 200
    assert confirm(token).status_code == 204


def test_token_of_one_user_does_not_open_another(amina: User, boris: User) -> None:
    token = boris.pk.hex + "." + password_reset_token(amina).partition(".")[2]

    assert code(confirm(token)) == (400, "invalid_token")
    boris.refresh_from_db()
    assert boris.check_password(PASSWORD)


def test_switched_off_user_cannot_reset(amina: User) -> None:
    token = password_reset_token(amina)
    User.objects.update(is_active=False)

    assert code(confirm(token)) == (400, "invalid_token")


@pytest.mark.parametrize("token", ["x", "x.y", ".", "0199e1a0000070008000000000000000.a-b", "é.é"])
def test_forged_reset_token_is_refused(amina: User, token: str) -> None:
    assert code(confirm(token)) == (400, "invalid_token")
    amina.refresh_from_db()
    assert amina.check_password(PASSWORD)


@pytest.mark.parametrize(
    ("token", "password", "param"),
    [(5, NEW, "token"), ("x" * 5000, NEW, "token"), ("x", 5, "password"), ("x", "x" * 10_000_000, "password")],
)
def test_confirm_names_the_wrong_field(db: None, token: Any, password: Any, param: str) -> None:
    assert refusal(confirm(token, password)) == (400, "invalid_request", param)


# --- Pages ---


@pytest.fixture
def browser(db: None) -> Client:
    return Client(enforce_csrf_checks=True)


def submit(browser: Client, address: str, **fields: str) -> Any:
    """Open a page and send its form with `fields` added."""
    page = browser.get(address).content.decode()
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    return browser.post(address.partition("?")[0], hidden | fields)


def test_opening_the_verification_link_changes_nothing(browser: Client, amina: User) -> None:
    page = browser.get("/auth/verify-email", {"token": email_verification_token(amina)})

    amina.refresh_from_db()
    assert page.status_code == 200
    assert 'method="post"' in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert amina.email_verified_at is None


def test_button_verifies(browser: Client, amina: User) -> None:
    services.email_verification_send(user_id=amina.pk)

    page = submit(browser, f"/auth/verify-email?token={mailed_token()}")

    amina.refresh_from_db()
    assert page.status_code == 200
    assert "amina@example.com is confirmed" in page.content.decode()
    assert amina.email_verified_at is not None


@pytest.mark.parametrize("token", ["", "x", "x" * 2000])
def test_damaged_verification_link_says_so(browser: Client, amina: User, token: str) -> None:
    page = submit(browser, f"/auth/verify-email?token={token}")

    assert page.status_code == 400
    assert "damaged, used or too old" in page.content.decode()


@pytest.mark.parametrize("address", ["/auth/verify-email", "/auth/password-reset"])
def test_forms_need_their_csrf_token(browser: Client, amina: User, address: str) -> None:
    page = browser.post(address, {"token": email_verification_token(amina), "email": amina.email})

    assert page.status_code == 403


def test_token_cannot_break_out_of_the_page(browser: Client) -> None:
    page = browser.get("/auth/password-reset", {"token": '"><script>alert(1)</script>'})

    assert "<script>" not in page.content.decode()


def test_arabic_page_reads_right_to_left(browser: Client) -> None:
    page = browser.get("/auth/password-reset", HTTP_ACCEPT_LANGUAGE="ar").content.decode()

    assert '<html lang="ar" dir="rtl">' in page


def test_page_mails_a_reset_link(browser: Client, amina: User, work: Any) -> None:
    page = submit(browser, "/auth/password-reset", email="amina@example.com")

    assert page.status_code == 200
    assert "If an account has this address" in page.content.decode()
    assert work() == ["billing.accounts.password_reset_send"]


def test_page_sets_the_new_password(browser: Client, amina: User) -> None:
    services.password_reset_send(email=amina.email)

    page = submit(browser, f"/auth/password-reset?token={mailed_token()}", password=NEW, password_again=NEW)

    amina.refresh_from_db()
    assert page.status_code == 200
    assert "The new password is saved" in page.content.decode()
    assert amina.check_password(NEW)


@pytest.mark.parametrize(
    ("password", "again", "message"),
    [(NEW, NEW + "x", "The two passwords differ."), ("password1234", "password1234", "too common"), ("", "", "required")],
)
def test_page_refuses_a_wrong_password_beside_its_field(
    browser: Client, amina: User, password: str, again: str, message: str
) -> None:
    address = f"/auth/password-reset?token={password_reset_token(amina)}"

    page = submit(browser, address, password=password, password_again=again)

    amina.refresh_from_db()
    assert page.status_code == 400
    assert message in page.content.decode()
    assert amina.check_password(PASSWORD)


def test_page_says_when_the_reset_link_is_used(browser: Client, amina: User) -> None:
    token = password_reset_token(amina)
    confirm(token)

    page = submit(browser, f"/auth/password-reset?token={token}", password=NEW, password_again=NEW)

    assert page.status_code == 400
    assert "damaged, used or too old" in page.content.decode()
