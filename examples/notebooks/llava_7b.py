# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # LLaVA-1.5-7B: the paper's neurons first
#
# **This notebook has not been executed by its authors.** It needs a GPU with about 20 GB, 14 GB of weights from the Hugging
# Face hub, and photographs. Every call in it is tested on smaller models; the numbers are yours to find.
#
# Xu, Lan and Lu (2025) publish a few dozen neurons of this model with what they respond to. They are the first thing to
# look at: if your pictures contain trains, a visual neuron for trains should fire on them.

# %%
import torch

import vlm_neurons as vn

model = vn.HookedVLM.from_pretrained("llava-hf/llava-1.5-7b-hf", device="cuda", dtype=torch.bfloat16)

# %% [markdown]
# ## Data
# The paper: 23,000 images of COCO train2017 (the `detail_23k` subset of LLaVA's training data), described by the model
# itself. A folder of photographs will do; a thousand give a first impression. Responses that are missing are written by the
# model first (greedy, "Could you describe the image?"), which takes longer than the scan.

# %%
data = vn.ImageTextData.from_folder("photos/")
run = vn.scan(
    model, data, site="gate", out="runs/llava-7b", batch_size=8
)  # prints time, disk and memory first; resumes
table = vn.classify(run).set_index("neuron", drop=False)
run.save(table)
vn.show_layers(table)

# %% [markdown]
# ## Published neurons (layer/number in the paper; `L27N3900` here)
# Labels depend on the images: on other photographs than the paper's some may come out differently, and a neuron whose
# subject your pictures lack will be `unknown`.

# %%
published = {
    "L27N3900": ("visual", "figure 3"),
    "L2N4450": ("text", "figure 3"),
    "L29N600": ("multimodal", "figure 3"),
    "L31N1800": ("multimodal", "figure 3"),
    "L21N6100": ("multimodal", "figure 3"),
    "L0N6098": ("visual", "figure 8: trains or train-related elements"),
    "L7N1410": ("multimodal", "figure 9: airplanes and airports"),
    "L2N8997": ("visual", "figure 15: groups of people"),
    "L16N4347": ("visual", "figure 15: roads and pathways"),
    "L3N8142": ("visual", "figure 15: food, cakes and desserts"),
    "L29N7693": ("text", "figure 16: beginnings of sentences"),
    "L20N2063": ("text", "figure 16: resting during sports"),
    "L6N5298": ("text", "figure 16: position of objects in an image"),
    "L24N8912": ("multimodal", "figure 17: rivers"),
    "L23N6568": ("multimodal", "figure 17: animals, birds and large mammals"),
    "L23N844": ("multimodal", "figure 17: trains"),
}
ours = table.loc[list(published), ["label", "p_visual", "p_text", "p_multimodal", "p_unknown", "confident"]]
ours.assign(paper=[label for label, _ in published.values()], subject=[s for _, s in published.values()])

# %%
evidence = vn.gather_evidence(model, data, run, list(published), out=run)
vn.show_neuron(evidence["L0N6098"], row=table)

# %%
vn.viz.compare_neurons(evidence["L0N6098"], evidence["L23N844"])  # both are about trains; one of them reads too

# %% [markdown]
# ## Explain and score
# With a key: `vlm-neurons explain runs/llava-7b --neurons L0N6098 --explainer openai --explainer-model gpt-4o --dry-run`
# prints what it would cost. Without: Grounded SAM, the paper's simulator, needs weights only; it can score the paper's own
# words.

# %%
words = {n: subject.split(": ")[1] for n, (_, subject) in published.items() if ": " in subject}
seen = {n: text for n, text in words.items() if published[n][0] == "visual"}
simulator = vn.simulators.GroundedSimulator.from_pretrained(device="cuda")
scores = vn.score(seen, evidence, simulator, out="runs/llava-7b", full=True)
scores[["neuron", "side", "explanation", "r", "r_low", "r_high", "r_null", "r_within", "q", "n_failed"]]

# %%
asked = vn.explain(evidence, vn.explainers.OpenAIExplainer(model="gpt-4o", max_cost=2), out=run)
both = vn.simulators.ApiSimulator(model="gpt-4o", max_cost=5, cache=run.path / "cache.sqlite")  # a rerun costs nothing
vn.autointerp.compare(
    vn.score(asked, evidence, both, out=run, n_null=3), vn.score(words, evidence, both, n_null=3)
)  # GPT-4o's words, the paper's

# %% [markdown]
# ## And then
# `vn.modality_test(run)` for labels with a false-discovery rate; `vn.causal_effects` with matched controls
# before saying that a class does anything; `vn.report(run, out=run)` for a page to share.
