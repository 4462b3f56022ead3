"""Embeddings, images, speech, transcription and music through the whole product, with OpenAI's client and with plain HTTP."""

import base64
import io
import struct
import wave
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from billing.ledger.models import Hold, UsageRecord
from iafactory.common import clock
from routing.models import AiModel, ModelPrice, ModelProfile, Provider
from routing.simulator.media import sound_mp3, sound_wav
from tests.live.conftest import Customer, Live, wait_until

EMBEDDINGS, IMAGES = "/v1/embeddings", "/v1/images/generations"
SPEECH, TRANSCRIPTIONS, MUSIC = "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/music/generations"
D = Decimal


def client_of(live: Live, customer: Customer) -> OpenAI:
    return OpenAI(base_url=f"{live.url}/v1", api_key=customer.secret, max_retries=0)


def record_of(customer: Customer) -> UsageRecord:
    return UsageRecord.objects.get(account=customer.account)


def row_of(live: Live, customer: Customer) -> dict[str, Any]:
    [row] = live.get("/api/billing/usage", customer).json()["results"]
    explained: dict[str, Any] = live.get(f"/api/billing/usage/{row['request_id']}", customer).json()
    return explained


def price_music(usd: str) -> None:
    """What an operator does for a model without a published price."""
    ModelPrice.objects.get_or_create(
        profile=ModelProfile.objects.get(slug="elevenlabs/music_v1"),
        defaults={"effective_from": clock.now(), "units": {"per_clip": usd}},
    )


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings(live: Live, encoding: Any) -> None:
    customer = live.customer()
    live.behave("openai", prompt_tokens=100_000)
    asked = {} if encoding is None else {"encoding_format": encoding}

    answer = client_of(live, customer).embeddings.create(
        model="text-embedding-3-small", input=["bonjour", "مرحبا"], dimensions=4, **asked
    )

    vectors = [item.embedding for item in answer.data]
    if encoding == "base64":
        vectors = [list(struct.unpack("<4f", base64.b64decode(str(vector)))) for vector in vectors]
    assert [len(vector) for vector in vectors] == [4, 4]
    assert sum(number * number for number in vectors[0]) == pytest.approx(1, abs=1e-4)
    assert (answer.model, answer.usage.prompt_tokens) == ("text-embedding-3-small", 100_000)
    record = record_of(customer)
    assert (record.input_tokens, record.output_tokens, record.units) == (100_000, 0, None)
    assert (record.list_cost_usd, record.credits_charged) == (D("0.002"), D("0.36"))
    assert customer.wallet() == (100 - D("0.36"), 0)


def test_token_ids_are_embedded_where_they_are_understood(live: Live) -> None:
    customer = live.customer()

    understood = live.post(EMBEDDINGS, customer, json={"model": "text-embedding-3-large", "input": [[1, 2, 3], [4]]})
    elsewhere = live.post(EMBEDDINGS, customer, json={"model": "embed-v4.0", "input": [1, 2, 3]})

    assert [len(item["embedding"]) for item in understood.json()["data"]] == [256, 256]
    assert (elsewhere.status_code, elsewhere.json()["error"]["param"]) == (400, "input")


@pytest.mark.parametrize(
    ("model", "usd", "credits"),
    [("sd3.5-large-turbo", "0.04", "7"), ("stable-image-core", "0.03", "5"), ("grok-imagine-image", "0.02", "4")],
)
def test_an_image_costs_whole_credits(live: Live, model: str, usd: str, credits: str) -> None:
    customer = live.customer(plan="whole")

    answer = client_of(live, customer).images.generate(model=model, prompt="A lighthouse", size="1024x1024")

    assert answer.data is not None
    assert base64.b64decode(answer.data[0].b64_json or "")[:8] == b"\x89PNG\r\n\x1a\n"
    record = record_of(customer)
    assert (record.list_cost_usd, record.credits_held, record.credits_charged) == (D(usd), D(credits), D(credits))
    assert record.units == {"images": "1"}
    assert customer.wallet() == (100 - D(credits), 0)


def test_images_are_priced_by_quality_and_size_and_explained(live: Live) -> None:
    customer = live.customer()

    answer = client_of(live, customer).images.generate(
        model="gpt-image-1.5", prompt="A lighthouse", size="1536x1024", quality="medium", n=2, response_format="url"
    )

    assert [image.url[:22] for image in answer.data or () if image.url] == ["data:image/png;base64,"] * 2
    record = record_of(customer)
    assert (record.list_cost_usd, record.credits_charged, record.credits_held) == (D("0.1"), D(18), D(18))
    row = row_of(live, customer)
    assert row["units"] == {"images": 2}
    assert row["price"]["unit_prices"] == [{"unit": "images", "per": 1, "usd": 0.05}]
    assert "2 images × 0.05 USD = 0.1 USD" in row["arithmetic"]


def test_an_image_billed_by_tokens_holds_an_estimate_from_above(live: Live) -> None:
    customer = live.customer()

    events = list(
        client_of(live, customer).images.generate(
            model="gpt-image-2", prompt="Un phare", size="1024x1024", quality="medium", stream=True
        )
    )

    record = record_of(customer)
    assert [event.type for event in events] == ["image_generation.completed"]
    assert (record.input_tokens, record.output_tokens, record.units) == (2, 1056, {"images": "1"})
    assert record.list_cost_usd == D("0.03169")
    assert record.credits_held > record.credits_charged == D("5.7042")
    assert customer.wallet() == (100 - D("5.7042"), 0)


def test_speech_costs_its_characters(live: Live) -> None:
    customer = live.customer(plan="whole")
    text = "Bonjour à tous. " * 12 + "Au revoir"

    answer = client_of(live, customer).audio.speech.create(
        model="tts-1", input=text[:200], voice="alloy", response_format="wav"
    )

    with wave.open(io.BytesIO(answer.content)) as played:
        assert played.getnframes() == 2 * 24_000
    assert answer.response.headers["content-type"] == "audio/wav"
    record = record_of(customer)
    assert (record.units, record.list_cost_usd, record.credits_charged) == ({"characters": "200"}, D("0.003"), D(1))
    assert answer.response.headers["x-iaf-credits"] == "1"


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_speech_billed_by_tokens_says_how_many(live: Live, stream_format: Any) -> None:
    customer = live.customer()
    live.behave("openai", prompt_tokens=10, output_tokens=500)
    body = {"model": "gpt-4o-mini-tts", "input": "Bonjour", "voice": "marin", "stream_format": stream_format}

    answer = live.post(SPEECH, customer, json=body)

    record = record_of(customer)
    assert answer.headers["content-type"] == {"audio": "audio/mpeg", "sse": "text/event-stream; charset=utf-8"}[stream_format]
    assert (b"speech.audio.done" in answer.content) == (stream_format == "sse")
    assert (record.input_tokens, record.output_tokens, record.units) == (10, 500, {"characters": "7"})
    assert record.list_cost_usd == D("0.006006")


def test_speech_of_other_providers(live: Live) -> None:
    customer = live.customer()
    body = {"input": "مرحبا بكم", "voice": "alloy"}

    eleven = live.post(SPEECH, customer, json={**body, "model": "eleven_multilingual_v2", "response_format": "mp3"})
    google = live.post(SPEECH, customer, json={**body, "model": "gemini-3.8-flash-tts"})
    google_mp3 = live.post(SPEECH, customer, json={**body, "model": "gemini-3.8-flash-tts", "response_format": "mp3"})

    assert (eleven.status_code, eleven.headers["content-type"], eleven.content[:2]) == (200, "audio/mpeg", b"\xff\xfb")
    assert (google.status_code, google.headers["content-type"], google.content[:4]) == (200, "audio/wav", b"RIFF")
    assert (google_mp3.status_code, google_mp3.json()["error"]["param"]) == (400, "response_format")
    costs = UsageRecord.objects.filter(account=customer.account).order_by("started_at").values_list("list_cost_usd", flat=True)
    assert costs[0] == D("0.00072")


def test_hints_that_a_provider_does_not_take_are_named(live: Live) -> None:
    customer = live.customer()
    body = {"model": "eleven_v3", "input": "Bonjour", "voice": "alloy", "instructions": "Slowly.", "speed": 1.1}

    dropped = live.post(SPEECH, customer, json=body)
    taken = live.post(SPEECH, customer, json=body | {"model": "tts-1"})

    assert dropped.headers["x-iaf-dropped"] == "instructions"
    assert "x-iaf-dropped" not in taken.headers


@pytest.mark.parametrize("wanted", ["json", "text", "srt", "verbose_json", "vtt"])
def test_transcription_costs_its_length(live: Live, wanted: Any) -> None:
    customer = live.customer()

    answer: Any = client_of(live, customer).audio.transcriptions.create(
        model="whisper-1", file=("speech.wav", sound_wav(12)), language="fr", response_format=wanted
    )

    text = answer if isinstance(answer, str) else answer.text
    assert "simulator answers for openai" in text
    record = record_of(customer)
    assert {name: D(count) for name, count in (record.units or {}).items()} == {"seconds": D(12)}
    assert (record.list_cost_usd, record.credits_held, record.credits_charged) == (D("0.0012"), D("0.216"), D("0.216"))


def test_a_short_recording_costs_what_its_provider_charges_at_least(live: Live) -> None:
    customer = live.customer()
    files = {"file": ("speech.mp3", sound_mp3(1))}

    answer = live.post(TRANSCRIPTIONS, customer, files=files, data={"model": "whisper-large-v3-turbo"})

    record = record_of(customer)
    assert answer.json()["text"].startswith("IA Factory's simulator answers for groq")
    assert (record.list_cost_usd, record.cost_usd) == (D("0.000111111"), D("0.000111111"))


@pytest.mark.parametrize("model", ["stable-audio-2.5", "stable-audio-3", "lyria-3.5"])
def test_music_costs_its_clip(live: Live, model: str) -> None:
    customer = live.customer()

    answer = live.post(MUSIC, customer, json={"model": model, "prompt": "Calm piano"})

    assert (answer.status_code, answer.headers["content-type"], answer.content[:2]) == (200, "audio/mpeg", b"\xff\xfb")
    usd = {"stable-audio-2.5": D("0.2"), "stable-audio-3": D("0.26"), "lyria-3.5": D("0.08")}[model]
    assert (record_of(customer).list_cost_usd, record_of(customer).credits_charged) == (usd, usd * 180)


def test_music_without_a_price_is_refused_until_it_has_one(live: Live) -> None:
    customer = live.customer(plan="whole")
    body = {"model": "music_v1", "prompt": "Calm piano", "seconds": 10}

    refused = live.post(MUSIC, customer, json=body)
    asked_before = live.received("elevenlabs")
    price_music("0.05")
    live.catch_up()
    answer = live.post(MUSIC, customer, json=body)

    assert (refused.status_code, refused.json()["error"]["code"], asked_before) == (503, "model_unavailable", 0)
    assert answer.status_code == 200
    record = record_of(customer)
    assert (record.list_cost_usd, record.credits_charged, record.units) == (D("0.05"), D(9), {"clips": "1", "seconds": "10"})


def test_a_chat_of_two_tenths_of_a_cent_costs_one_credit(live: Live) -> None:
    customer = live.customer(plan="whole")
    live.behave("openai", prompt_tokens=10_000, output_tokens=2_000)
    body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "x" * 12_000}], "max_tokens": 2000}

    answer = live.post("/v1/chat/completions", customer, json=body)

    assert answer.status_code == 200
    assert (record_of(customer).list_cost_usd, record_of(customer).credits_charged) == (D("0.002"), D(1))


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (EMBEDDINGS, {"model": "text-embedding-3-small"}, "input"),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": []}, "input"),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": ["a", 1]}, "input"),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": [[True]]}, "input"),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": "x", "dimensions": "4"}, "dimensions"),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": "x", "encoding_format": "int8"}, "encoding_format"),
        (EMBEDDINGS, {"model": 5, "input": "x"}, "model"),
        (IMAGES, {"model": "sd3.5-large"}, "prompt"),
        (IMAGES, {"model": "sd3.5-large", "prompt": "x", "n": 0}, "n"),
        (IMAGES, {"model": "sd3.5-large", "prompt": "x", "n": True}, "n"),
        (IMAGES, {"model": "sd3.5-large", "prompt": "x", "size": "big"}, "size"),
        (IMAGES, {"model": "sd3.5-large", "prompt": "x", "quality": 3}, "quality"),
        (IMAGES, {"model": "sd3.5-large", "prompt": "x", "steps": 50}, "steps"),
        (IMAGES, {"model": "gpt-image-2", "prompt": "x", "n": 2, "stream": True}, "n"),
        (SPEECH, {"model": "tts-1", "input": "x"}, "voice"),
        (SPEECH, {"model": "tts-1", "input": "x" * 40_001, "voice": "alloy"}, "input"),
        (SPEECH, {"model": "tts-1", "input": "x", "voice": "alloy", "speed": "fast"}, "speed"),
        (SPEECH, {"model": "tts-1", "input": "x", "voice": "alloy", "response_format": "midi"}, "response_format"),
        (MUSIC, {"model": "stable-audio-2.5", "prompt": "x", "seconds": 0}, "seconds"),
        (MUSIC, {"model": "stable-audio-2.5", "prompt": "x", "instrumental": "yes"}, "instrumental"),
    ],
)
def test_what_is_wrong_is_named(live: Live, path: str, body: dict[str, Any], param: str) -> None:
    customer = live.customer()

    answer = live.post(path, customer, json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert UsageRecord.objects.filter(account=customer.account).count() == 0
    assert Hold.objects.filter(account=customer.account).count() == 0


@pytest.mark.parametrize(
    ("data", "files", "param"),
    [
        ({}, {"file": ("a.wav", sound_wav(0.1))}, "model"),
        ({"model": "whisper-1"}, {}, "file"),
        ({"model": "whisper-1"}, {"file": ("a.exe", b"MZ")}, "file"),
        ({"model": "whisper-1"}, {"file": ("a.wav", b"")}, "file"),
        ({"model": "whisper-1", "response_format": "xml"}, {"file": ("a.wav", sound_wav(0.1))}, "response_format"),
        ({"model": "whisper-1", "temperature": "hot"}, {"file": ("a.wav", sound_wav(0.1))}, "temperature"),
        ({"model": "whisper-1", "stream": "true"}, {"file": ("a.wav", sound_wav(0.1))}, "stream"),
        ({"model": ["whisper-1", "x"]}, {"file": ("a.wav", sound_wav(0.1))}, "model"),
    ],
)
def test_what_is_wrong_in_a_form_is_named(live: Live, data: Any, files: Any, param: str) -> None:
    customer = live.customer()

    answer = live.post(TRANSCRIPTIONS, customer, data=data, files=files or {"other": ("b.wav", sound_wav(0.1))})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert UsageRecord.objects.filter(account=customer.account).count() == 0


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "unsupported_media_type"),
        ("multipart/form-data", b"--x\r\n", 400, "invalid_form"),
        ("multipart/form-data; boundary=x", b"garbage", 400, "invalid_request"),
        ("multipart/form-data; boundary=x", b"x" * 1_000_001, 413, "body_too_large"),
    ],
)
def test_what_is_no_form_is_refused(live: Live, content_type: str, body: bytes, status: int, code: str) -> None:
    customer = live.customer()

    answer = live.post(TRANSCRIPTIONS, customer, content=body, headers={"content-type": content_type})

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "model"),
    [(EMBEDDINGS, "tts-1"), (IMAGES, "gpt-6-luna"), (SPEECH, "whisper-1"), (MUSIC, "sd3.5-large"), (EMBEDDINGS, "nothing")],
)
def test_a_model_of_another_kind_does_not_exist_here(live: Live, path: str, model: str) -> None:
    customer = live.customer()
    body: dict[str, Any] = {
        EMBEDDINGS: {"input": "x"},
        IMAGES: {"prompt": "x"},
        SPEECH: {"input": "x", "voice": "alloy"},
        MUSIC: {"prompt": "x"},
    }[path]

    answer = live.post(path, customer, json={**body, "model": model})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_media_model_is_no_chat_model(live: Live) -> None:
    customer = live.customer()

    with pytest.raises(openai.NotFoundError):
        client_of(live, customer).chat.completions.create(model="tts-1", messages=[{"role": "user", "content": "hi"}])


def test_a_repetition_gets_the_same_bytes_and_is_not_charged_again(live: Live) -> None:
    customer = live.customer()
    body = {"model": "tts-1", "input": "Bonjour", "voice": "alloy"}
    headers = {"idempotency-key": "speech-1"}

    first = live.post(SPEECH, customer, json=body, headers=headers)
    again = live.post(SPEECH, customer, json=body, headers=headers)
    other = live.post(SPEECH, customer, json={**body, "input": "Bonsoir"}, headers=headers)

    assert first.content[:2] == b"\xff\xfb"
    assert (again.status_code, again.content) == (200, first.content)
    assert (again.headers["idempotent-replayed"], again.headers["content-type"]) == ("true", "audio/mpeg")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert record_of(customer).credits_charged == D("0.0189")
    assert live.received("openai") == 1


def test_a_form_is_the_same_whatever_its_boundary(live: Live) -> None:
    customer = live.customer()
    headers = {"idempotency-key": "transcript-1"}
    sent: dict[str, Any] = {"data": {"model": "whisper-1"}, "headers": headers}

    first = live.post(TRANSCRIPTIONS, customer, files={"file": ("a.wav", sound_wav(1))}, **sent)
    again = live.post(TRANSCRIPTIONS, customer, files={"file": ("a.wav", sound_wav(1))}, **sent)
    other = live.post(TRANSCRIPTIONS, customer, files={"file": ("a.wav", sound_wav(1.1))}, **sent)

    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (200, first.content, "true")
    assert other.status_code == 422
    assert live.received("openai") == 1


def test_an_answer_too_large_to_keep_is_not_made_twice(live: Live) -> None:
    customer = live.customer()
    body = {"model": "text-embedding-3-small", "input": ["x"] * 500, "dimensions": 300}
    headers = {"idempotency-key": "large-1"}

    first = live.post(EMBEDDINGS, customer, json=body, headers=headers)
    again = live.post(EMBEDDINGS, customer, json=body, headers=headers)

    assert len(first.content) > 1024 * 1024
    assert (again.status_code, again.json()["error"]["code"]) == (409, "result_not_kept")
    assert UsageRecord.objects.filter(account=customer.account).count() == 1


def test_another_provider_takes_over(live: Live) -> None:
    customer = live.customer()
    model, _ = AiModel.objects.get_or_create(name="twice-drawn", defaults={"mode": "image"})
    for provider, usd in (("xai", "0.02"), ("dashscope", "0.03")):
        profile, _ = ModelProfile.objects.get_or_create(
            slug=f"{provider}/twice-drawn",
            defaults={"provider": Provider.objects.get(slug=provider), "model": model, "upstream_model": "twice-drawn"},
        )
        ModelPrice.objects.get_or_create(profile=profile, defaults={"effective_from": clock.now(), "units": {"per_image": usd}})
    body = {"model": "twice-drawn", "prompt": "A lighthouse"}
    live.catch_up()
    first = live.post(IMAGES, customer, json=body).headers["x-iaf-provider"]
    second = {"xai": "dashscope", "dashscope": "xai"}[first]
    live.behave(first, fail_status=503)

    answer = live.post(IMAGES, customer, json=body)

    usd = {"xai": D("0.02"), "dashscope": D("0.03")}[second]
    record = UsageRecord.objects.filter(account=customer.account).latest("started_at")
    assert (answer.status_code, answer.headers["x-iaf-provider"], answer.headers["x-iaf-fallback"]) == (200, second, "true")
    assert (record.provider, record.attempts, record.list_cost_usd) == (second, 2, usd)
    assert record.credits_charged == usd * 180


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ({"fail_status": 500}, 502, "provider_error"),
        ({"fail_status": 429}, 503, "provider_busy"),
        ({"fail_status": 400}, 400, "simulated_400"),
    ],
)
def test_a_failure_gives_the_hold_back(live: Live, behaviour: dict[str, Any], status: int, code: str) -> None:
    customer = live.customer(credits=1)
    live.behave("elevenlabs", **behaviour)
    body = {"model": "eleven_flash_v2_5", "input": "Bonjour", "voice": "alloy"}

    answer = live.post(SPEECH, customer, json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert customer.wallet() == (D(1), 0)
    record = record_of(customer)
    assert (record.end, record.credits_charged, record.units) == ("provider_error", 0, None)


def test_too_few_credits_for_an_image(live: Live) -> None:
    customer = live.customer(plan="whole", credits=6)

    refused = live.post(IMAGES, customer, json={"model": "sd3.5-large-turbo", "prompt": "x"})
    served = live.post(IMAGES, customer, json={"model": "stable-image-core", "prompt": "x"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_credits")
    assert (served.status_code, customer.wallet()) == (200, (D(1), 0))


def test_parallel_images_never_pass_the_balance(live: Live) -> None:
    customer = live.customer(plan="whole", credits=12)
    live.behave("stability", latency_ms=200)
    body = {"model": "stable-image-core", "prompt": "x"}

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: live.post(IMAGES, customer, json=body), range(12)))

    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [402] * 10
    assert customer.wallet() == (D(2), 0)
    assert live.received("stability") == 2


def test_a_client_that_hangs_up_pays_nothing(live: Live) -> None:
    customer = live.customer()
    live.behave("stability", latency_ms=1500)

    live.hang_up(IMAGES, customer, "stability", {"model": "stable-image-core", "prompt": "x"})
    wait_until(lambda: UsageRecord.objects.filter(account=customer.account).exists(), what="booked")

    record = record_of(customer)
    assert (record.end, record.credits_charged, record.cost_usd) == ("client_gone", 0, D("0.03"))
    assert customer.wallet() == (D(100), 0)


def test_a_run_has_its_own_ceiling_for_media_too(live: Live) -> None:
    customer = live.customer(plan="whole")
    headers = {"x-iaf-run": "album", "x-iaf-run-limit": "10"}
    body = {"model": "stable-image-core", "prompt": "x"}

    statuses = [live.post(IMAGES, customer, json=body, headers=headers).status_code for _ in range(3)]

    assert statuses == [200, 200, 402]


def test_models_are_listed_with_their_mode(live: Live) -> None:
    customer = live.customer()

    listed = {model["id"]: model.get("mode") for model in live.get("/v1/models", customer).json()["data"]}
    image = client_of(live, customer).models.retrieve("sd3.5-large")

    assert [
        listed[name] for name in ("auto", "gpt-6-luna", "tts-1", "whisper-1", "embed-v4.0", "gpt-image-2", "lyria-3.5")
    ] == [
        None,
        "chat",
        "tts",
        "stt",
        "embedding",
        "image",
        "music",
    ]
    assert image.model_dump()["mode"] == "image"


def test_anthropic_clients_are_not_shown_what_they_cannot_ask(live: Live) -> None:
    customer = live.customer()
    headers = {"x-api-key": customer.secret, "anthropic-version": "2023-06-01"}

    listed = httpx2.get(f"{live.url}/v1/models?limit=1000", headers=headers).json()["data"]

    assert not {"tts-1", "sd3.5-large"} & {model["id"] for model in listed}


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        (EMBEDDINGS, {"input": "x"}, "text-embedding-3-small"),
        (IMAGES, {"prompt": "x"}, "stable-image-core"),
        (SPEECH, {"input": "x", "voice": "alloy"}, "eleven_flash_v2_5"),
        (MUSIC, {"prompt": "x"}, "stable-audio-2.5"),
    ],
)
def test_auto_is_what_the_plan_has_for_each_kind(live: Live, path: str, body: dict[str, Any], model: str) -> None:
    customer = live.customer()
    student = live.customer(plan="student")

    served = live.post(path, customer, json={**body, "model": "auto"})
    nothing = live.post(path, student, json={**body, "model": "auto"})

    assert (served.status_code, served.headers["x-iaf-model"]) == (200, model)
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (503, "model_unavailable")
