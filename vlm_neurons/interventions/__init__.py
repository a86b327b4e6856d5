"""What neurons do: ablation of classes against matched controls, patching, attribution, what they write."""

from vlm_neurons.interventions.baselines import controls, random_gates
from vlm_neurons.interventions.caches import images_of_row, row_cache, take_rows
from vlm_neurons.interventions.edits.effects import input_effects
from vlm_neurons.interventions.edits.gallery import EditGallery, EditPair, edit_gallery
from vlm_neurons.interventions.effects import causal_effects, class_groups, compare_effects
from vlm_neurons.interventions.faithful import faithfulness
from vlm_neurons.interventions.measures import Task, measure, prepare_tasks
from vlm_neurons.interventions.patching import attribute_neurons, patch_neurons
from vlm_neurons.interventions.pruning import pruning_curve
from vlm_neurons.interventions.readout import direct_logit_attribution
from vlm_neurons.interventions.trusting import trust
from vlm_neurons.models.lens import logit_lens

__all__ = [
    "EditGallery",
    "EditPair",
    "Task",
    "attribute_neurons",
    "causal_effects",
    "class_groups",
    "compare_effects",
    "controls",
    "direct_logit_attribution",
    "edit_gallery",
    "faithfulness",
    "images_of_row",
    "input_effects",
    "measure",
    "patch_neurons",
    "prepare_tasks",
    "pruning_curve",
    "random_gates",
    "row_cache",
    "take_rows",
    "logit_lens",
    "trust",
]
