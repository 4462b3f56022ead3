"""Forms with files, read with Django's own parser: fields and files stay in memory, within the limits of the settings."""

import io
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import FileUploadHandler
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from iafactory.common.errors import ApiError

from ..media_requests import Upload


class _Keeper(FileUploadHandler):
    """Keeps a file's content; nothing is written to disk."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self._pieces: list[bytes] = []

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._pieces.append(raw_data)

    def file_complete(self, file_size: int) -> Any:
        return Upload(self.file_name or "", b"".join(self._pieces))


def form_parse(content_type: str, body: bytes) -> tuple[dict[str, list[str]], dict[str, list[Upload]]]:
    """The fields and files of a `multipart/form-data` body. Raises `ApiError`: 415 for another type, 400 for a broken form."""
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(415, "unsupported_media_type", "Send the file in a form: `multipart/form-data`.")
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    try:
        fields, files = MultiPartParser(meta, io.BytesIO(body), [_Keeper()], "utf-8").parse()
    except (MultiPartParserError, SuspiciousOperation, ValueError) as error:
        raise ApiError(400, "invalid_form", "The form in the body cannot be read.") from error
    return _lists(fields), _lists(files)


def _lists(values: Any) -> dict[str, list[Any]]:
    found: Mapping[str, list[Any]] = dict(values.lists())
    return {str(name): list(several) for name, several in found.items()}
