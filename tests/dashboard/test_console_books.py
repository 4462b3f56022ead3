"""The books in the console: verifications, seals, kept answers, losses, balances at a time, and why a call cost what it did."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from freezegun import freeze_time

from billing.accounts.models import Account, User
from billing.events.models import Event
from billing.events.services import SYSTEM
from billing.ledger.admin import CHECKED_OBJECTS
from billing.ledger.credits import credits_consume
from billing.ledger.models import BooksVerification, DaySeal, Hold, Lot, StoredAnswer, UsageRecord, Wallet
from billing.ledger.services import credits_grant, holds_reap
from billing.ledger.verification import CHECKPOINTS, CHECKS, SEALS, number_of_checks
from billing.plans.models import Plan, ServicePrice
from billing.subscriptions.selectors import subscription_live
from iafactory.celery import app
from iafactory.common import clock
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7
from routing.models import ModelPrice

from .conftest import ANSWER, call, hold
from .test_console_pages import address, list_address, text_of

D = Decimal
SOME_ID = "019abcde-0000-7000-8000-000000000000"
Work = Callable[[], list[str]]


@pytest.fixture
def work(tmp_path: Path, settings: Any) -> Work:
    """Runs what the console queued in Redis, as a worker would; the names of the tasks."""
    settings.BOOKS_SEAL_FILE = str(tmp_path / "seals.txt")
    app.loader.import_default_modules()
    with app.connection_for_write() as broker:
        broker.default_channel.queue_purge("celery")

    def run() -> list[str]:
        names = []
        with app.connection_for_read() as broker:
            queue = broker.SimpleQueue("celery")
            with contextlib.suppress(queue.Empty):
                while True:
                    message = queue.get(block=False)
                    message.ack()
                    names.append(message.headers["task"])
                    app.tasks[message.headers["task"]](*message.payload[0])
            queue.close()
        return names

    return run


def clerk_with(*codenames: str) -> Client:
    clerk = User.objects.create_user("clerk@example.com", "x", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(clerk)
    return client


def ask(model: type[Any]) -> str:
    return reverse(f"admin:billing_{model._meta.model_name}_ask")


# --- Verifications and seals ---


def test_verify_now_asks_a_worker_whose_result_appears(console: Client, account: Account, operator: User, work: Work) -> None:
    asked = console.post(ask(BooksVerification), follow=True)
    names = work()
    page = text_of(console.get(reverse("admin:index")))

    run = BooksVerification.objects.get()
    assert names == ["billing.ledger.verify_books"]
    assert run.passed
    assert "Asked a worker to verify the books" in asked.content.decode()
    assert Event.objects.get(kind="books.verification_asked").actor_id == operator.pk
    assert f"UTC passed {number_of_checks()} checks" in page


def test_seal_now_seals_closed_days(console: Client, account: Account, work: Work) -> None:
    # Yesterday is not closed yet in the first minutes of a day.
    day = clock.now().date() - timedelta(days=2)
    with freeze_time(clock.now() - timedelta(days=2)):
        grant_of(account)

    asked = console.post(ask(DaySeal), follow=True)
    names = work()
    seal = DaySeal.objects.get(day=day)
    page = text_of(console.get(address(DaySeal, "change", seal.pk)))

    assert names == ["billing.ledger.seal_days"]
    assert "Asked a worker to seal the closed days" in asked.content.decode()
    assert "Copy outside the database: the same" in page


@pytest.mark.parametrize("model", [BooksVerification, DaySeal])
def test_asking_needs_its_right_and_a_post(console: Client, work: Work, model: type[Any]) -> None:
    clerk = clerk_with(f"view_{model._meta.model_name}")

    seen = clerk.get(list_address(model))
    refused = clerk.post(ask(model))
    opened = console.get(ask(model))

    assert seen.status_code == 200
    assert 'action="ask/"' not in seen.content.decode()
    assert (refused.status_code, opened.status_code) == (403, 405)
    assert work() == []
    assert not Event.objects.filter(kind__startswith="books.").exists()


@pytest.mark.parametrize(("model", "codename"), [(BooksVerification, "add_booksverification"), (DaySeal, "add_dayseal")])
def test_clerk_with_the_right_asks(work: Work, db: None, model: type[Any], codename: str) -> None:
    clerk = clerk_with(codename)

    page = clerk.get(list_address(model))
    answer = clerk.post(ask(model))

    assert 'action="ask/"' in page.content.decode()
    assert answer.status_code == 302
    assert len(work()) == 1


@pytest.fixture
def no_broker() -> Iterator[None]:
    before = app.conf.broker_url, app.conf.broker_transport_options

    def use(url: str, options: dict[str, Any]) -> None:
        app.conf.broker_url, app.conf.broker_transport_options = url, options
        # Celery keeps its connections: have it open new ones.
        app._pool = None
        app.amqp._producer_pool = None

    use("redis://127.0.0.1:1/0", {"max_retries": 0})
    yield
    use(*before)


def test_queue_that_is_away_is_told(console: Client, no_broker: None) -> None:
    answer = console.post(ask(BooksVerification), follow=True)

    assert "cannot be reached; nothing was asked" in answer.content.decode()
    assert not Event.objects.filter(kind="books.verification_asked").exists()


def test_failed_verification_links_what_differs(console: Client, account: Account, work: Work) -> None:
    Wallet.objects.filter(pk=account.pk).update(balance=90)

    console.post(ask(BooksVerification))
    work()
    run = BooksVerification.objects.get()
    answer = console.get(address(BooksVerification, "change", run.pk))
    home = text_of(console.get(reverse("admin:index")))

    assert not run.passed
    assert f'href="{address(Wallet, "change", account.pk)}"' in answer.content.decode()
    assert f"every wallet balance is the sum of its ledger entries what expected found {account.pk} 100 90" in text_of(answer)
    assert f"FAILED 2 of {number_of_checks()} checks" in home


def test_every_check_says_what_its_differences_name() -> None:
    assert set(CHECKED_OBJECTS) == {check.name for check in (*CHECKS, SEALS, CHECKPOINTS)}


@pytest.mark.parametrize(
    ("check", "what", "link"),
    [
        (
            CHECKS[0].name,
            "019abcde-0000-7000-8000-000000000000 credit",
            "/ledgertransaction/019abcde-0000-7000-8000-000000000000/",
        ),
        (CHECKS[5].name, "17", "/ledgerentry/17/"),
        (CHECKS[8].name, SOME_ID, f"/hold/{SOME_ID}/"),
        (SEALS.name, "2026-11-16", "/dayseal/2026-11-16/"),
        ("a check of another time", "<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
    ],
)
def test_differences_of_any_check_are_shown(console: Client, check: str, what: str, link: str) -> None:
    now = clock.now()
    run = BooksVerification.objects.create(
        started_at=now,
        finished_at=now + timedelta(seconds=90),
        passed=False,
        checks=[{"name": check, "differences": [[what, "1", "2"]]}],
    )

    answer = console.get(address(BooksVerification, "change", run.pk))

    assert link in answer.content.decode()
    assert "90 sec" in text_of(answer)


def test_home_says_that_the_books_were_never_verified(console: Client) -> None:
    assert "Verified never" in text_of(console.get(reverse("admin:index")))


def test_home_without_the_right_hides_the_books(db: None) -> None:
    page = clerk_with("view_usagerecord").get(reverse("admin:index")).content.decode()

    assert "books-state" not in page
    assert reverse("admin:losses") not in page


# --- Kept answers ---


def test_kept_answer_is_never_read(console: Client, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = call(account, kept=True)

    def refuse(*args: Any) -> None:
        raise AssertionError("an answer was decrypted")

    monkeypatch.setattr(EncryptedTextField, "from_db_value", refuse)
    lists = console.get(list_address(StoredAnswer))
    page = console.get(address(StoredAnswer, "change", request_id))
    history = console.get(address(StoredAnswer, "history", request_id))
    usage = console.get(address(UsageRecord, "change", request_id))

    assert (lists.status_code, page.status_code, history.status_code, usage.status_code) == (200, 200, 200, 200)
    assert "kept, encrypted" in text_of(page)
    assert ANSWER not in "".join(answer.content.decode() for answer in (lists, page, history, usage))


def test_answer_too_large_to_keep_is_told(console: Client, account: Account) -> None:
    StoredAnswer.objects.create(
        id=uuid7(), account=account, key="big", body_hash="b" * 64, status=200, content=None, expires_at=clock.now()
    )

    assert "too large to keep" in text_of(console.get(list_address(StoredAnswer)))


def test_answer_found_by_its_key(console: Client, account: Account) -> None:
    request_id = call(account, kept=True)
    call(account, kept=True)

    answer = console.get(list_address(StoredAnswer), {"q": f"order-{request_id}"})

    assert answer.context["cl"].result_count == 1


# --- Losses ---


@pytest.fixture
def lost(account: Account) -> tuple[UUID, UUID, UUID]:
    """A call that cost us 0.001 USD, one whose process died (0.02 USD), one with 50 credits not covered by the balance."""
    paid = call(account)
    died = hold(account)
    Hold.objects.filter(pk=died).update(expires_at=clock.now() - timedelta(seconds=1))
    holds_reap()
    uncovered = call(account, price=D("148.65"))
    return paid, died, uncovered


def test_losses_tell_each_call_and_the_totals(console: Client, lost: tuple[UUID, UUID, UUID]) -> None:
    answer = console.get(reverse("admin:losses"))

    page = text_of(answer)
    links = [address(UsageRecord, "change", request_id) in answer.content.decode() for request_id in lost]
    assert links == [True, True, True]
    assert "Operator loss 0.002 USD, 2 entries" in page
    assert "Operator loss 50 credits, 1 entry" in page
    assert "Unknown cost 0.02 USD, 1 entry" in page
    assert "Unknown cost 0.02 USD Sara The serving process died groq llama-3.3-70b The process serving the call died" in page
    assert "Operator loss 50 credits Sara Complete groq llama-3.3-70b test" in page


def test_losses_agree_with_the_home(console: Client, lost: tuple[UUID, UUID, UUID]) -> None:
    home = console.get(reverse("admin:index"))

    assert "Operator loss 0.002 USD Price not covered 50 credits Unknown cost 0.02 USD" in text_of(home)
    assert home.content.decode().count(f'href="{reverse("admin:losses")}?kind=') == 3


def test_losses_of_one_kind(console: Client, lost: tuple[UUID, UUID, UUID]) -> None:
    page = console.get(reverse("admin:losses"), {"kind": "operator_loss", "unit": "credit"})

    assert [line.lost for line in page.context["lines"]] == [D(50)]
    assert [total.amount for total in page.context["totals"]] == [D(50)]


def test_late_result_takes_the_unknown_cost_back(console: Client, account: Account) -> None:
    died = hold(account)
    Hold.objects.filter(pk=died).update(expires_at=clock.now() - timedelta(seconds=1))
    holds_reap()
    call(account, request_id=died)

    page = console.get(reverse("admin:losses"), {"kind": "unknown_cost"})

    assert [line.lost for line in page.context["lines"]] == [D("-0.02"), D("0.02")]
    assert {line.request_id for line in page.context["lines"]} == {died}
    assert [(total.amount, total.entries) for total in page.context["totals"]] == [(D(0), 2)]


def test_losses_of_other_days_are_left_out(console: Client, account: Account) -> None:
    with freeze_time(datetime(2026, 1, 10, 23, 59, 59, tzinfo=UTC)):
        call(account)

    def lines(since: str, until: str) -> int:
        return len(console.get(reverse("admin:losses"), {"since": since, "until": until}).context["lines"])

    assert [lines("2026-01-10", "2026-01-10"), lines("2026-01-11", "2026-01-12"), lines("2026-01-01", "2026-01-09")] == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(
    "query",
    [
        {"since": "2026-02-02", "until": "2026-02-01"},
        {"since": "yesterday"},
        {"kind": "wallet"},
        {"unit": "DZD'"},
        {"until": "9999-12-31"},
        {"since": "0001-01-01"},
        {"page": "9e9"},
    ],
)
def test_losses_survive_any_question(console: Client, lost: tuple[UUID, UUID, UUID], query: dict[str, str]) -> None:
    assert console.get(reverse("admin:losses"), query).status_code == 200


def test_losses_need_the_right_to_see_entries(db: None) -> None:
    clerk = clerk_with("view_usagerecord")
    allowed = User.objects.create_user("allowed@example.com", "x", is_staff=True)
    allowed.user_permissions.set(Permission.objects.filter(codename="view_ledgerentry"))
    auditor = Client()
    auditor.force_login(allowed)

    assert clerk.get(reverse("admin:losses")).status_code == 403
    assert auditor.get(reverse("admin:losses")).status_code == 200
    assert Client().get(reverse("admin:losses")).status_code == 302


def test_losses_cost_the_same_for_1_and_12(console: Client, account: Account) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            console.get(reverse("admin:losses"))
        return len(captured)

    call(account)
    queries()
    few = queries()
    [call(account) for _number in range(11)]
    many = queries()

    assert many == few


# --- A balance at a time ---


def test_balance_at_a_time_in_the_accounts_zone(console: Client, account: Account) -> None:
    account.time_zone = "Asia/Tokyo"
    account.save()
    at = datetime(2026, 3, 1, 0, 0, tzinfo=UTC)
    with freeze_time(at):
        grant_of(account, expires_at=datetime(2100, 1, 1, tzinfo=UTC))
    wallet = address(Wallet, "change", account.pk)

    before = text_of(console.get(wallet, {"at": "2026-03-01T08:59:59"}))
    since = text_of(console.get(wallet, {"at": "2026-03-01T09:00"}))
    ahead = text_of(console.get(wallet, {"at": "2099-12-31T00:00"}))
    after = text_of(console.get(wallet, {"at": "2100-01-02T00:00"}))

    assert "2026-03-01 08:59:59 Asia/Tokyo (2026-02-28 23:59:59 UTC) 0 credits" in before
    assert "2026-03-01 09:00:00 Asia/Tokyo (2026-03-01 00:00:00 UTC) 7 credits The sum of the wallet's entries" in since
    assert "107 credits What the lots promise" in ahead
    assert "100 credits What the lots promise" in after


def test_entries_behind_a_past_balance_are_linked(console: Client, account: Account) -> None:
    page = console.get(address(Wallet, "change", account.pk), {"at": "2026-03-01T09:00"})

    entries = console.get(page.context["balance_entries"])

    assert entries.status_code == 200
    assert entries.context["cl"].result_count == 0


@pytest.mark.parametrize("at", ["", "tomorrow", "1999-12-31T00:00", "2200-01-02T00:00", "0001-01-01T00:00", "9999-12-31T23:59"])
def test_balance_at_no_time_is_an_error_not_a_balance(console: Client, account: Account, at: str) -> None:
    page = console.get(address(Wallet, "change", account.pk), {"at": at})

    assert page.status_code == 200
    assert page.context["balance_form"].errors
    assert "balance_then" not in page.context


# --- Holds ---


def test_hold_past_expiry_stands_out(console: Client, account: Account) -> None:
    running, overdue = hold(account), hold(account)
    Hold.objects.filter(pk=overdue).update(expires_at=clock.now() - timedelta(minutes=3))

    lists = console.get(list_address(Hold)).content.decode()
    page = text_of(console.get(address(Hold, "change", overdue)))
    fine = text_of(console.get(address(Hold, "change", running)))

    assert (lists.count("state-overdue"), lists.count("state-running")) == (1, 1)
    assert list_address(UsageRecord, f"?q={overdue}") in lists
    assert "Past expiry for 0:03:0" in page
    assert "Running: the call settles it." in fine


# --- Why a call cost what it did ---


def test_usage_page_tells_terms_loss_and_repetition(console: Client, account: Account) -> None:
    request_id = call(account, kept=True)

    page = text_of(console.get(address(UsageRecord, "change", request_id)))

    assert "margin × 1.8 value of a credit 0.01 USD rounding to the millionth" in page
    assert "100 → 98.65 credits" in page
    assert "Operator loss 0.001 USD test" in page
    assert f"order-{request_id} : until" in page
    assert "with status 200 and charged no more" in page


def test_usage_page_without_key_says_so(console: Client, account: Account) -> None:
    page = text_of(console.get(address(UsageRecord, "change", call(account))))

    assert "No answer is kept" in page


def test_usage_page_tells_what_was_not_covered(console: Client, account: Account) -> None:
    request_id = call(account, price=D("150"))

    page = text_of(console.get(address(UsageRecord, "change", request_id)))

    assert "not covered by the balance, booked as our loss: 50" in page
    assert "Operator loss 50 credit test" in page
    assert "100 → 0 credits" in page


def test_usage_page_links_the_price_row(console: Client, populate: Callable[[int, int], None], account: Account) -> None:
    populate(1, 1)
    price = ModelPrice.objects.get()
    request_id = call(account)
    UsageRecord.objects.filter(pk=request_id).update(price={"price_id": str(price.pk)})

    page = console.get(address(UsageRecord, "change", request_id)).content.decode()

    assert f'<a href="{address(ModelPrice, "change", price.pk)}">Price …{str(price.pk)[-8:]} of groq/llama-3.3-70b</a>' in page


def test_service_is_explained_by_units_and_price(console: Client, account: Account, free_plan: Plan) -> None:
    Plan.objects.filter(pk=free_plan.pk).update(features={"rag": True}, billing_mode="credits", daily_limit=None)
    service = ServicePrice.objects.create(code="rag", name="Search", credits=D("1.5"))
    charged = credits_consume(
        account=account,
        service=service,
        units=D(3),
        request_id="doc-9",
        api_key_id=None,
        subscription_of=subscription_live,
    )

    answer = console.get(address(UsageRecord, "change", charged.id))
    page = text_of(answer)
    lists = text_of(console.get(list_address(UsageRecord)))

    assert "3 × 1.5 credits (rag) = 4.5 credits Charged: 4.5 credits" in page
    assert "rag , request id doc-9" in page
    assert "100 → 95.5 credits" in page
    assert address(ServicePrice, "change", service.pk) in answer.content.decode()
    assert "From tokens to credits" not in page
    assert "service:rag" in lists


def test_charge_that_the_price_does_not_explain_is_told(console: Client, account: Account) -> None:
    request_id = call(account)
    UsageRecord.objects.filter(pk=request_id).update(list_cost_usd=D("0.01"))

    page = text_of(console.get(address(UsageRecord, "change", request_id)))

    assert "The snapshot of prices gives 1.8 credits: it does not explain the charge." in page


def grant_of(account: Account, **fields: Any) -> Lot:
    return credits_grant(
        account_id=account.pk,
        amount=D(7),
        kind="bonus",
        source="test",
        reason="test",
        actor=SYSTEM,
        idempotency_key=str(uuid7()),
        **fields,
    )
