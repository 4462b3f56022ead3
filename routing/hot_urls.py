"""Paths that the slim handler serves. They stand in the root URLconf too, for the API's description."""

from django.urls import path

from iafactory.common.health import Health

from .api.balance import Balance
from .api.chat import ChatCompletions
from .api.media import Embeddings, ImageGenerations, MusicGenerations, Speech, Transcriptions
from .api.messages import Messages, MessagesCountTokens
from .api.models import ModelDetail, ModelList
from .api.own import OwnChat, OwnModels, PinnedChat, UsageToday
from .api.responses import ResponsesCreate
from .api.route import Route

urlpatterns = [
    path("v1/chat/completions", ChatCompletions.as_view()),
    path("v1/messages", Messages.as_view()),
    path("v1/messages/count_tokens", MessagesCountTokens.as_view()),
    path("v1/embeddings", Embeddings.as_view()),
    path("v1/images/generations", ImageGenerations.as_view()),
    path("v1/audio/speech", Speech.as_view()),
    path("v1/audio/transcriptions", Transcriptions.as_view()),
    path("v1/music/generations", MusicGenerations.as_view()),
    path("v1/models", ModelList.as_view()),
    path("v1/models/<path:name>", ModelDetail.as_view()),
    path("v1/responses", ResponsesCreate.as_view()),
    path("v1/chat", PinnedChat.as_view()),
    path("v1/balance", Balance.as_view()),
    path("api/v2/chat", OwnChat.as_view()),
    path("api/route", Route.as_view()),
    path("api/v2/models", OwnModels.as_view()),
    path("api/v2/usage/today", UsageToday.as_view()),
    path("health", Health.as_view()),
]
