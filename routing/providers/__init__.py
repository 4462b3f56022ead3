"""Upstream AI providers: one adapter per wire protocol, plain Python without Django or models.

Importing the package registers every adapter it ships.
"""

from routing.providers import anthropic as anthropic
from routing.providers import cohere as cohere
from routing.providers import gemini as gemini
from routing.providers import openai as openai
