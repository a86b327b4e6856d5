"""A client for OpenAI-compatible chat servers: cached, bounded, counted."""

from vlm_neurons.autointerp.client.cache import Cache
from vlm_neurons.autointerp.client.client import Ask, ChatClient, Plan, Reply
from vlm_neurons.autointerp.client.local import LocalChat

__all__ = ["Ask", "Cache", "ChatClient", "LocalChat", "Plan", "Reply"]
