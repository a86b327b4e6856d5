"""A client for OpenAI-compatible chat servers: cached, bounded, counted."""

from vlm_neurons.api.cache import Cache
from vlm_neurons.api.client import Ask, ChatClient, Plan, Reply

__all__ = ["Ask", "Cache", "ChatClient", "Plan", "Reply"]
