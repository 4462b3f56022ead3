"""Every kind of rule: what opens an alert, what it says, and what resolves it. Each finding leads to a page that opens."""

import ssl
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.test import Client
from django.utils import translation
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_redis import get_redis_connection
from pytest_django import Settings

from billing.accounts.models import Account
from billing.events.services import SYSTEM, event_record
from billing.ledger.models import BooksVerification, Hold
from billing.payments.inbox.models import GatewayWebhook
from billing.payments.models import Dispute, Payment, Refund
from billing.payments.reconciliation.models import Reconciliation, ReconciliationRow
from billing.plans.models import Plan, PlanPrice
from billing.webhooks.models import WebhookDelivery, WebhookEndpoint
from billing.webhooks.services import endpoint_create, endpoint_test
from dashboard.alerts.conditions import providers
from dashboard.alerts.models import Alert, AlertRule
from dashboard.alerts.queues import queue_depth_tell
from dashboard.alerts.services import rules_look
from dashboard.jobs.models import JobState
from dashboard.jobs.selectors import HEARTBEAT_TASK
from iafactory.common import clock
from iafactory.common.ids import uuid7
from ratelimit.models import AbuseSignal
from ratelimit.signals import signal_raise
from routing.economics import plan_economics, risk_accepted
from routing.health.state import RouteHealth
from routing.health.store import HEALTH_KEY, encode_record
from routing.models import AiModel, Budget, HealthCheck, ModelProfile, PlanRouting, Provider, ProviderCredential
from tests.billing.webhooks.receiver import Receiver
from tests.factories import account_make
from tests.routing.budgets.conftest import spent, under_way

from .conftest import NOON

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
Now = Callable[[], list[tuple[str, str, str]]]


@pytest.fixture
def open_now(db: None, client: Client, django_user_model: Any) -> Callable[..., list[tuple[str, str, str]]]:
    """Looks at a rule of this kind and tells what is open: subject, level, title. Its links must open."""
    operator = django_user_model.objects.create_superuser("operator@example.com", "correct horse battery")
    client.force_login(operator)

    def look(kind: str, at: datetime = NOON, **thresholds: int) -> list[tuple[str, str, str]]:
        AlertRule.objects.get_or_create(code=kind, defaults={"name": kind, "kind": kind, "level": "warning"})
        AlertRule.objects.filter(code=kind).update(thresholds=thresholds)
        assert rules_look(now=at, kinds=[kind]).failed == 0, AlertRule.objects.get(code=kind).look_error
        alerts = Alert.objects.filter(state="open").order_by("subject")
        assert [client.get(alert.link).status_code for alert in alerts] == [200] * len(alerts)
        with translation.override("ar"):
            assert [alert.title for alert in alerts if alert.shown_title == alert.title] == []
        return [(alert.subject, alert.level, alert.title) for alert in alerts]

    return look


Open = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture
def account(db: None) -> Account:
    return account_make()


@pytest.fixture
def groq(db: None) -> Provider:
    return Provider.objects.create(slug="groq", name="Groq", protocol="openai", base_url="https://api.groq.com/openai/v1")


@pytest.fixture
def key(groq: Provider) -> ProviderCredential:
    return ProviderCredential.objects.create(provider=groq, label="main", secret="sk-x", created_at=NOON - HOUR)


@pytest.fixture
def routes(groq: Provider, key: ProviderCredential) -> list[ModelProfile]:
    model = AiModel.objects.create(name="llama")
    return [ModelProfile.objects.create(slug=f"groq/{name}", provider=groq, model=model, upstream_model=name) for name in "ab"]


@pytest.fixture(autouse=True)
def no_health() -> None:
    get_redis_connection("default").delete(HEALTH_KEY, "iaf:alerts:bookings")


def health(route: str, **fields: Any) -> None:
    get_redis_connection("default").hset(HEALTH_KEY, route, encode_record(RouteHealth(**fields)))


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def payment(account: Account, **fields: Any) -> Payment:
    return Payment.objects.create(
        account=account, purpose="topup", gateway="stripe", mode="test", amount=10, currency="USD", **fields
    )


# --- Money ---


def test_budget_at_75_90_and_100_percent(open_now: Open, account: Account, groq: Provider) -> None:
    Budget.objects.create(daily_limit_usd=10, monthly_limit_usd=1000)
    Budget.objects.create(provider=groq, daily_limit_usd=Decimal("9.5"))
    spent(account, "groq", "7.4")
    under_way(account, "groq", "5")
    before = open_now("budget")
    spent(account, "groq", "0.1")
    at_75 = open_now("budget")
    spent(account, "groq", "1.5")
    at_90 = open_now("budget")
    spent(account, "groq", "1")
    at_100 = open_now("budget")
    Budget.objects.filter(provider=None).update(daily_limit_usd=100)

    assert before == [("groq:day", "warning", "Budget of the day, groq: 77 % spent")]
    assert at_75[0] == ("all:day", "warning", "Budget of the day, all providers: 75 % spent")
    assert at_90[0] == ("all:day", "critical", "Budget of the day, all providers: 90 % spent")
    assert at_100[0] == ("all:day", "critical", "Budget of the day, all providers: 100 % spent")
    assert open_now("budget") == [("groq:day", "critical", "Budget of the day, groq: 105 % spent")]
    assert Alert.objects.get(subject="all:day").notices == 4
    assert "5 USD more are reserved" in Alert.objects.get(subject="groq:day").text


def test_budget_thresholds_are_the_rules_own(open_now: Open, account: Account) -> None:
    Budget.objects.create(daily_limit_usd=10)
    spent(account, "groq", "5")

    assert open_now("budget") == []
    assert open_now("budget", warning_percent=50) == [("all:day", "warning", "Budget of the day, all providers: 50 % spent")]


def test_more_than_ten_users_over_the_limit(open_now: Open) -> None:
    def over(signal: str = "messages_a_day") -> None:
        signal_raise(subject=f"account:{account_make().pk}", signal=signal, evidence={}, now=NOON)

    for _ in range(10):
        over()
    over("lost_calls")
    ten = open_now("abuse")
    over()
    eleven = open_now("abuse")
    AbuseSignal.objects.filter(signal="messages_a_day").update(state="dismissed", closed_at=NOON)

    assert ten == []
    assert eleven == [("all", "warning", "11 users are over the limit of messages")]
    assert open_now("abuse") == []


def test_payments_in_review_unapplied_and_disputed(open_now: Open, account: Account) -> None:
    review = payment(account, state="review")
    unapplied = payment(account, state="succeeded", paid_at=NOON, received_amount=10, unapplied_amount=10)
    dispute = Dispute.objects.create(
        payment=unapplied,
        gateway_dispute_id="d",
        amount=1,
        currency="USD",
        opened_at=NOON,
        respond_by=NOON + timedelta(hours=72),
    )
    found = open_now("payments")
    Payment.objects.filter(pk=review.pk).update(state="canceled")
    Payment.objects.filter(pk=unapplied.pk).update(unapplied_amount=0)
    Dispute.objects.filter(pk=dispute.pk).update(respond_by=NOON + timedelta(hours=73))

    assert found == [
        ("disputes", "warning", "1 dispute wants an answer soon"),
        ("review", "warning", "1 payment waits for review"),
        ("unapplied", "warning", "1 payment brought money that pays nothing"),
    ]
    assert open_now("payments") == []


def test_differences_with_gateways_and_days_not_compared(open_now: Open, account: Account) -> None:
    run = Reconciliation.objects.create(gateway="stripe", mode="test", day=date(2026, 11, 16), state="waiting")
    row = ReconciliationRow.objects.create(
        reconciliation=run,
        gateway="stripe",
        mode="test",
        subject="payment",
        key="pi_1",
        outcome="over",
        state="open",
        checked_at=NOON,
    )
    found = open_now("payments")
    ReconciliationRow.objects.filter(pk=row.pk).update(state="explained")
    Reconciliation.objects.filter(pk=run.pk).update(day=date(2026, 11, 17))

    assert found == [
        ("mismatch", "warning", "1 difference between our books and the gateways"),
        ("unreconciled", "warning", "1 day is not compared with its gateways"),
    ]
    assert open_now("payments") == []


def test_webhooks_of_gateways_that_fail_wait_or_cannot_be_verified(open_now: Open) -> None:
    def webhook(gateway: str, state: str, number: int = 0, **fields: Any) -> None:
        verified = {} if state == "rejected" else {"verified_at": NOON, "event_id": f"e{number}"}
        received = fields.pop("received_at", NOON)
        row = GatewayWebhook.objects.create(
            gateway=gateway, mode="test", state=state, body=b"{}", body_sha256="a" * 64, **verified, **fields
        )
        GatewayWebhook.objects.filter(pk=row.pk).update(received_at=received)

    webhook("paypal", "failed", attempts=2)
    webhook("payu", "received", received_at=NOON - timedelta(minutes=14))
    for _ in range(19):
        webhook("chargily", "rejected")
    before = open_now("gateway_webhooks")
    GatewayWebhook.objects.filter(gateway="paypal").update(attempts=3)
    GatewayWebhook.objects.filter(gateway="payu").update(received_at=NOON - timedelta(minutes=15))
    webhook("chargily", "rejected")
    found = open_now("gateway_webhooks")
    GatewayWebhook.objects.exclude(state="rejected").update(state="processed", verified_at=NOON, event_id="x")

    assert before == []
    assert open_now("gateway_webhooks", rejected_an_hour=21) == []
    assert [subject for subject, _level, _title in found] == ["chargily", "paypal", "payu"]
    assert found[1] == ("paypal", "warning", "Webhooks of PayPal are not worked")
    assert Alert.objects.get(subject="chargily").text == ("Failed: 0. Waiting: 0. Not verified within an hour: 20.")


def test_books_that_do_not_agree_or_were_not_verified(open_now: Open) -> None:
    account_make(credits=10)
    fresh = open_now("books", clock.now())
    never = open_now("books", clock.now() + timedelta(hours=37))
    BooksVerification.objects.create(
        started_at=NOON, finished_at=NOON, passed=False, checks=[{"name": "wallets", "differences": ["x"]}]
    )
    differ = open_now("books", clock.now() + timedelta(hours=38))
    text = Alert.objects.get(state="open").text
    BooksVerification.objects.create(started_at=NOON + HOUR, finished_at=NOON + HOUR, passed=True, checks=[])

    assert fresh == []
    assert [found[0] for found in never] == ["books"]
    assert differ == [("books", "critical", "The books do not agree")]
    assert "wallets" in text
    last = clock.now() + timedelta(hours=39)
    BooksVerification.objects.create(started_at=last, finished_at=last, passed=True, checks=[])
    assert open_now("books", last) == []


def test_a_plan_on_sale_that_can_lose_money_unless_accepted(open_now: Open) -> None:
    plan = Plan.objects.create(code="gift", family="x", name="Gift", billing_mode="quota", visibility="public")
    PlanPrice.objects.create(plan=plan, currency="USD", amount=5, effective_from=NOON - HOUR)
    routing = PlanRouting.objects.create(
        plan=plan, strategy="split", split={"groq": 100}, models_allowed=["*"], cost_allowance_usd=6
    )
    found = open_now("plan_margin")
    text = Alert.objects.get().text
    economics = plan_economics(plan, at=NOON)
    assert economics is not None
    risk_accepted(economics=economics, actor=SYSTEM, reason="A gift")
    accepted = open_now("plan_margin")
    PlanRouting.objects.filter(pk=routing.pk).update(cost_allowance_usd=7)
    worse = open_now("plan_margin")
    PlanRouting.objects.filter(pk=routing.pk).update(cost_allowance_usd=4)

    assert found == worse == [("gift", "warning", "Plan gift can lose money")]
    assert "A period earns 5.00 USD and may cost 6.00 USD" in text
    assert accepted == []
    assert open_now("plan_margin") == []


def test_losses_of_a_day(open_now: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.dashboard.conftest import call

    [call(account_make(credits=10)) for _ in range(2)]
    now = clock.now()

    assert open_now("losses", now) == []
    assert open_now("losses", now, usd_a_day=0) == [("usd", "warning", "0 USD borne by us in a day")]
    assert open_now("losses", now + timedelta(hours=25), usd_a_day=0) == []


# --- Providers ---


def test_a_breaker_that_stays_open(open_now: Open, routes: list[ModelProfile]) -> None:
    health("groq/a", opened=True, changed_at_ms=ms(NOON - timedelta(seconds=119)), reason="timeout", openings=3)
    health("groq/b", opened=True, by_operator=True, changed_at_ms=ms(NOON - HOUR))
    fresh = open_now("breaker_open")
    found = open_now("breaker_open", NOON + timedelta(seconds=1))
    text = Alert.objects.get().text
    health("groq/a", opened=False)

    assert fresh == []
    assert found == [("groq/a", "warning", "Breaker of groq/a is open")]
    assert text == "Open since 2026-11-20 11:58 UTC: no answer in time. It is tried again by itself."
    assert open_now("breaker_open", NOON + HOUR) == []


def test_a_provider_none_of_whose_routes_works(open_now: Open, routes: list[ModelProfile]) -> None:
    health("groq/a", opened=True, changed_at_ms=ms(NOON), retry_at_ms=ms(NOON) + 60_000)
    one = open_now("provider_down")
    HealthCheck.objects.create(profile=routes[1], ok=False, checked_at=NOON - timedelta(minutes=5))
    HealthCheck.objects.create(profile=routes[1], ok=False, checked_at=NOON)
    both = open_now("provider_down")
    HealthCheck.objects.create(profile=routes[1], ok=True, checked_at=NOON + timedelta(minutes=5))

    assert one == []
    assert both == [("groq", "warning", "Provider groq is down")]
    assert open_now("provider_down") == []


def test_a_provider_without_a_key_is_not_down(
    open_now: Open, routes: list[ModelProfile], key: ProviderCredential, settings: Settings
) -> None:
    settings.SIMULATOR_URL = ""
    for name in "ab":
        health(f"groq/{name}", opened=True, changed_at_ms=ms(NOON), retry_at_ms=ms(NOON) + 60_000)
    ProviderCredential.objects.update(enabled=False)

    assert open_now("provider_down") == []


def test_while_redis_is_away_breakers_are_left_as_they_are(
    open_now: Open, routes: list[ModelProfile], monkeypatch: pytest.MonkeyPatch
) -> None:
    health("groq/a", opened=True, changed_at_ms=ms(NOON - HOUR))
    before = open_now("breaker_open")
    monkeypatch.setattr(providers, "health_read", lambda: None)

    assert open_now("breaker_open") == before != []
    assert open_now("provider_down") == before


def test_a_credential_that_a_provider_refused(open_now: Open, groq: Provider, key: ProviderCredential) -> None:
    fine = open_now("credentials")
    ProviderCredential.objects.update(test_result="401: wrong key")
    tested = open_now("credentials")
    ProviderCredential.objects.update(
        enabled=False, test_result="", disabled_at=NOON, disabled_reason="The provider refused it."
    )
    by_hand = open_now("credentials")
    event_record(kind="provider_credential.disabled", object_type="provider_credential", object_id=key.pk, actor=SYSTEM)
    refused = open_now("credentials")
    text = Alert.objects.filter(state="open").get().text
    ProviderCredential.objects.create(provider=groq, label="new", secret="sk-y", created_at=NOON + HOUR)

    assert (fine, by_hand) == ([], [])
    assert tested == [(str(key.pk), "warning", "Credential main of groq does not work")]
    assert refused == [(str(key.pk), "critical", "Credential main of groq does not work")]
    assert text == "Credentials of the provider still in use: 0. The provider refused it."
    assert open_now("credentials") == []


def test_a_certificate_that_ends_or_is_not_valid(open_now: Open, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PUBLIC_URL = "https://iafactory.example"
    asked: list[tuple[str, int]] = []
    answers: list[Any] = [
        NOON + timedelta(days=14),
        NOON + timedelta(days=14) - timedelta(seconds=1),
        ConnectionRefusedError(),
        ssl.SSLCertVerificationError("hostname mismatch"),
        NOON + timedelta(days=90),
    ]

    def shown(host: str, port: int) -> datetime:
        asked.append((host, port))
        answer = answers[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return datetime.fromisoformat(answer.isoformat())

    monkeypatch.setattr(providers, "certificate_end", shown)
    far, near, unreachable, invalid, renewed = [open_now("certificate") for _ in range(5)]

    assert asked[0] == ("iafactory.example", 443)
    assert (far, renewed) == ([], [])
    assert near == unreachable == [("iafactory.example", "warning", "Certificate of iafactory.example")]
    assert invalid == [("iafactory.example", "critical", "Certificate of iafactory.example")]


def self_signed(folder: Path, days: int) -> tuple[Path, datetime]:
    """A certificate of localhost with its key, in one file, and when it ends."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begins = clock.now().replace(microsecond=0) - HOUR
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    key = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key)
    return file, begins + timedelta(days=days)


def test_the_certificate_is_the_one_that_visitors_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, ends = self_signed(tmp_path, 30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = Receiver(tls=context)
    try:
        with pytest.raises(ssl.SSLCertVerificationError):
            providers.certificate_end("localhost", server.port)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))

        assert providers.certificate_end("localhost", server.port) == ends
    finally:
        server.stop()


def test_without_https_there_is_no_certificate(open_now: Open, settings: Settings) -> None:
    settings.PUBLIC_URL = "http://127.0.0.1:8000"

    assert open_now("certificate") == []


# --- The product's own work ---


def test_scheduled_work_that_stands_still(open_now: Open) -> None:
    JobState.objects.create(task=HEARTBEAT_TASK, state="done", started_at=NOON - timedelta(seconds=120))
    in_time = open_now("scheduled_work")
    late = open_now("scheduled_work", NOON + timedelta(seconds=1))
    JobState.objects.update(started_at=NOON + HOUR)

    assert in_time == []
    assert late == [("beat", "critical", "Scheduled work stands still")]
    assert open_now("scheduled_work", NOON + HOUR) == []


def test_jobs_that_fail_or_are_late_but_not_those_switched_off(open_now: Open, settings: Settings) -> None:
    settings.CELERY_BEAT_SCHEDULE = {
        "often": {"task": "tests.often", "schedule": 60.0},
        "off": {"task": "tests.off", "schedule": 60.0},
        "breaks": {"task": "tests.breaks", "schedule": 60.0},
    }
    interval, _ = IntervalSchedule.objects.get_or_create(every=60, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.create(name="off", task="tests.off", interval=interval, enabled=False)
    now = clock.now()
    late = now - timedelta(minutes=31, seconds=5)
    JobState.objects.create(task="tests.often", state="done", started_at=late, succeeded_at=late + timedelta(minutes=1))
    JobState.objects.create(task="tests.off", state="failed", started_at=now)
    JobState.objects.create(task="tests.breaks", state="failed", started_at=now, succeeded_at=now - timedelta(minutes=15))
    first = open_now("jobs", now)
    JobState.objects.filter(task="tests.often").update(succeeded_at=late)
    second = open_now("jobs", now + timedelta(seconds=1))
    JobState.objects.update(state="done", succeeded_at=now)

    assert first == []
    assert second == [("breaks", "warning", "Job breaks fails"), ("often", "warning", "Job often is late")]
    assert open_now("jobs", now + timedelta(seconds=2)) == []


def test_after_a_pause_of_the_looks_nothing_is_called_late(open_now: Open, settings: Settings) -> None:
    settings.CELERY_BEAT_SCHEDULE = {"often": {"task": "tests.often", "schedule": 60.0}}
    now = clock.now()
    JobState.objects.create(task="tests.often", state="done", started_at=now - HOUR, succeeded_at=now - HOUR)
    look = JobState.objects.create(
        task="dashboard.alerts.look", state="done", started_at=now, succeeded_at=now - timedelta(minutes=11)
    )
    paused = open_now("jobs", now)
    JobState.objects.filter(pk=look.pk).update(succeeded_at=now - timedelta(minutes=2))

    assert paused == []
    assert open_now("jobs", now) == [("often", "warning", "Job often is late")]


def test_queues_that_grow(open_now: Open, settings: Settings) -> None:
    settings.CELERY_TASK_DEFAULT_QUEUE = f"test-{uuid7()}"
    redis = get_redis_connection("default")
    redis.rpush(settings.CELERY_TASK_DEFAULT_QUEUE, "a", "b", "c")
    queue_depth_tell(process="web", depths={"holds": 3, "settles": 2}, now=NOON)
    shipped = open_now("queues")
    found = open_now("queues", tasks=2, bookings=4)
    redis.delete(settings.CELERY_TASK_DEFAULT_QUEUE)

    assert shipped == []
    assert found == [
        ("bookings", "critical", "5 bookings wait for PostgreSQL"),
        ("tasks", "warning", "3 tasks wait for a worker"),
    ]
    assert open_now("queues", NOON + HOUR, tasks=2, bookings=4) == []


def test_customers_endpoints_that_take_nothing_and_messages_not_sent(open_now: Open, account: Account) -> None:
    endpoint, _ = endpoint_create(account=account, url="https://hooks.example.com/", event_types=["key.created"], actor=SYSTEM)
    endpoint_test(endpoint=endpoint)
    WebhookEndpoint.objects.update(failing_since=NOON - HOUR)
    WebhookDelivery.objects.update(next_attempt_at=NOON - timedelta(minutes=15))
    shipped = open_now("customer_webhooks")
    found = open_now("customer_webhooks", endpoints=1, overdue=1)
    WebhookEndpoint.objects.update(failing_since=None)
    WebhookDelivery.objects.update(next_attempt_at=NOON)

    assert shipped == []
    assert found == [
        ("endpoints", "warning", "1 endpoint of customers takes nothing"),
        ("sending", "warning", "1 message to customers is overdue"),
    ]
    assert open_now("customer_webhooks", endpoints=1, overdue=1) == []


def test_work_that_nobody_did(open_now: Open, account: Account) -> None:
    under_way(account, "groq", "0.1")
    paid = payment(account, state="succeeded", paid_at=NOON, received_amount=10)
    Refund.objects.create(
        payment=paid, amount=1, currency="USD", reason="asked", requested_by="op", requested_at=NOON - timedelta(days=3)
    )
    late = NOON + timedelta(minutes=12)
    found = open_now("left_undone", late)
    Hold.objects.update(expires_at=late)
    Refund.objects.update(state="failed")

    assert found == [
        ("holds", "warning", "1 hold outlives its expiry"),
        ("refunds", "warning", "1 refund is stuck"),
    ]
    assert open_now("left_undone", late) == []
