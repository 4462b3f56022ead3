"""Which language an answer is in: pages as their reader chose, the API as `Accept-Language` asks, the gateway in English."""

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.middleware.locale import LocaleMiddleware
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext_noop
from django.utils.translation.trans_real import parse_accept_lang_header

from .texts import Text

# What Django says and has no Arabic for: gathered here into our own catalogue.
BORROWED = (
    Text(
        "This password is too short. It must contain at least %d character.",
        "This password is too short. It must contain at least %d characters.",
    ),
    gettext_noop("Constraint “%(name)s” is violated."),
    gettext_noop("Enter a valid %(protocol)s address."),
)
GATEWAY_PREFIX = "/v1/"
API_PREFIX = "/api/"


class LanguageMiddleware(LocaleMiddleware):
    """Django's, which also knows programs: the cookie of a page decides nothing for them, and `/v1/` is English.

    Says `Content-Language`, and in `Vary` what the language depended on.
    """

    def process_request(self, request: HttpRequest) -> None:
        if request.path.startswith(GATEWAY_PREFIX):
            language = "en"
        elif request.path.startswith(API_PREFIX):
            language = accepted_language(request.headers.get("accept-language", ""))
        else:
            super().process_request(request)
            return
        translation.activate(language)
        request.LANGUAGE_CODE = translation.get_language()

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if request.path.startswith(GATEWAY_PREFIX):
            response.headers.setdefault("Content-Language", "en")
            return response
        response = super().process_response(request, response)
        if not request.path.startswith(API_PREFIX):
            patch_vary_headers(response, ("Cookie",))
        return response


def accepted_language(header: str) -> str:
    """The best of our languages for an `Accept-Language`; English where it asks for none of them."""
    for wanted, _ in parse_accept_lang_header(header):
        if wanted == "*":
            break
        try:
            return translation.get_supported_language_variant(wanted)
        except LookupError:
            continue
    return settings.LANGUAGE_CODE
