"""The ASGI application: hot paths through the slim handler, everything else through Django's own."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "iafactory.settings")
stock = get_asgi_application()

from dashboard.alerts.watch import watch  # noqa: E402  needs the apps
from iafactory.common.hot import SlimApplication  # noqa: E402
from iafactory.common.hot_uvicorn import exchange_of  # noqa: E402
from iafactory.common.tracing import tracing_start, tracing_stop  # noqa: E402
from ratelimit.blocks import block_watch  # noqa: E402
from routing.gateway import current_gateway, gateway_start, gateway_stop  # noqa: E402


async def _start() -> None:
    tracing_start("web")
    # The gateway hears of changes; what changes while the list is read is read again.
    await gateway_start()
    await block_watch.start()
    watch.start(lambda: current_gateway().ledger.depths)


async def _stop() -> None:
    watch.stop()
    await block_watch.stop()
    await gateway_stop()
    tracing_stop()


application = SlimApplication(
    stock=stock, hot_urls="routing.hot_urls", start=_start, stop=_stop, admit=block_watch.admit, exchange_of=exchange_of
)
