"""Hook functions for TransformerLens: each factory returns `(hook_name, fn)` pairs.

Use them with `model.run_with_hooks(batch, fwd_hooks=record("L3N17", into))`, `with model.hooks(ablate(...))`, also
around `generate`, or on a bare TransformerBridge. Lists of pairs are added to combine them; hooks at one point run in
the order of the list.
"""

from vlm_neurons.hooks.editing import ablate, add_direction, patch, scale
from vlm_neurons.hooks.positions import HookPairs, Where
from vlm_neurons.hooks.recording import record
from vlm_neurons.hooks.selecting import Neurons

__all__ = ["HookPairs", "Neurons", "Where", "ablate", "add_direction", "patch", "record", "scale"]
