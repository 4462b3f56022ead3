"""Credits spent by other services: a service's price checked, consumed at once, or held and settled later.

Every charge locks the wallet first and looks at everything else afterwards, so that the daily limit and a repeated request id
are as exact as the balance. Who is subscribed to what is asked through `SubscriptionOf`: the ledger knows no subscriptions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID, uuid5

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum

from billing.accounts.models import Account, AccountLimits
from billing.accounts.services import account_refusal
from billing.events.services import Actor
from billing.plans.models import Plan, ServicePrice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.money import CREDIT, ZERO, credits_quantise, plain
from iafactory.common.texts import Text

from .daily_counter import daily_credits_add
from .items import CallItem, HoldItem, UsageItem
from .models import Hold, LedgerTransaction, Lot, UsageRecord, Wallet
from .services import call_settle, hold_open, wallet_open

RELEASED = "hold_released"
# What a usage row of a service names as its endpoint; holds that name credits instead of a service have the second.
SERVICE_ENDPOINT = "service:"
CREDITS_ENDPOINT = "credits"
_ENDPOINT_LENGTH = 64
# Between the hold and the settle of one transaction nothing can happen.
_CONSUME_HOLD = timedelta(minutes=1)


class LiveSubscription(Protocol):
    """What the ledger asks of an account's live subscription."""

    @property
    def pk(self) -> Any: ...
    @property
    def state(self) -> str: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def current_period_start(self) -> datetime: ...
    @property
    def current_period_end(self) -> datetime | None: ...
    @property
    def cancel_at_period_end(self) -> bool: ...


SubscriptionOf = Callable[[Account], LiveSubscription | None]


# -- what an account may spend -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DailyLimit:
    """A plan's limit for the account's day: credits, or requests on quota plans. `used` counts calls in flight."""

    unit: str
    limit: Decimal
    used: Decimal
    resets_at: datetime

    @property
    def remaining(self) -> Decimal:
        return max(self.limit - self.used, ZERO)


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account may spend at an instant. `subscription` and `plan` are None when no plan is in force."""

    account: Account
    subscription: LiveSubscription | None
    plan: Plan | None
    balance: Decimal
    held: Decimal
    debt: Decimal
    daily: DailyLimit | None

    @property
    def available(self) -> Decimal:
        return self.balance - self.held


def day_start(account: Account, at: datetime) -> datetime:
    """The midnight at which the account's day of `at` began."""
    return datetime.combine(at.astimezone(account.zone).date(), time.min, account.zone)


def lots_alive(account: Account, at: datetime) -> QuerySet[Lot]:
    """Lots spendable at `at`, whether or not their begin or end was booked already."""
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=at)
    return Lot.objects.filter(unexpired, wallet=account.pk, closed_at__isnull=True, effective_at__lte=at)


def standing_of(account: Account, subscription_of: SubscriptionOf, *, at: datetime) -> Standing:
    """What `account` may spend at `at`; reads only."""
    subscription = subscription_of(account)
    # A paused subscription keeps its place, but gives nothing.
    plan = subscription.plan if subscription is not None and subscription.state != "paused" else None
    wallet = Wallet.objects.filter(pk=account.pk).first()
    held = wallet.held if wallet else ZERO
    free = lots_alive(account, at).aggregate(total=Sum(F("remaining") - F("held")))["total"] or ZERO
    return Standing(
        account=account,
        subscription=subscription,
        plan=plan,
        balance=free + held,
        held=held,
        debt=wallet.debt if wallet else ZERO,
        daily=_daily_limit(account, plan, at=at),
    )


def _daily_limit(account: Account, plan: Plan | None, *, at: datetime) -> DailyLimit | None:
    if plan is None:
        return None
    own = AccountLimits.objects.filter(account=account).first()
    overridden = own is not None and own.daily_limit is not None and (own.until is None or own.until > at)
    limit = own.daily_limit if own is not None and overridden else plan.daily_limit
    if limit is None:
        return None
    begin = day_start(account, at)
    on_quota = plan.billing_mode == Plan.BillingMode.QUOTA
    today = UsageRecord.objects.filter(account=account, started_at__gte=begin)
    used = today.aggregate(total=Sum("quota_units" if on_quota else "credits_charged"))["total"] or 0
    in_flight = Hold.objects.filter(account=account, opened_at__gte=begin)
    if on_quota:
        used += in_flight.filter(quota__has_key="requests").count()
    else:
        used += in_flight.aggregate(total=Sum("credits"))["total"] or 0
    tomorrow = datetime.combine(begin.date() + timedelta(days=1), time.min, account.zone)
    return DailyLimit("requests" if on_quota else "credits", limit, Decimal(used), tomorrow)


def service_price(code: str) -> ServicePrice:
    """The service sold under `code`. Raises ApiError 404 `service_not_found`."""
    price = ServicePrice.objects.filter(code=code).first()
    if price is None:
        raise ApiError(404, "service_not_found", "No service is sold under this code.", param="service")
    return price


def service_credits(credits_per_unit: Decimal, units: Decimal) -> Decimal:
    """The price of `units` in credits, rounded half up to 6 places; what is not free costs at least the smallest part."""
    raw = credits_per_unit * units
    return max(credits_quantise(raw), CREDIT) if raw > 0 else ZERO


def refusal_of(standing: Standing, *, service: str | None, credits: Decimal) -> ApiError | None:
    """Why `credits` may not be spent (on `service`) now; None when they may. The code is stable.

    403 `account_blocked`, `account_closed`, `no_active_plan`, `service_not_in_plan`; 402 `account_in_debt`,
    `insufficient_credits`; 429 `daily_limit_reached`.
    """
    plan, daily = standing.plan, standing.daily
    if standing.account.blocked_at(clock.now()):
        return account_refusal(standing.account)
    if plan is None:
        return ApiError(403, "no_active_plan", "This account has no active plan.")
    if service is not None and service not in plan.features:
        return ApiError(
            403,
            "service_not_in_plan",
            Text("The plan %(plan)s does not include this service.", plan=plan.code),
            param="service",
        )
    if standing.debt > 0:
        return ApiError(402, "account_in_debt", "A payment of this account was taken back. The next purchase settles it.")
    if daily is not None and daily.unit == "credits" and credits > daily.remaining:
        return ApiError(
            429,
            "daily_limit_reached",
            Text(
                "%(remaining)s of %(limit)s credits a day are left on the plan %(plan)s.",
                remaining=plain(daily.remaining),
                limit=plain(daily.limit),
                plan=plan.code,
            ),
            retry_after_seconds=(daily.resets_at - clock.now()).total_seconds(),
            final=True,
            extra={"reset_at": daily.resets_at.isoformat(), "plan": plan.code},
        )
    if credits > standing.available:
        return _insufficient(credits, standing.available)
    return None


def _insufficient(credits: Decimal, available: Decimal) -> ApiError:
    return ApiError(
        402,
        "insufficient_credits",
        Text(
            "This needs %(credits)s credits and %(available)s are available.",
            credits=plain(credits),
            available=plain(available),
        ),
    )


# -- consume -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Consumption:
    """A charge of a service, as it was the first time. `replayed`: nothing happened now."""

    id: UUID
    request_id: str
    service: str
    units: Decimal
    credits: Decimal
    available: Decimal
    charged_at: datetime
    replayed: bool


def credits_consume(
    *,
    account: Account,
    service: ServicePrice,
    units: Decimal,
    request_id: str,
    api_key_id: UUID | None,
    subscription_of: SubscriptionOf,
) -> Consumption:
    """Charge `units` of `service` once per `request_id`; a repetition answers the first charge.

    Locks the wallet. Raises ApiError as `refusal_of` (nothing is written), 422 `idempotency_mismatch` where the request id
    was used for something else, 409 `request_id_used` where only the books remember it.
    """
    call_id = uuid5(account.pk, f"consume:{request_id}")
    with transaction.atomic():
        account = _lock(account)
        if (first := _first_consumption(call_id, account, service, units, request_id)) is not None:
            return first
        now = clock.now()
        credits = service_credits(service.credits, units)
        standing = standing_of(account, subscription_of, at=now)
        if (refusal := refusal_of(standing, service=service.code, credits=credits)) is not None:
            raise refusal
        facts = {
            "request_id": request_id,
            "service": service.code,
            "units": format(plain(units), "f"),
            "credits_per_unit": format(plain(service.credits), "f"),
        }
        item = _hold_item(
            call_id, standing, credits, endpoint=_endpoint(service), api_key_id=api_key_id, now=now, life=_CONSUME_HOLD
        )
        available = _hold(item)
        facts["available_after"] = format(plain(available), "f")
        usage = _usage(item, plan=standing.plan, now=now, charge=credits, facts=facts)
        verdict = call_settle(CallItem(usage=usage, held=credits, charge=credits, reason=f"Service {service.code}"), now=now)
        if verdict.verdict != "settled":
            raise RuntimeError(f"consume {call_id} was settled as {verdict.verdict}")
        daily_credits_add(account, credits, at=now)
    return Consumption(call_id, request_id, service.code, units, credits, available, now, replayed=False)


def _first_consumption(
    call_id: UUID, account: Account, service: ServicePrice, units: Decimal, request_id: str
) -> Consumption | None:
    usage = UsageRecord.objects.filter(pk=call_id, account=account).first()
    if usage is None:
        if LedgerTransaction.objects.filter(pk=call_id).exists():
            raise _request_id_used()
        return None
    facts = usage.price
    if facts["service"] != service.code or Decimal(facts["units"]) != units:
        raise _mismatch()
    available = Decimal(facts["available_after"])
    return Consumption(
        call_id, request_id, service.code, units, usage.credits_charged, available, usage.finished_at, replayed=True
    )


# -- hold, settle, release -----------------------------------------------------------------------------------------------


class HoldState(StrEnum):
    """Where a service's hold stands. `EXPIRED`: its time is over; the reaper may have closed it."""

    OPEN = "open"
    EXPIRED = "expired"
    SETTLED = "settled"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class ServiceHold:
    """A service's hold. `late`: settled after its time. `credits_lost`: asked for, but covered by nothing."""

    id: UUID
    request_id: str
    state: HoldState
    credits_held: Decimal
    expires_at: datetime | None = None
    available: Decimal | None = None
    credits_charged: Decimal = ZERO
    credits_lost: Decimal = ZERO
    late: bool = False
    ended_at: datetime | None = None
    replayed: bool = False


def service_hold_open(
    *,
    account: Account,
    service: ServicePrice | None,
    units: Decimal,
    credits: Decimal | None,
    request_id: str,
    expires_in: timedelta,
    api_key_id: UUID | None,
    subscription_of: SubscriptionOf,
) -> ServiceHold:
    """Hold the price of `units` of `service`, or `credits` as named, once per `request_id`; again answers the same hold.

    Locks the wallet. Raises ApiError as `refusal_of`, 422 `idempotency_mismatch`, 409 `hold_expired`, `hold_settled` or
    `hold_released` where the request id had its hold.
    """
    wanted = credits if service is None else service_credits(service.credits, units)
    assert wanted is not None
    facts: dict[str, Any] = {"request_id": request_id, "expires_in_seconds": int(expires_in.total_seconds())}
    if service is None:
        facts |= {"credits": format(plain(wanted), "f")}
    else:
        facts |= {"service": service.code, "units": format(plain(units), "f")}
    with transaction.atomic():
        account = _lock(account)
        now = clock.now()
        found = _find(account, request_id)
        if found.hold is not None:
            return _held_before(found, facts, now)
        if found.state is not None:
            raise _hold_over(found.state)
        standing = standing_of(account, subscription_of, at=now)
        refusal = refusal_of(standing, service=service.code if service else None, credits=wanted)
        if refusal is not None:
            raise refusal
        assert standing.plan is not None
        terms = {"plan": standing.plan.code, "available_after": format(plain(standing.available - wanted), "f")}
        if service is not None:
            terms["credits_per_unit"] = format(plain(service.credits), "f")
        item = _hold_item(
            found.id,
            standing,
            wanted,
            endpoint=_endpoint(service),
            api_key_id=api_key_id,
            now=now,
            life=expires_in,
            facts={"asked": facts, "terms": terms},
        )
        available = _hold(item)
    return ServiceHold(found.id, request_id, HoldState.OPEN, wanted, expires_at=item.expires_at, available=available)


def service_hold_settle(
    *, account: Account, request_id: str, credits: Decimal | None, units: Decimal | None, api_key_id: UUID | None
) -> ServiceHold:
    """Charge a hold what it came to: less, all or more than was held; again answers the first settle.

    More than held takes what is available, the rest is the operator's loss. After its time it is booked all the same and
    called late. Locks the wallet. Raises ApiError 404 `hold_not_found`, 409 `hold_released`, 422 `idempotency_mismatch` for
    another amount than the first, 400 `invalid_request` for `units` of a hold that named credits.
    """
    with transaction.atomic():
        account = _lock(account)
        now = clock.now()
        found = _find(account, request_id)
        charge = credits if credits is not None else service_credits(_unit_price(found), units or ZERO)
        if found.state == HoldState.SETTLED:
            return _settled_before(found, charge)
        if found.state == HoldState.RELEASED:
            raise _hold_over(HoldState.RELEASED)
        started_at, held, expired = found.begun(now)
        facts = found.facts | {"settled_credits": format(plain(charge), "f"), "late": expired}
        if units is not None and "credits_per_unit" not in facts:
            # After the reaper: what it is settled at now is its price from now on.
            facts |= {
                "service": found.endpoint.removeprefix(SERVICE_ENDPOINT),
                "units": format(plain(units), "f"),
                "credits_per_unit": format(plain(_unit_price(found)), "f"),
            }
        item = found.item(account, started_at=started_at, held=held, api_key_id=api_key_id)
        usage = _usage(item, plan=None, now=now, charge=charge, facts=facts)
        usage.plan = found.terms.get("plan", "")
        verdict = call_settle(CallItem(usage=usage, held=held, charge=charge, reason=f"Hold {request_id}"), now=now)
        daily_credits_add(account, verdict.charged or ZERO, at=now)
        if verdict.verdict not in ("settled", "late"):
            raise RuntimeError(f"hold {found.id} was settled as {verdict.verdict}")
    return ServiceHold(
        found.id,
        request_id,
        HoldState.SETTLED,
        held,
        credits_charged=verdict.charged or ZERO,
        credits_lost=verdict.lost or ZERO,
        late=expired,
        ended_at=now,
    )


def service_hold_release(*, account: Account, request_id: str, api_key_id: UUID | None) -> ServiceHold:
    """Give a hold back uncharged; again, and after it expired, is the same.

    Locks the wallet. Raises ApiError 404 `hold_not_found`, 409 `hold_settled`.
    """
    with transaction.atomic():
        account = _lock(account)
        now = clock.now()
        found = _find(account, request_id)
        if found.state == HoldState.SETTLED:
            raise _hold_over(HoldState.SETTLED)
        if found.hold is None:
            return _ended_before(found)
        item = found.item(account, started_at=found.hold.opened_at, held=found.hold.credits, api_key_id=api_key_id)
        usage = _usage(item, plan=None, now=now, charge=ZERO, facts=found.facts)
        usage.plan = found.terms.get("plan", "")
        usage.end, usage.error_code = UsageRecord.End.REFUSED.value, RELEASED
        call = CallItem(usage=usage, held=found.hold.credits, charge=ZERO, reason=f"Hold {request_id} released")
        verdict = call_settle(call, now=now)
        if verdict.verdict != "settled":
            raise RuntimeError(f"hold {found.id} was released as {verdict.verdict}")
    return ServiceHold(found.id, request_id, HoldState.RELEASED, found.hold.credits, ended_at=now)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the database knows of a request id: an open hold, or the usage row that ended it."""

    id: UUID
    request_id: str
    hold: Hold | None
    usage: UsageRecord | None

    @property
    def state(self) -> HoldState | None:
        if self.hold is not None:
            return HoldState.OPEN
        if self.usage is None:
            return None
        if self.usage.end == UsageRecord.End.PROCESS_DIED:
            return HoldState.EXPIRED
        return HoldState.RELEASED if self.usage.error_code == RELEASED else HoldState.SETTLED

    @property
    def facts(self) -> dict[str, Any]:
        """What was asked and the price then, for the usage row. The reaper keeps none: then the endpoint's service."""
        if self.hold is not None:
            return {**self.hold.quota["asked"], **self.terms}
        assert self.usage is not None
        return dict(self.usage.price) or {"request_id": self.request_id}

    @property
    def terms(self) -> dict[str, Any]:
        return dict(self.hold.quota["terms"]) if self.hold is not None else {}

    @property
    def endpoint(self) -> str:
        row = self.hold or self.usage
        assert row is not None
        return row.endpoint

    def begun(self, now: datetime) -> tuple[datetime, Decimal, bool]:
        """When it was opened, the credits it held, and whether its time is over. ApiError 404 `hold_not_found`."""
        if self.hold is not None:
            return self.hold.opened_at, self.hold.credits, self.hold.expires_at <= now
        if self.usage is None:
            raise _hold_not_found()
        return self.usage.started_at, self.usage.credits_held, True

    def item(self, account: Account, *, started_at: datetime, held: Decimal, api_key_id: UUID | None) -> HoldItem:
        row = self.hold or self.usage
        assert row is not None
        return HoldItem(
            id=self.id,
            account_id=account.pk,
            credits=held,
            worst_cost_usd=ZERO,
            opened_at=started_at,
            expires_at=started_at,
            endpoint=row.endpoint,
            api_key_id=row.api_key_id or api_key_id,
            subscription_id=row.subscription_id,
        )


def _find(account: Account, request_id: str) -> _Found:
    call_id = uuid5(account.pk, f"hold:{request_id}")
    hold = Hold.objects.filter(pk=call_id).first()
    usage = None if hold is not None else UsageRecord.objects.filter(pk=call_id, account=account).first()
    if hold is None and usage is None and LedgerTransaction.objects.filter(pk=call_id).exists():
        raise _request_id_used()
    return _Found(call_id, request_id, hold, usage)


def _unit_price(found: _Found) -> Decimal:
    """What a unit cost when it was held; after the reaper, which keeps no price, what it costs now."""
    if found.state is None:
        raise _hold_not_found()
    facts = found.facts
    if "credits_per_unit" in facts:
        return Decimal(facts["credits_per_unit"])
    price = ServicePrice.objects.filter(code=found.endpoint.removeprefix(SERVICE_ENDPOINT)).first()
    if price is None or not found.endpoint.startswith(SERVICE_ENDPOINT):
        raise ApiError(400, "invalid_request", "This hold has no price per unit: settle it in credits.", param="units")
    return price.credits


def _held_before(found: _Found, facts: dict[str, Any], now: datetime) -> ServiceHold:
    hold = found.hold
    assert hold is not None
    if hold.quota["asked"] != facts:
        raise _mismatch()
    if hold.expires_at <= now:
        raise _hold_over(HoldState.EXPIRED)
    available = Decimal(found.terms["available_after"])
    return ServiceHold(
        found.id,
        found.request_id,
        HoldState.OPEN,
        hold.credits,
        expires_at=hold.expires_at,
        available=available,
        replayed=True,
    )


def _settled_before(found: _Found, charge: Decimal) -> ServiceHold:
    usage = found.usage
    assert usage is not None
    if Decimal(usage.price["settled_credits"]) != charge:
        raise _mismatch()
    return ServiceHold(
        found.id,
        found.request_id,
        HoldState.SETTLED,
        usage.credits_held,
        credits_charged=usage.credits_charged,
        credits_lost=usage.credits_lost,
        late=usage.price["late"],
        ended_at=usage.finished_at,
        replayed=True,
    )


def _ended_before(found: _Found) -> ServiceHold:
    if found.usage is None or found.state is None:
        raise _hold_not_found()
    usage = found.usage
    replayed = found.state == HoldState.RELEASED
    return ServiceHold(
        found.id, found.request_id, found.state, usage.credits_held, ended_at=usage.finished_at, replayed=replayed
    )


# -- parts of both -------------------------------------------------------------------------------------------------------


def _lock(account: Account) -> Account:
    """The account as it is once its wallet is locked."""
    if not Wallet.objects.select_for_update(no_key=True).filter(pk=account.pk).exists():
        wallet_open(account=account)
        Wallet.objects.select_for_update(no_key=True).get(pk=account.pk)
    return Account.objects.get(pk=account.pk)


def _endpoint(service: ServicePrice | None) -> str:
    return f"{SERVICE_ENDPOINT}{service.code}"[:_ENDPOINT_LENGTH] if service else CREDITS_ENDPOINT


def _hold_item(
    call_id: UUID,
    standing: Standing,
    credits: Decimal,
    *,
    endpoint: str,
    api_key_id: UUID | None,
    now: datetime,
    life: timedelta,
    facts: dict[str, Any] | None = None,
) -> HoldItem:
    subscription = standing.subscription
    return HoldItem(
        id=call_id,
        account_id=standing.account.pk,
        credits=credits,
        worst_cost_usd=ZERO,
        opened_at=now,
        expires_at=now + life,
        endpoint=endpoint,
        api_key_id=api_key_id,
        subscription_id=subscription.pk if subscription else None,
        # The row's one free field: what was asked, for repetitions, and the price that settles it.
        quota=facts or {},
    )


def _hold(item: HoldItem) -> Decimal:
    """Open the hold; credits available after it."""
    verdict = hold_open(item, now=item.opened_at)
    if verdict.verdict == "insufficient":
        raise _insufficient(item.credits, verdict.available or ZERO)
    if verdict.verdict != "held" or verdict.available is None:
        raise RuntimeError(f"hold {item.id} was answered {verdict.verdict}")
    return verdict.available


def _usage(item: HoldItem, *, plan: Plan | None, now: datetime, charge: Decimal, facts: dict[str, Any]) -> UsageItem:
    return UsageItem(
        id=item.id,
        started_at=item.opened_at,
        finished_at=now,
        account_id=item.account_id,
        api_key_id=item.api_key_id,
        subscription_id=item.subscription_id,
        plan=plan.code if plan else "",
        endpoint=item.endpoint,
        end=UsageRecord.End.COMPLETE.value,
        credits_held=item.credits,
        credits_charged=charge,
        price=facts,
    )


def _mismatch() -> ApiError:
    return ApiError(422, "idempotency_mismatch", "This request id was used for something else.", param="request_id")


def _request_id_used() -> ApiError:
    return ApiError(409, "request_id_used", "This request id was used long ago.", param="request_id")


def _hold_not_found() -> ApiError:
    return ApiError(404, "hold_not_found", "This account has no hold with this request id.", param="request_id")


def _hold_over(state: HoldState) -> ApiError:
    return ApiError(409, f"hold_{state}", Text("The hold with this request id is %(state)s.", state=state), param="request_id")


# -- the plan's credits --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PeriodGrants:
    """What a run granted: subscriptions looked at, lots granted now and before, credits granted now."""

    checked: int = 0
    granted: int = 0
    granted_before: int = 0
    credits: Decimal = ZERO


def period_credits_grant_due(
    *,
    subscriptions: QuerySet[Any],
    grant: Callable[[Any, Actor], None],
    actor: Actor,
    at: datetime,
    account: Account | None = None,
) -> PeriodGrants:
    """Grant plan lots of running periods that have none yet, of all accounts or of one. Safe to repeat and at once.

    `subscriptions` are those in force now; `grant` is what grants a period's credits when it begins, under a key of its own.
    Each subscription in a transaction of its own: locks it, then the wallet.
    """
    running = subscriptions.filter(Q(current_period_end__isnull=True) | Q(current_period_end__gt=at))
    running = running.filter(plan__period_credits__gt=0, current_period_start__lte=at)
    if account is not None:
        running = running.filter(account=account)
    grants = PeriodGrants()
    for pk in running.order_by("account_id").values_list("pk", flat=True).iterator():
        with transaction.atomic():
            subscription = (
                running.select_related("plan", "account").select_for_update(no_key=True, of=("self",)).filter(pk=pk).first()
            )
            if subscription is None:
                continue
            _lock(subscription.account)
            before = Lot.objects.filter(wallet=subscription.account_id).count()
            grant(subscription, actor)
            grants.checked += 1
            if Lot.objects.filter(wallet=subscription.account_id).count() == before:
                grants.granted_before += 1
            else:
                grants.granted += 1
                grants.credits += subscription.plan.period_credits
    return grants
