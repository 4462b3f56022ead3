"""Addresses of the billing app. APIs answer with and without a trailing slash: a redirect would lose a POST's body."""

from typing import Any

from django.urls import URLPattern, path

from .accounts import api as accounts
from .accounts import pages
from .subscriptions.onboarding_api import RegisterView


def api_path(route: str, view: Any, name: str) -> list[URLPattern]:
    """`route` and `route/` for one API view; the schema shows the first."""
    return [path(route, view.as_view(), name=name), path(f"{route}/", view.as_view(schema=None))]


urlpatterns = [
    *api_path("api/auth/register", RegisterView, "auth-register"),
    *api_path("api/auth/login", accounts.LoginView, "auth-login"),
    *api_path("api/auth/refresh", accounts.RefreshView, "auth-refresh"),
    *api_path("api/auth/logout", accounts.LogoutView, "auth-logout"),
    *api_path("api/auth/me", accounts.MeView, "auth-me"),
    *api_path("api/auth/verify-email", accounts.VerifyEmailView, "auth-verify-email"),
    *api_path("api/auth/verify-email/resend", accounts.VerifyEmailResendView, "auth-verify-email-resend"),
    *api_path("api/auth/password-reset", accounts.PasswordResetView, "auth-password-reset"),
    *api_path("api/auth/password-reset/confirm", accounts.PasswordResetConfirmView, "auth-password-reset-confirm"),
    # An id is any text: what is no id is answered as one that does not exist.
    *api_path("api/keys", accounts.KeysView, "keys"),
    *api_path("api/keys/<str:key_id>", accounts.KeyView, "key"),
    *api_path("api/keys/<str:key_id>/rotate", accounts.KeyRotateView, "key-rotate"),
    path("auth/verify-email", pages.verify_email, name="verify-email"),
    path("auth/password-reset", pages.password_reset, name="password-reset"),
]
