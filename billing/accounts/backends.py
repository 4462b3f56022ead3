"""The console's login form, braked like the API's."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from iafactory.common.errors import ApiError

from . import throttles
from .models import User, email_normalise


class BrakedBackend(ModelBackend):
    """Django's own check of a password. Those of forms, which come with their request, are counted.

    Above the brake even the right password is refused, with the form's usual words. The API counts its logins itself and
    passes no request.
    """

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if request is None:
            return super().authenticate(request, username=username, password=password, **kwargs)
        house, email = throttles.client_house(request), email_normalise(username or "")
        try:
            if house:
                throttles.CONSOLE_LOGIN_PER_ADDRESS.attempt(house)
            throttles.CONSOLE_LOGIN_PER_EMAIL.attempt(email)
        except ApiError as error:
            raise PermissionDenied(error.text) from None
        user = super().authenticate(request, username=username, password=password, **kwargs)
        if user is not None:
            throttles.CONSOLE_LOGIN_PER_ADDRESS.forget(house)
            throttles.CONSOLE_LOGIN_PER_EMAIL.forget(email)
        return user
