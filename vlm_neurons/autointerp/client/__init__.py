"""A client for OpenAI-compatible chat servers: cached, bounded, counted."""

from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.cache import Cache
from vlm_neurons.autointerp.client.client import ChatClient, Server
from vlm_neurons.autointerp.client.local import LocalChat
from vlm_neurons.autointerp.client.prices import Plan

__all__ = ["Ask", "Cache", "ChatClient", "LocalChat", "Plan", "Reply", "Server"]
