"""What operators prove beside their password, before a session may act for them.

How it is proven is the console's business, which stands above: it registers itself here.
"""

from typing import Protocol

from iafactory.common.errors import ApiError

from .models import User


class SecondFactor(Protocol):
    """Who needs one, and whether a code is right. A mark says in a session's tokens with what it was proven."""

    def required_of(self, user: User) -> bool:
        """Whether `user` needs one."""

    def prove(self, user: User, code: str) -> str:
        """The mark of a right code; ApiError 401, 403 or 429 otherwise."""

    def proven(self, user: User, mark: str) -> bool:
        """Whether a mark is worth something still."""


_registered: list[SecondFactor] = []


def second_factor_register(second_factor: SecondFactor) -> None:
    """Ask `second_factor` from now on."""
    _registered[:] = [second_factor]


def second_factor_prove(user: User, code: str) -> str:
    """The mark for a session of `user`, empty for one who needs none; ApiError 401 `two_factor_required` without a code."""
    for second_factor in _registered:
        if second_factor.required_of(user):
            if not code.strip():
                raise ApiError(401, "two_factor_required", "Send the code of your second factor too, as `code`.")
            return second_factor.prove(user, code)
    return ""


def second_factor_proven(user: User, mark: str) -> bool:
    """Whether a session with this mark may act for the operator `user`."""
    return all(not one.required_of(user) or one.proven(user, mark) for one in _registered)
