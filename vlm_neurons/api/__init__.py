"""A client for OpenAI-compatible chat servers: cached, bounded, counted."""

from vlm_neurons.api.cache import Cache
from vlm_neurons.api.client import Ask, ChatClient, Plan, Reply
from vlm_neurons.api.local import LocalChat

__all__ = ["Ask", "Cache", "ChatClient", "LocalChat", "Plan", "Reply"]
