# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Can an explanation be trusted?
#
# Before neurons are explained and scored, explainer and score are tried on neurons whose rule is known: *planted* neurons.
# Everything here runs without a key; the last cell shows the same with a model behind an API.

# %%
from pathlib import Path

import vlm_neurons as vn
from vlm_neurons import planted

kinds = ["color", "conjunction", "word", "context", "picture_or_word", "noise"]
made = {p.evidence.neuron: p for p in planted.neurons(kinds, n=3, seed=7)}
evidence = {name: p.evidence for name, p in made.items()}

# %% [markdown]
# ## Does the explainer find the rule?
# It sees the split `"explain"` only: ten strong samples, ten random ones, a few in between.

# %%
explanations = vn.explain(evidence, progress=False)
for name, p in made.items():
    print(f"{name:18} true: {p.rule.explanations['true'] or '(noise)':42} found: {explanations[name].text}")

# %% [markdown]
# ## Does the score tell true explanations from false ones?
# Every planted neuron comes with a true explanation and with others that are nearly true, too broad, too narrow and wrong.
# All are simulated and scored on the split `"test"`, which the explainer never saw. r is the correlation of simulated and
# real activations, over patches on the side of pictures and over words on that of text; r_null is what explanations of other such neurons reach.

# %%
ruled = [name for name, p in made.items() if p.rule.kind != "noise"]
by_kind = {}
for kind in ("true", "near_miss", "too_broad", "too_narrow", "wrong"):
    told = {name: made[name].rule.explanations[kind] for name in ruled}
    scores = vn.score(told, evidence, n_null=0, n_permutations=999, progress=False)
    by_kind[kind] = scores.set_index(["neuron", "side"])["r"]
true = vn.score({n: made[n].rule.explanations["true"] for n in ruled}, evidence, progress=False, full=True)
import pandas as pd

pd.DataFrame(by_kind).round(2).astype(object).fillna("none")

# %% [markdown]
# A multi-modal neuron has a score on each side; false words may be false on one of them only.
# "none": the simulation is the same everywhere, or the words mean nothing to the concept banks. A wrong explanation can do
# better than chance (shapes are where colours are): read r against r_null, not p alone.

# %%
vn.viz.show_scores(true).static()

# %% [markdown]
# Real above simulated, for a true explanation and a wrong one of the same neuron:

# %%
name = "color-0"
for kind in ("true", "wrong"):
    told = {name: made[name].rule.explanations[kind]}
    simulations = vn.simulate(told, evidence, progress=False)
    score = vn.score(told, evidence, simulations=simulations, n_null=0, progress=False)
    display(vn.show_neuron(evidence[name], explanation=told[name], simulation=simulations, score=score).static())

# %% [markdown]
# ## The neurons of a model
# The same on the clearest neurons of the embedded model. Nobody knows their rule; the score says how far the words carry.

# %%
from vlm_neurons.cli.explain_command import clearest_of_classes

model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(n=600, seed=0)
run = vn.scan(model, data, out=Path("runs/explaining"), batch_size=32, progress=False)
run.save(vn.classify(run))
real = vn.gather_evidence(model, data, run, clearest_of_classes(run, 8), out=run, progress=False)
found = vn.explain(real, out=run, progress=False)
scores = vn.score(found, real, out=run, progress=False, full=True)
vn.viz.show_scores(scores).static()

# %%
scores.sort_values("r", ascending=False)[["neuron", "side", "explanation", "r", "r_null", "q"]].head(8).round(3)

# %%
vn.autointerp.score_statistics(scores)[
    ["label", "n", "n_scored", "r", "r_null", "significant", "best", "median", "worst"]
].round(2)

# %% [markdown]
# ## With a model that sees
# Any OpenAI-compatible server; every reply is kept, so that a rerun costs nothing. Not run here: it needs a key.
#
# ```python
# asked = vn.explain(real, vn.explainers.OpenAIExplainer(model="gpt-4o", max_cost=1), out=run)
# eyes = vn.simulators.ApiSimulator(model="gpt-4o", max_cost=2, cache=run.path / "cache.sqlite")
# judged = vn.score(asked, real, eyes, out=run)
# vn.autointerp.compare(judged, vn.score(found, real, eyes))
# ```

# %%
table = pd.DataFrame(by_kind).fillna(0).groupby("neuron").mean()  # over sides: a near miss may be wrong on one only
assert (table["true"] > table.drop(columns="true").max(axis=1)).all(), "true explanations score best"
assert all(explanations[n].text == "no clear pattern" for n in made if n.startswith("noise"))
assert (scores["q"] < 0.05).sum() > len(scores) / 2
