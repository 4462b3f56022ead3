"""What the pipeline asks of the dialect a call is answered in."""

import re
from typing import TYPE_CHECKING, Protocol

from iafactory.common.errors import ApiError

from ..providers.base import ChatChunk

if TYPE_CHECKING:
    from ..chat_call import ChatCall

_FIELD = re.compile("`([a-z_]+)`")


class AnswerDialect(Protocol):
    """How one call's answer is said to its client. One instance per call: it may remember what a stream has said."""

    def whole(self, call: "ChatCall") -> bytes:
        """The body of a whole answer, once the call is priced."""

    def event(self, chunk: ChatChunk) -> bytes:
        """What goes out for one chunk of a stream; empty when there is nothing to say."""

    def end(self, call: "ChatCall") -> bytes:
        """The end of a whole stream, once the call is booked: its usage and end marks. Asked again, it says the same."""

    def failed(self, error: ApiError) -> bytes:
        """The end of a stream that has begun and cannot go on."""

    def field_name(self, name: str) -> str:
        """What clients call this field of OpenAI's dialect."""


def in_client_words(error: ApiError, dialect: AnswerDialect) -> ApiError:
    """An error about a field that nobody takes, naming the field as the client does."""
    if error.code == "unsupported_parameter" and error.param:
        error.message = _FIELD.sub(lambda found: f"`{dialect.field_name(found[1])}`", error.message)
        error.param = dialect.field_name(error.param)
    return error
