"""Two years of fifty accounts with a moving clock: month ends, a leap day, clock changes, late and missing payments, upgrades
on the 31st, pauses. What every account was billed and where it ended is known to the dinar; the books verify at the end.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.db.models import Sum
from freezegun import freeze_time
from pytest_django.plugin import DjangoDbBlocker

from billing.accounts.models import Account
from billing.events.services import SYSTEM
from billing.invoices.balance import money_balance
from billing.invoices.models import Invoice, SellerProfile
from billing.ledger.models import Lot, Wallet
from billing.ledger.services import due_wallets_roll
from billing.payments.defaults import selling_write
from billing.plans.catalog import catalog_writing
from billing.plans.models import Plan
from billing.subscriptions import dunning, jobs
from billing.subscriptions.changes import plan_change, subscription_pause, subscription_resume
from billing.subscriptions.models import Subscription
from billing.subscriptions.selectors import subscription_live
from billing.subscriptions.services import subscription_start
from tests.billing.subscriptions.selling import CUSTOMER, live, pay, plan_make, spend, subscribe, wrong
from tests.factories import account_make, lot_make

pytestmark = pytest.mark.django_db

# The last day of a month, at noon UTC: 13:00 in Algiers, 14:00 in Paris after the clock change two days before.
BEGIN = datetime(2026, 3, 31, 12, tzinfo=UTC)
END = datetime(2028, 4, 3, 13, tzinfo=UTC)


@dataclass
class Customer:
    """An account that pays its renewals some days after they are invoiced, unless it skips them."""

    account: Account
    group: str
    pays_after: timedelta = timedelta(0)
    skips: set[str] = field(default_factory=set)
    """Periods, by the day they begin, that it does not pay."""

    def pays(self, invoice: Invoice, now: datetime) -> bool:
        skipped = invoice.period_start.date().isoformat() in self.skips
        return not skipped and now >= invoice.issued_at + self.pays_after


@dataclass
class World:
    """The fifty customers and what they do on which day."""

    customers: list[Customer] = field(default_factory=list)
    deeds: dict[str, list[Callable[[], object]]] = field(default_factory=dict)

    def add(self, count: int, group: str, *, zone: str = "Africa/Algiers", **fields: object) -> list[Customer]:
        made = []
        for _ in range(count):
            account = account_make()
            account.time_zone = zone
            account.save()
            subscription_start(account=account, plan=Plan.objects.get(code="free"), actor=SYSTEM)
            made.append(Customer(account, group, **fields))  # type: ignore[arg-type]
        self.customers += made
        return made

    def on(self, day: str, deed: Callable[[], object]) -> None:
        self.deeds.setdefault(day, []).append(deed)

    def of(self, group: str) -> list[Customer]:
        return [customer for customer in self.customers if customer.group == group]


def change(customer: Customer, plan: Plan) -> None:
    changed = plan_change(subscription=live(customer.account), plan=plan, actor=CUSTOMER)
    if changed.to_pay is not None:
        pay(changed.to_pay)


@pytest.fixture(scope="module")
def world(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator["World"]:
    """Two years, lived once for all tests of this module; what they left is removed afterwards."""
    with django_db_blocker.unblock():
        yield live_two_years()
        call_command("flush", interactive=False, inhibit_post_migrate=False)


def live_two_years() -> World:
    with freeze_time(BEGIN) as time:
        with catalog_writing() as writer:
            selling_write(writer)
        SellerProfile.objects.update(tax_registered=True)
        plan_make("free", None, family="free", interval="none", daily_limit=3)
        pro, plus = plan_make("pro", "3000"), plan_make("plus", "6000")
        small = plan_make("small", "2000", billing_mode="credits", period_credits=500)
        large = plan_make("large", "5000", billing_mode="credits", period_credits=2000)
        world = World()
        for customer in world.add(15, "steady"):
            subscribe(customer.account, pro)
        for customer in world.add(5, "paris", zone="Europe/Paris"):
            subscribe(customer.account, pro)
        for customer in world.add(5, "late", pays_after=timedelta(days=5)):
            subscribe(customer.account, pro)
        for customer in world.add(5, "lapses", skips={"2026-09-30"}):
            subscribe(customer.account, pro)
            world.on("2026-10-13", lambda customer=customer: subscribe(customer.account, pro))
        for customer in world.add(5, "upgrades"):
            subscribe(customer.account, pro)
            world.on("2026-08-31", lambda customer=customer: change(customer, plus))
            world.on("2027-08-31", lambda customer=customer: change(customer, pro))
        for customer in world.add(5, "credits"):
            lot_make(customer.account.pk, 1000)
            subscribe(customer.account, small)
            world.on("2026-05-15", lambda customer=customer: spend(customer.account, "450"))
            world.on("2026-05-16", lambda customer=customer: change(customer, large))
            world.on("2026-12-05", lambda customer=customer: spend(customer.account, "2300"))
        for customer in world.add(5, "pauses"):
            subscribe(customer.account, pro)
            world.on(
                "2026-06-15", lambda customer=customer: subscription_pause(subscription=live(customer.account), actor=CUSTOMER)
            )
            world.on(
                "2026-09-15", lambda customer=customer: subscription_resume(subscription=live(customer.account), actor=CUSTOMER)
            )
        for customer in world.add(5, "leap"):
            world.on("2028-02-29", lambda customer=customer: subscribe(customer.account, pro))
        payers = {customer.account.pk: customer for customer in world.customers}
        moment = BEGIN.replace(hour=13)
        while moment <= END:
            time.move_to(moment)
            jobs.renewals_run()
            due_wallets_roll()
            dunning.dunning_run()
            for invoice in Invoice.objects.filter(state="open", kind="invoice").order_by("sequence"):
                if payers[invoice.account_id].pays(invoice, moment):
                    pay(invoice)
            for deed in world.deeds.get(moment.date().isoformat(), ()):
                deed()
            moment += timedelta(days=1)
    return world


def invoices_of(customer: Customer) -> list[tuple[str, str, str]]:
    """Period begins, total and state of everything billed, in order."""
    issued = (
        Invoice.objects.filter(account=customer.account, kind="invoice")
        .exclude(state="draft")
        .order_by("issued_at", "sequence")
    )
    return [(invoice.period_start.date().isoformat(), f"{invoice.total:.2f}", invoice.state) for invoice in issued]


def states_of(customer: Customer) -> list[str]:
    return list(
        Subscription.objects.filter(account=customer.account).order_by("created_at", "id").values_list("state", flat=True)
    )


MONTH_ENDS = [
    "2026-03-31",
    "2026-04-30",
    "2026-05-31",
    "2026-06-30",
    "2026-07-31",
    "2026-08-31",
    "2026-09-30",
    "2026-10-31",
    "2026-11-30",
    "2026-12-31",
    "2027-01-31",
    "2027-02-28",
    "2027-03-31",
    "2027-04-30",
    "2027-05-31",
    "2027-06-30",
    "2027-07-31",
    "2027-08-31",
    "2027-09-30",
    "2027-10-31",
    "2027-11-30",
    "2027-12-31",
    "2028-01-31",
    "2028-02-29",
    "2028-03-31",
]


def test_fifty_accounts(world: World) -> None:
    assert len(world.customers) == 50


@pytest.mark.parametrize("group", ["steady", "paris", "late"])
def test_who_pays_is_billed_every_month_end(world: World, group: str) -> None:
    billed = {tuple(invoices_of(customer)) for customer in world.of(group)}
    states = {tuple(states_of(customer)) for customer in world.of(group)}

    assert billed == {tuple((day, "3000.00", "paid") for day in MONTH_ENDS)}
    assert states == {("canceled", "active")}


def test_noon_stays_noon_where_the_clocks_change(world: World) -> None:
    paris, algiers = world.of("paris")[0], world.of("steady")[0]

    summer = Invoice.objects.get(account=paris.account, period_start__date="2026-08-31").period_start
    winter = Invoice.objects.get(account=paris.account, period_start__date="2026-12-31").period_start
    elsewhere = Invoice.objects.get(account=algiers.account, period_start__date="2026-12-31").period_start

    # 14:00 in Paris all the year round; Algiers keeps one time.
    assert (summer.hour, winter.hour, elsewhere.hour) == (12, 13, 12)


def test_who_pays_late_has_the_period_of_who_paid_in_time(world: World) -> None:
    late, steady = live(world.of("late")[0].account), live(world.of("steady")[0].account)

    assert (late.current_period_start, late.current_period_end) == (steady.current_period_start, steady.current_period_end)
    assert Invoice.objects.filter(account=late.account, paid_at__gt=late.current_period_start).count() == 1


def test_who_lapses_falls_back_to_free_and_comes_back_anew(world: World) -> None:
    billed = {tuple(invoices_of(customer)) for customer in world.of("lapses")}
    states = {tuple(states_of(customer)) for customer in world.of("lapses")}
    first_half = [(day, "3000.00", "paid") for day in MONTH_ENDS[:6]]
    # From the 13th of October on the 13th is the day.
    again = [(f"{2026 + (month - 1) // 12}-{(month - 1) % 12 + 1:02}-13", "3000.00", "paid") for month in range(10, 28)]

    assert states == {("canceled", "expired", "canceled", "active")}
    assert billed == {(*first_half, ("2026-09-30", "3000.00", "void"), *again)}


def test_who_upgrades_on_the_31st_pays_the_difference_and_then_the_new_price(world: World) -> None:
    billed = {tuple(invoices_of(customer)) for customer in world.of("upgrades")}
    # An hour after the period of 30 days began: 719 of 720 hours of 6000 less those of 3000: 5991.67 - 2995.83, whole dinars.
    before = [(day, "3000.00", "paid") for day in MONTH_ENDS[:6]]
    change = [("2026-08-31", "2996.00", "paid")]
    dear = [(day, "6000.00", "paid") for day in MONTH_ENDS[6:18]]
    cheap = [(day, "3000.00", "paid") for day in MONTH_ENDS[18:]]

    assert billed == {(*before, *change, *dear, *cheap)}


def test_who_spent_its_credits_does_not_get_them_back(world: World) -> None:
    customer = world.of("credits")[0]
    [changed] = Invoice.objects.filter(account=customer.account, purpose="change")
    lines = [(line.kind, line.gross) for line in changed.lines.exclude(kind__in=("tax", "rounding"))]
    # From 16 May 13:00 to 31 May 12:00 of 30 April to 31 May: 359 of 744 hours, so 5000 * 359 / 744 = 2412.63. Of the old
    # plan 50 of 500 credits are left: 2000 / 10 = 200.
    lot = Lot.objects.get(wallet=customer.account.pk, grant_key__endswith=":large")

    assert lines == [("proration", Decimal("2412.63")), ("proration", Decimal("-200.00"))]
    assert lot.amount == Decimal("965.053763")  # 2000 * 359 / 744


def test_bought_credits_are_what_they_were_but_for_what_was_spent(world: World) -> None:
    bought = Lot.objects.filter(wallet__in=[customer.account.pk for customer in world.of("credits")], kind="purchase")

    # In December 2300 were spent: the period's 2000 first, then 300 of the 1000 bought.
    assert Counter(bought.values_list("remaining", flat=True)) == {Decimal(700): 5}
    assert set(bought.values_list("closed_at", flat=True)) == {None}


def test_who_pauses_gets_the_rest_of_the_period(world: World) -> None:
    billed = {tuple(invoices_of(customer)) for customer in world.of("pauses")}
    days = [day for day, _, _ in invoices_of(world.of("pauses")[0])]

    # Paused for 92 days from 15 June: the period to 30 June ends on 30 September, and the 30th is the day from then on.
    assert days[:5] == ["2026-03-31", "2026-04-30", "2026-05-31", "2026-09-30", "2026-10-30"]
    assert days[7:10] == ["2027-01-30", "2027-02-28", "2027-03-30"]
    assert len(billed) == 1
    assert {state for _, _, state in invoices_of(world.of("pauses")[0])} == {"paid"}


def test_leap_day_is_an_anchor_like_another(world: World) -> None:
    subscriptions = [live(customer.account) for customer in world.of("leap")]

    assert {invoice for customer in world.of("leap") for invoice in invoices_of(customer)} == {
        ("2028-02-29", "3000.00", "paid"),
        ("2028-03-29", "3000.00", "paid"),
    }
    assert {subscription.current_period_end for subscription in subscriptions} == {datetime(2028, 4, 29, 13, tzinfo=UTC)}


def test_numbers_are_gapless_per_year_and_in_the_order_of_their_dates(world: World) -> None:
    issued = Invoice.objects.filter(kind="invoice", sequence__isnull=False).order_by("fiscal_year", "sequence")
    years = {year: list(issued.filter(fiscal_year=year).values_list("sequence", flat=True)) for year in (2026, 2027, 2028)}
    dates = list(issued.values_list("issue_date", flat=True))

    assert {year: sequences == list(range(1, len(sequences) + 1)) for year, sequences in years.items()} == dict.fromkeys(
        years, True
    )
    assert dates == sorted(dates)
    assert issued.count() == 25 * 25 + 5 * 25 + 5 * 26 + 5 * 26 + 5 * 22 + 5 * 2


def test_no_period_is_billed_twice_and_none_is_left_out(world: World) -> None:
    paid = Invoice.objects.filter(purpose="period", state="paid")
    starts = Counter(paid.values_list("subscription_id", "period_start"))
    spans: dict[object, list[tuple[datetime, datetime]]] = {}
    for subscription_id, start, end in paid.order_by("period_start").values_list(
        "subscription_id", "period_start", "period_end"
    ):
        spans.setdefault(subscription_id, []).append((start, end))
    breaks = [
        (subscription_id, before, after)
        for subscription_id, periods in spans.items()
        for (_, before), (after, _) in itertools.pairwise(periods)
        if before != after
    ]
    paused = {live(customer.account).pk for customer in world.of("pauses")}

    assert set(starts.values()) == {1}
    # Only a pause moves the end of a period that was billed.
    assert {subscription_id for subscription_id, _, _ in breaks} == paused


def test_every_dinar_is_accounted_for(world: World) -> None:
    paid = Invoice.objects.filter(state="paid").aggregate(total=Sum("total"))["total"]
    steady = 25 * 25 * 3000  # fifteen, five in Paris, five late
    lapsed = 5 * (6 + 18) * 3000
    upgraded = 5 * (Decimal("2996") + 6 * 3000 + 12 * 6000 + 7 * 3000)
    credits = 5 * (2 * 2000 + Decimal("2213") + 23 * 5000)
    paused = 5 * 22 * 3000
    leap = 5 * 2 * 3000

    assert paid == steady + lapsed + upgraded + credits + paused + leap
    assert {money_balance(customer.account.pk, "DZD") for customer in world.customers} == {Decimal(0)}


def test_everybody_has_a_plan_and_nobody_owes(world: World) -> None:
    plans = Counter(subscription_live(customer.account).plan.code for customer in world.customers)  # type: ignore[union-attr]

    assert plans == {"pro": 45, "large": 5}
    assert not Invoice.objects.filter(state__in=("open", "uncollectible")).exists()
    assert not Wallet.objects.filter(balance__lt=0).exists()


def test_the_books_verify(world: World) -> None:
    assert wrong() == []
