"""Upstream AI providers: one adapter per wire protocol, plain Python without Django or models.

Importing the package registers every adapter it ships.
"""

from routing.providers import anthropic as anthropic
from routing.providers import cohere as cohere
from routing.providers import cohere_embeddings as cohere_embeddings
from routing.providers import elevenlabs as elevenlabs
from routing.providers import gemini as gemini
from routing.providers import gemini_media as gemini_media
from routing.providers import openai as openai
from routing.providers import openai_media as openai_media
from routing.providers import stability as stability
