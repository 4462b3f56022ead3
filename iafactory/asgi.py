"""The ASGI application: hot paths through the slim handler, everything else through Django's own."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "iafactory.settings")
stock = get_asgi_application()

from iafactory.common.hot import SlimApplication  # noqa: E402  needs the apps
from routing.gateway import gateway_start, gateway_stop  # noqa: E402

application = SlimApplication(stock=stock, hot_urls="routing.hot_urls", start=gateway_start, stop=gateway_stop)
