"""GLM-4V: images at their own shape, as in Qwen-VL; gates and what they are multiplied by in one matrix (GLM-4.1V), or
experts (GLM-4.5V)."""

from __future__ import annotations

from dataclasses import replace

from vlm_neurons.models.adapters.adapter import MLPs
from vlm_neurons.models.adapters.llava import gated, in_order
from vlm_neurons.models.adapters.qwen import LAYER, MERGER, QWEN2_VL, by_token

BACKBONE = "model.language_model.layers.{i}."

GLM4V = replace(
    QWEN2_VL,
    name="glm4v",
    architecture="Glm4vForConditionalGeneration",
    towers=("glm4v_vision",),
    backbones=("glm4v_text",),
    processor="Glm4vProcessor",
    backbone=MLPs(
        into=BACKBONE + "mlp.gate_up_proj",
        up=BACKBONE + "mlp.gate_up_proj",
        act=BACKBONE + "mlp.activation_fn",
        out=BACKBONE + "mlp.down_proj",
    ),
    vision=MLPs(into=LAYER + "gate_proj", up=LAYER + "up_proj", out=LAYER + "down_proj", rows=by_token),
    projector=MLPs(into=MERGER + "gate_proj", up=MERGER + "up_proj", out=MERGER + "down_proj", rows=in_order),
    norms=(
        ("ln1", "input_layernorm"),
        ("ln1_post", "post_self_attn_layernorm"),
        ("ln2", "post_attention_layernorm"),
        ("ln2_post", "post_mlp_layernorm"),
    ),
    post_norm=BACKBONE + "post_mlp_layernorm",
    limits="no video; scans see the positive pole of the gated tower's and merger's neurons",
)
# Layers have an MLP, or experts beside one that takes every token: L3N17 is a neuron of that one.
GLM4V_MOE = replace(
    GLM4V,
    name="glm4v_moe",
    architecture="Glm4vMoeForConditionalGeneration",
    towers=("glm4v_moe_vision",),
    backbones=("glm4v_moe_text",),
    backbone=gated("model.language_model.", "mlp.shared_experts?."),
    experts=BACKBONE + "mlp.experts?",
    norms=QWEN2_VL.norms,
    post_norm=QWEN2_VL.post_norm,
)
