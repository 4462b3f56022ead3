"""What an account is told by mail: the page with its switches, in three languages."""

from typing import Any

import pytest
from django.test import Client

from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.notices.models import NoticeKind, NoticePreference

PAGE = "/billing/notices"
# As everybody has it: the day's quota of a plan that costs nothing is not mailed.
USUAL = {
    "credits_mail": "on",
    "key_budget_mail": "on",
    "quota_threshold": "80",
    "plan_ending_mail": "on",
    "plan_ending_threshold": "3",
    "credits_expiring_mail": "on",
    "credits_expiring_threshold": "7",
    "price_change_mail": "on",
}


def test_the_page_shows_what_holds(panel: Client, account: Account) -> None:
    page = panel.get(PAGE).content.decode()

    assert page.count('type="checkbox"') == len(NoticeKind) == 6
    assert 'name="credits_mail" id="id_credits_mail" checked' in page
    assert 'name="quota_mail" id="id_quota_mail">' in page
    assert 'name="plan_ending_threshold" value="3"' in page


def test_what_was_changed_is_saved_and_the_rest_stays_as_usual(panel: Client, account: Account, user: User) -> None:
    form = USUAL | {"plan_ending_threshold": "5", "quota_mail": "on"}
    del form["credits_mail"]

    response = panel.post(PAGE, form)

    assert (response.status_code, response.headers["Location"]) == (302, PAGE)
    rows = NoticePreference.objects.filter(account=account).order_by("kind").values_list("kind", "mail", "threshold")
    assert list(rows) == [("credits", False, None), ("plan_ending", None, 5), ("quota", True, None)]
    events = Event.objects.filter(account_id=account.pk, kind="account.notice_preference_changed")
    assert {event.actor_id for event in events} == {user.pk}
    assert 'name="plan_ending_threshold" value="5"' in panel.get(PAGE).content.decode()


def test_saving_what_stands_writes_nothing(panel: Client, account: Account) -> None:
    panel.post(PAGE, USUAL)

    assert not NoticePreference.objects.filter(account=account).exists()


@pytest.mark.parametrize(
    ("language", "refusal", "heading"),
    [
        ("en", "1 to 30 days.", "Notices"),
        ("fr", "De 1 à 30 jours.", "Notifications"),
        ("ar", "من 1 إلى 30 يومًا.", "الإشعارات"),
    ],
)
def test_a_threshold_out_of_bounds_is_refused_beside_its_field(
    panel: Client, user: User, account: Account, language: str, refusal: str, heading: str
) -> None:
    User.objects.filter(pk=user.pk).update(language=language)

    response: Any = panel.post(PAGE, USUAL | {"plan_ending_threshold": "31"})

    page = response.content.decode()
    assert response.status_code == 400
    assert f"<h1>{heading}</h1>" in page
    assert f'id="id_plan_ending_threshold_error" role="alert"><li>{refusal}</li>' in page
    assert not NoticePreference.objects.filter(account=account).exists()


def test_another_account_keeps_its_own(panel: Client, stranger: Client, account: Account) -> None:
    stranger.post(PAGE, USUAL | {"plan_ending_threshold": "9"})

    assert not NoticePreference.objects.filter(account=account).exists()
    assert 'name="plan_ending_threshold" value="3"' in panel.get(PAGE).content.decode()


def test_who_is_not_signed_in_signs_in_first(account: Account) -> None:
    response = Client().get(PAGE)

    assert response.headers["Location"] == "/billing/sign-in?next=%2Fbilling%2Fnotices"
