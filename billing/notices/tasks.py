"""Looking for credits that run out."""

from celery import shared_task

from iafactory.common import clock

from . import services


@shared_task(name="billing.notices.credits", time_limit=120)
def credits() -> int:
    """Tell of wallets that became low or exhausted; looking twice tells once."""
    return services.credits_notice(now=clock.now())


@shared_task(name="billing.notices.budgets", time_limit=240)
def budgets() -> int:
    """Tell of keys whose own budget is nearly, or wholly, spent; looking twice tells once."""
    return services.budgets_notice(now=clock.now())
