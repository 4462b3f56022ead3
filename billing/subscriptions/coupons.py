"""Who may use a coupon, and how often."""

from billing.accounts.models import Account
from billing.plans.models import Coupon, Plan, PlanPrice
from iafactory.common import clock
from iafactory.common.errors import ApiError
from iafactory.common.texts import Text

from .models import CouponRedemption, Subscription


def coupon_check(*, code: str, account: Account, plan: Plan, price: PlanPrice | None, lock: bool = False) -> Coupon:
    """The coupon that `code` names, if `account` may use it for `plan` now; with `lock` its row stays locked.

    ApiError 404 `coupon_not_found`; 409 `coupon_not_valid` when it ended, was used up, or is for other plans or currencies.
    """
    coupons = Coupon.objects.select_for_update(no_key=True) if lock else Coupon.objects
    coupon = coupons.filter(code=code.strip().upper()).first()
    if coupon is None:
        raise ApiError(404, "coupon_not_found", "There is no such coupon.", param="coupon")
    now = clock.now()
    if not coupon.is_active or coupon.valid_from > now or (coupon.valid_until is not None and coupon.valid_until <= now):
        raise _not_valid(Text("This coupon is not valid now."))
    if coupon.plans.exists() and not coupon.plans.filter(pk=plan.pk).exists():
        raise _not_valid(Text("This coupon is for other plans."))
    if price is None or (coupon.kind == Coupon.Kind.FIXED and coupon.currency != price.currency):
        raise _not_valid(Text("This coupon is for other currencies."))
    uses = CouponRedemption.objects.filter(coupon=coupon)
    if coupon.max_redemptions is not None and uses.count() >= coupon.max_redemptions:
        raise _not_valid(Text("This coupon has been used up."))
    if uses.filter(account=account).count() >= coupon.max_per_account:
        raise _not_valid(Text("You have used this coupon."))
    return coupon


def coupon_redeem(subscription: Subscription) -> None:
    """Count the use that a new subscription makes of its coupon; its row must be locked since `coupon_check`."""
    if subscription.coupon is not None:
        CouponRedemption.objects.create(
            coupon=subscription.coupon, account=subscription.account, subscription=subscription, redeemed_at=clock.now()
        )


def coupon_release(subscription: Subscription) -> None:
    """Give a use back: the checkout came to nothing."""
    CouponRedemption.objects.filter(subscription=subscription).delete()


def coupon_in_force(subscription: Subscription) -> Coupon | None:
    """The coupon that still reduces the subscription's next period."""
    coupon = subscription.coupon
    if coupon is None or (coupon.periods is not None and subscription.coupon_periods_used >= coupon.periods):
        return None
    return coupon


def _not_valid(message: Text) -> ApiError:
    return ApiError(409, "coupon_not_valid", message, param="coupon")
