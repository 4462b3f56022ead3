"""Requests for embeddings, images, speech, transcription and music: checked, and bounded in what they can consume.

Unlike chat's, unknown fields are refused: several of them change what a provider charges.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Any

from iafactory.common.errors import ApiError
from iafactory.common.money import ZERO

from .call_request import WorstCase
from .pricing import PriceUnknown, image_price, unit_prices, with_image_price, worst_unit_cost
from .providers.base import Usage
from .providers.media_base import CHARACTERS, CLIPS, IMAGES, SECONDS, AudioFile, Mode
from .providers.registry import media_adapter_for
from .recordings import CONTENT_TYPES, recording_seconds
from .snapshot import Price, Route

MOST_TEXTS = 2048
LARGEST_TOKEN_ID = 1_000_000
LARGEST_DIMENSIONS = 100_000
LONGEST_PROMPT = 32_000
MOST_IMAGES = 10
LONGEST_SPEECH = 40_000
LARGEST_RECORDING_BYTES = 25 * 1024 * 1024
LONGEST_CLIP_SECONDS = 600
SPEECH_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
TRANSCRIPT_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")
# Marks and hidden prompts around an input, in tokens.
OVERHEAD_TOKENS = 50
ITEM_OVERHEAD_TOKENS = 8
# Speech billed by tokens: an estimate from above of the sound that a byte of text makes, a digit being read as words.
SPOKEN_TOKENS_A_BYTE = 4
SPOKEN_TOKENS_A_DIGIT = 20
SPOKEN_OVERHEAD_TOKENS = 200
# Told how to speak, a model may take its time.
INSTRUCTED_FACTOR = 2
# A speaker's tempo may be asked to be this much slower or faster.
SLOWEST, FASTEST = 0.25, 4.0

_SIZE = re.compile(r"auto|[1-9]\d{1,4}x[1-9]\d{1,4}")
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """A checked `CallRequest` for anything but chat.

    `units` are what it will consume, known or at most; `spoken_tokens` bounds the output of speech that is billed by tokens.
    `events` says that the client wants its answer as events: they are sent together, once the call is paid for.
    """

    mode: str
    model: str
    body: Mapping[str, Any] = field(repr=False)
    units: Mapping[str, Decimal]
    input_tokens_at_most: int
    input_tokens_estimated: int
    spoken_tokens: int = 0
    events: bool = False
    stream: bool = False

    @property
    def limit_must_stay(self) -> bool:
        """An image or a recording is whole, or none."""
        return True

    def inexpressible(self, route: Route) -> list[str]:
        return media_adapter_for(route.protocol, self.mode).inexpressible(self.body, route.quirks)

    def price(self, row: Price, made: Mapping[str, Any] | None = None) -> Price:
        """The row with the price that applies: an image's follows from its quality and size, asked for or as it was made."""
        if self.mode != Mode.IMAGE:
            return row
        told = {name: made[name] for name in ("quality", "size") if made and isinstance(made.get(name), str)}
        asked = {**self.body, **told}
        return with_image_price(row, quality=asked.get("quality"), size=asked.get("size"))

    def worst_case(self, route: Route, price: Price, *, max_tokens: int | None = None) -> WorstCase:
        """See `CallRequest.worst_case`. Where no unit has a price tokens are billed, their number estimated from above."""
        applicable = self.price(price)
        input_tokens, output_tokens = self.input_tokens_at_most, self._output_tokens_at_most(route, applicable)
        cost = worst_unit_cost(applicable, self.units, input_tokens=input_tokens, output_tokens=output_tokens)
        return WorstCase(input_tokens, output_tokens, cost)

    def _output_tokens_at_most(self, route: Route, price: Price) -> int:
        by_units = bool(unit_prices(price, self.units))
        match self.mode:
            case Mode.EMBEDDING:
                return 0
            case Mode.IMAGE if by_units:
                # What is written and thought around an image, where it is billed.
                return 0 if price.base.output is None else min(route.default_max_output, route.max_output_tokens or 10**9)
            case Mode.IMAGE:
                return self._image_tokens_at_most(price)
            case Mode.SPEECH if not by_units:
                return min(self.spoken_tokens, route.max_output_tokens or 10**9)
            case Mode.SPEECH:
                return 0
        if not by_units:
            raise PriceUnknown
        return 0

    def _image_tokens_at_most(self, price: Price) -> int:
        """Tokens of images that are billed by them: as many as `hold_per_image…` pays for, an estimate in USD from above."""
        usd = image_price(price, quality=self.body.get("quality"), size=self.body.get("size"), prefix="hold_per_image")
        if usd is None or not price.base.output:
            raise PriceUnknown
        tokens = self.units[IMAGES] * usd * _MILLION / price.base.output
        return int(tokens.to_integral_value(ROUND_CEILING))

    def complete(self, usage: Usage, price: Price, *, output_tokens: int) -> tuple[Usage, bool]:
        """`usage` with what the provider left out though it is billed, and whether that had to be estimated."""
        by_tokens = self.mode in (Mode.IMAGE, Mode.SPEECH) and not unit_prices(price, usage.units)
        if not by_tokens or usage.output_total:
            return usage, False
        given = usage.input_total or self.input_tokens_estimated
        return Usage(given, output_total=output_tokens, provider_cost_usd=usage.provider_cost_usd, units=usage.units), True


def _wrong(param: str, message: str, code: str = "invalid_request") -> ApiError:
    return ApiError(400, code, message, param=param)


def _only(body: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in body:
        if name not in known:
            raise _wrong(name[:100], f"`{name[:100]}` is not offered here.", "unsupported_parameter")


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not 1 <= len(model) <= 200 or "\0" in model:
        raise _wrong("model", "`model` must be the name of a model.")
    return model


def _text(body: Mapping[str, Any], name: str, *, longest: int) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(name, f"`{name}` must be a text that is not empty.")
    if len(value) > longest:
        raise _wrong(name, f"`{name}` may have {longest} characters at most.")
    return value


def _choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise _wrong(name, f"`{name}` must be one of {', '.join(choices)}.")
    return value


def _integer(body: Mapping[str, Any], name: str, *, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(name, f"`{name}` must be an integer between {low} and {high}.")
    return value


def _number(body: Mapping[str, Any], name: str, *, low: float, high: float) -> None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high):
        raise _wrong(name, f"`{name}` must be a number between {low:g} and {high:g}.")


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, f"`{name}` must be true or false.")
    return bool(value)


def _set(body: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    """The fields that are set: null is the default."""
    return {name: value for name, value in body.items() if value is not None and name not in left_out}


def _byte_count(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _estimated(size: int) -> int:
    """What so many bytes usually count, in tokens."""
    return max(1, size * 13 // 40)


_EMBEDDING_FIELDS = frozenset({"model", "input", "dimensions", "encoding_format", "user", "input_type"})


def _embedded_sizes(given: Any) -> tuple[list[int], bool]:
    """Bytes, or tokens, of each thing to embed, and whether they are texts. Raises `ApiError` 400."""
    wrong = _wrong("input", "`input` must be a text, a list of texts, token ids or a list of lists of token ids.")
    items = [given] if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)) else given
    if not isinstance(items, list) or not items:
        raise wrong
    if len(items) > MOST_TEXTS:
        raise _wrong("input", f"`input` may have {MOST_TEXTS} items at most.")
    if all(isinstance(item, str) and item for item in items):
        return [_byte_count(item) for item in items], True
    for item in items:
        if not isinstance(item, list) or not item:
            raise wrong
        if not all(type(token) is int and 0 <= token < LARGEST_TOKEN_ID for token in item):
            raise wrong
    return [len(item) for item in items], False


def embeddings_parse(body: dict[str, Any]) -> MediaRequest:
    """Check the body of `/v1/embeddings`. Raises `ApiError` 400 naming the field."""
    model = _model(body)
    sizes, texts = _embedded_sizes(body.get("input"))
    _choice(body, "encoding_format", ("float", "base64"))
    _integer(body, "dimensions", low=1, high=LARGEST_DIMENSIONS)
    _choice(body, "input_type", ("search_document", "search_query", "classification", "clustering"))
    _only(body, _EMBEDDING_FIELDS)
    largest = max(sizes)
    return MediaRequest(
        mode=Mode.EMBEDDING,
        model=model,
        body=_set(body),
        units={},
        input_tokens_at_most=sum(sizes) + ITEM_OVERHEAD_TOKENS * len(sizes),
        input_tokens_estimated=_estimated(largest) if texts else largest,
    )


_IMAGE_FIELDS = frozenset(
    {
        "model",
        "prompt",
        "n",
        "size",
        "quality",
        "background",
        "moderation",
        "output_compression",
        "output_format",
        "partial_images",
        "response_format",
        "stream",
        "style",
        "user",
    }
)


def image_parse(body: dict[str, Any]) -> MediaRequest:
    """Check the body of `/v1/images/generations`. Raises `ApiError` 400 naming the field."""
    model = _model(body)
    prompt = _text(body, "prompt", longest=LONGEST_PROMPT)
    count = _integer(body, "n", low=1, high=MOST_IMAGES) or 1
    size = body.get("size")
    if size is not None and (not isinstance(size, str) or _SIZE.fullmatch(size) is None):
        raise _wrong("size", "`size` must be `auto` or a width and a height, like `1024x1024`.")
    _choice(body, "quality", QUALITIES)
    _choice(body, "background", ("auto", "transparent", "opaque"))
    _choice(body, "moderation", ("auto", "low"))
    _choice(body, "output_format", ("png", "jpeg", "webp"))
    _choice(body, "response_format", ("url", "b64_json"))
    _choice(body, "style", ("vivid", "natural"))
    _integer(body, "output_compression", low=0, high=100)
    _integer(body, "partial_images", low=0, high=3)
    events = _boolean(body, "stream")
    if events and count > 1:
        raise _wrong("n", "Images come as events one at a time.")
    _only(body, _IMAGE_FIELDS)
    return MediaRequest(
        mode=Mode.IMAGE,
        model=model,
        body=_set(body, "stream", "partial_images"),
        units={IMAGES: Decimal(count)},
        input_tokens_at_most=_byte_count(prompt) + OVERHEAD_TOKENS,
        input_tokens_estimated=_estimated(_byte_count(prompt)),
        events=events,
    )


_SPEECH_FIELDS = frozenset({"model", "input", "voice", "instructions", "response_format", "speed", "stream_format"})


def speech_parse(body: dict[str, Any]) -> MediaRequest:
    """Check the body of `/v1/audio/speech`. Raises `ApiError` 400 naming the field."""
    model = _model(body)
    text = _text(body, "input", longest=LONGEST_SPEECH)
    voice = body.get("voice")
    if isinstance(voice, dict):
        voice = voice.get("id")
    if not isinstance(voice, str) or not 1 <= len(voice) <= 200:
        raise _wrong("voice", "`voice` must be the name of a voice.")
    instructions = _text(body, "instructions", longest=LONGEST_SPEECH) if body.get("instructions") is not None else ""
    _choice(body, "response_format", SPEECH_FORMATS)
    _number(body, "speed", low=SLOWEST, high=FASTEST)
    events = _choice(body, "stream_format", ("audio", "sse")) == "sse"
    _only(body, _SPEECH_FIELDS)
    size = _byte_count(text)
    digits = sum(character.isdigit() for character in text)
    spoken = SPOKEN_OVERHEAD_TOKENS + size * SPOKEN_TOKENS_A_BYTE + digits * SPOKEN_TOKENS_A_DIGIT
    spoken *= INSTRUCTED_FACTOR if instructions else 1
    read = size + _byte_count(instructions)
    return MediaRequest(
        mode=Mode.SPEECH,
        model=model,
        body=_set(body, "stream_format") | {"voice": voice},
        units={CHARACTERS: Decimal(len(text))},
        input_tokens_at_most=read + OVERHEAD_TOKENS,
        input_tokens_estimated=_estimated(read),
        spoken_tokens=int(spoken / min(1, body.get("speed") or 1)) + 1,
        events=events,
    )


_MUSIC_FIELDS = frozenset({"model", "prompt", "seconds", "instrumental", "seed", "response_format"})


def music_parse(body: dict[str, Any]) -> MediaRequest:
    """Check the body of `/v1/music/generations`. Raises `ApiError` 400 naming the field."""
    model = _model(body)
    prompt = _text(body, "prompt", longest=LONGEST_PROMPT)
    _number(body, "seconds", low=1, high=LONGEST_CLIP_SECONDS)
    _boolean(body, "instrumental")
    _integer(body, "seed", low=0, high=2**31 - 1)
    _choice(body, "response_format", SPEECH_FORMATS)
    _only(body, _MUSIC_FIELDS)
    # A clip whose length the client leaves open is as long as its provider likes: the longest is what it can cost.
    seconds = Decimal(str(body.get("seconds") or LONGEST_CLIP_SECONDS))
    return MediaRequest(
        mode=Mode.MUSIC,
        model=model,
        body=_set(body),
        units={CLIPS: Decimal(1), SECONDS: seconds},
        input_tokens_at_most=_byte_count(prompt) + OVERHEAD_TOKENS,
        input_tokens_estimated=_estimated(_byte_count(prompt)),
    )


_TRANSCRIPTION_FIELDS = frozenset({"model", "language", "prompt", "response_format", "temperature"})
_GRANULARITIES = "timestamp_granularities[]"
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})?")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form, under the name that its client gave it."""

    name: str
    content: bytes = field(repr=False)


def transcription_parse(fields: Mapping[str, list[str]], files: Mapping[str, list[Upload]]) -> MediaRequest:
    """Check the form of `/v1/audio/transcriptions`, and measure its recording. Raises `ApiError` 400 naming the field."""
    for name, values in fields.items():
        if name not in _TRANSCRIPTION_FIELDS and name not in (_GRANULARITIES, "timestamp_granularities"):
            if name == "stream" and values == ["false"]:
                continue
            raise _wrong(name[:100], f"`{name[:100]}` is not offered here.", "unsupported_parameter")
        if len(values) > 1 and name in _TRANSCRIPTION_FIELDS:
            raise _wrong(name, f"`{name}` was sent more than once.")
    body: dict[str, Any] = {name: fields[name][0] for name in sorted(_TRANSCRIPTION_FIELDS & fields.keys()) if fields[name][0]}
    model = _model(body)
    _choice(body, "response_format", TRANSCRIPT_FORMATS)
    if (language := body.get("language")) is not None and _LANGUAGE.fullmatch(language) is None:
        raise _wrong("language", "`language` must be a code like `fr`.")
    prompt = _text(body, "prompt", longest=LONGEST_PROMPT) if "prompt" in body else ""
    if "temperature" in body:
        body["temperature"] = _temperature(body["temperature"])
    granularities = fields.get(_GRANULARITIES) or fields.get("timestamp_granularities") or []
    if any(value not in ("word", "segment") for value in granularities):
        raise _wrong("timestamp_granularities", "`timestamp_granularities` must be `word` or `segment`.")
    if granularities and body.get("response_format") != "verbose_json":
        raise _wrong("timestamp_granularities", "`timestamp_granularities` goes with `response_format` `verbose_json`.")
    if granularities:
        body[_GRANULARITIES] = list(dict.fromkeys(granularities))
    recording = _recording(files)
    return MediaRequest(
        mode=Mode.TRANSCRIPTION,
        model=model,
        body={**body, "file": recording},
        # Providers count begun seconds.
        units={SECONDS: recording.seconds.to_integral_value(ROUND_CEILING)},
        input_tokens_at_most=_byte_count(prompt) + OVERHEAD_TOKENS,
        input_tokens_estimated=_estimated(_byte_count(prompt)) if prompt else 0,
    )


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise _wrong("temperature", "`temperature` must be a number between 0 and 1.")
    return value


def _recording(files: Mapping[str, list[Upload]]) -> AudioFile:
    uploads = files.get("file", [])
    if len(uploads) != 1 or set(files) != {"file"}:
        raise _wrong("file", "`file` must be one recording.")
    [upload] = uploads
    suffix = upload.name.rpartition(".")[2].lower()
    if suffix not in CONTENT_TYPES:
        raise _wrong("file", f"`file` must be a recording: {', '.join(CONTENT_TYPES)}.")
    if not upload.content:
        raise _wrong("file", "`file` is empty.")
    if len(upload.content) > LARGEST_RECORDING_BYTES:
        raise _wrong("file", f"`file` may have {LARGEST_RECORDING_BYTES} bytes at most.")
    # The client's name of the file stays here: a provider needs its kind alone.
    seconds = recording_seconds(upload.content, suffix)
    return AudioFile(f"recording.{suffix}", CONTENT_TYPES[suffix], upload.content, max(seconds, ZERO))
