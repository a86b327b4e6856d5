"""Images and the texts that belong to them."""

from vlm_neurons.data.describing import DEFAULT_PROMPT, describe
from vlm_neurons.data.sample import Sample, Truth
from vlm_neurons.data.samples import ImageTextData

__all__ = ["DEFAULT_PROMPT", "ImageTextData", "Sample", "Truth", "describe"]
