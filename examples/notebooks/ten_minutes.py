# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Ten minutes with vlm_neurons
#
# From a vision-language model and pictures to the card of a single neuron. The model is a tiny LLaVA that ships inside the
# package and was really trained, to describe pictures of coloured shapes; no GPU, no key, nothing to download. For
# LLaVA-1.5-7B, only the first line changes (see `llava_7b`).

# %%
from pathlib import Path

import vlm_neurons as vn
from vlm_neurons.hooks import ablate, record

model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
data = vn.scenes(n=600, seed=0)
picture = data[0].load_images()[0]
print(model.generate([picture], [data[0].prompt])[0])
picture.resize((256, 256))

# %% [markdown]
# ## Hooks, as in TransformerLens
# `prepare` makes a batch that knows what every token is and where every patch lies. A neuron is one output of the
# activation function in an MLP: `L2N304` is number 304 of layer 2.

# %%
batch = model.prepare([picture], [data[0].prompt], [data[0].response])
seen = {}
model.run_with_hooks(batch, fwd_hooks=record(["L2N304"], into=seen))
print("largest at an image patch:", float(seen["L2N304"][batch.mask("visual")].max()))
with model.hooks(fwd_hooks=ablate("L2N304", where=batch.mask("visual"))):
    model(batch)
model.hook_map().query("site != ''").head(8)

# %% [markdown]
# ## One pass over the data, every neuron classified
# Each neuron's 50 strongest samples decide: is it active at image patches (visual), at words (text), at both
# (multi-modal)? The rule is that of Xu, Lan and Lu (2025), section 3.2. A scan can be interrupted: the same call goes on.

# %%
run = vn.scan(model, data, site="gate", out=Path("runs/ten-minutes"), batch_size=32, progress=False)
table = vn.classify(run)
run.save(table)  # evidence, scores and report take the classes from there
table.groupby("label").size()

# %%
vn.show_layers(table).static()

# %% [markdown]
# A label is a summary: look at the shares, and at what other thresholds would give. `vn.modality_test(run)`
# gives labels with a false-discovery rate.

# %%
visual = table[(table.label == "visual") & table.confident]
print(len(visual), "confident visual neurons")
vn.classification.sweep(run).head()

# %% [markdown]
# ## What does one neuron do?
# Evidence: what it did on its strongest samples, on weaker and on random ones. An explanation from concept banks (no key),
# what that explanation predicts for samples that were not used to make it, and how well the two agree: on pictures, on text.

# %%
neurons = ["L2N304", "L0N357", "L3N3"]
evidence = vn.gather_evidence(model, data, run, neurons, out=run, progress=False)
explanations = vn.explain(evidence, out=run, progress=False)
simulations = vn.simulate(explanations, evidence, out=run, progress=False)
scores = vn.score(explanations, evidence, simulations=simulations, out=run, progress=False)
scores[["neuron", "side", "explanation", "r", "r_low", "r_high", "r_null", "p"]].round(3)

# %% [markdown]
# The card of each: in a notebook of your own leave out `.static()`, and the card answers to the mouse and the keyboard.

# %%
cards = {
    n: vn.show_neuron(evidence[n], row=table, explanation=explanations[n], simulation=simulations, score=scores)
    for n in neurons
}
cards["L2N304"].static()

# %%
cards["L0N357"].static()

# %%
cards["L3N3"].static()

# %% [markdown]
# How often it has which activation, at patches and at words:

# %%
vn.viz.show_distribution(evidence["L3N3"]).static()

# %% [markdown]
# `vn.report(run, out=run)` writes all of this, for many neurons, as one page that opens anywhere.

# %%
assert {evidence[n].label for n in neurons} == {"visual", "text", "multimodal"}
assert (scores.r > 0.5).all() and (scores.p < 0.05).all()
vn.report(run, out=run)
