"""Who may use the gateway's endpoints."""

from billing.accounts.models import ApiKey
from billing.subscriptions.callers import Caller
from iafactory.common.errors import ApiError
from iafactory.common.hot import Exchange

from ..gateway import Gateway


async def caller_with(gateway: Gateway, exchange: Exchange, *scopes: ApiKey.Scope) -> Caller:
    """The caller, who needs one of `scopes` and a key that may be used here and from there. Raises `ApiError` 401 or 403."""
    caller = await gateway.authenticate(exchange)
    if not any(scope.value in caller.scopes for scope in scopes):
        wanted = " or ".join(f"`{scope.value}`" for scope in scopes)
        raise ApiError(403, "insufficient_scope", f"This API key lacks the scope {wanted}.")
    if caller.key is not None:
        refusal = caller.key.allowed.refusal(
            address=exchange.client_address, endpoint=exchange.path, origin=exchange.header(b"origin")
        )
        if refusal is not None:
            raise refusal
    return caller
