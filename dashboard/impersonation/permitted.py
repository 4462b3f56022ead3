"""What may be done in a customer's name. Everything else that writes is refused, what is added to the panel later too."""

from iafactory.common.errors import ApiError

# Method and name of the API's address. No password, no second factor, no secret shown, no way to pay, no money, no members.
PERMITTED = frozenset(
    {
        ("DELETE", "key"),
        ("DELETE", "subscription-change-plan"),
        ("PATCH", "account"),
        ("PATCH", "auth-me"),
        ("PATCH", "billing-notices"),
        ("PATCH", "billing-profile"),
        ("PATCH", "key"),
        ("POST", "auth-verify-email-resend"),
        # Reckons and writes nothing.
        ("POST", "payment-quote"),
        ("POST", "subscription-cancel"),
        ("POST", "subscription-pause"),
        ("POST", "subscription-resume"),
        ("POST", "webhook-delivery-replay"),
        ("POST", "webhook-replay"),
        ("POST", "webhook-test"),
    }
)


def refused_in_their_name() -> ApiError:
    """403 `not_as_customer`."""
    return ApiError(403, "not_as_customer", "An operator who is logged in as a customer may not do this.")


def permitted_check(method: str, name: str) -> None:
    """Raise 403 `not_as_customer` for what an operator may not do in a customer's name."""
    if method != "GET" and (method, name) not in PERMITTED:
        raise refused_in_their_name()
