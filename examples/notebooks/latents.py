# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Which latents see?
#
# Latents of a sparse dictionary are units like neurons. Here a small TopK dictionary (Gao et al. 2024, arXiv 2406.04093) is trained on
# the residual stream of the embedded model, and its latents are scanned, classified, explained, scored and switched off beside the
# neurons of the same layer, and beside a dictionary of random directions that has learnt nothing.

# %%
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import vlm_neurons as vn
from vlm_neurons.scanning import dictionary_fit

model = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
HOOK, LAYER = "blocks.1.hook_resid_post", 1

# %% [markdown]
# ## What it is trained on
# The vectors behind layer 1 of 250 scenes, at every position: patches, words, template.

# %%
vectors = []
scenes = vn.scenes(n=250, seed=1)
for start in range(0, len(scenes), 50):
    some = [scenes[i] for i in range(start, start + 50)]
    batch = model.prepare([s.load_images() for s in some], [s.prompt for s in some], [s.response for s in some])
    real = batch.attention_mask.bool()
    model.observe(batch, {HOOK: lambda x, real=real: vectors.append(x[real].clone())}, fast=True)
x = torch.cat(vectors)
print(f"{len(x):,} vectors of {x.shape[1]} numbers")


# %%
class TopK(nn.Module):
    """A dictionary of n latents of which k fire. `encode`, `decode` and `W_dec` are all that `SAE.wrap` asks for."""

    def __init__(self, n, k, mean):
        super().__init__()
        self.W_dec = nn.Parameter(nn.functional.normalize(torch.randn(n, len(mean)), dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())
        self.b_enc, self.b_dec, self.k = nn.Parameter(torch.zeros(n)), nn.Parameter(mean.clone()), k

    def encode(self, x):
        best = ((x - self.b_dec) @ self.W_enc + self.b_enc).topk(self.k, dim=-1)
        return x.new_zeros(*x.shape[:-1], len(self.W_dec)).scatter(-1, best.indices, best.values.relu())

    def decode(self, z):
        return z @ self.W_dec + self.b_dec


torch.manual_seed(0)
trained, random = TopK(384, 16, x.mean(0)), TopK(384, 16, x.mean(0))
optimiser, variance = torch.optim.Adam(trained.parameters(), lr=2e-3), (x - x.mean(0)).square().sum(1).mean()
began = time.process_time()
for step in range(801):
    some = x[torch.randint(len(x), (512,))]
    loss = (trained.decode(trained.encode(some)) - some).square().sum(1).mean() / variance
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    with torch.no_grad():
        trained.W_dec.copy_(nn.functional.normalize(trained.W_dec, dim=1))
    if step % 200 == 0:
        print(f"step {step}: {loss.item():.3f} of the variance unexplained")
print(f"trained in {time.process_time() - began:.0f} s")

# %% [markdown]
# ## One scan of all three
# 400 other scenes. The same pass correlates every unit with what is in the pictures and in the words, and sums up how well the
# dictionaries fit.

# %%
sae = vn.sites.SAE.wrap(trained.requires_grad_(False), HOOK, name="sae")
noise = vn.sites.SAE.wrap(random.requires_grad_(False), HOOK, name="random")
data, bank = vn.scenes(n=400, seed=0), vn.concepts.Truth() + vn.concepts.Words()
run = vn.scan(
    model, data, site=["gate", sae, noise], top_n=30, batch_size=50, concepts=bank, null_directions=0,
    out=Path("runs/latents"), progress=False,
)  # fmt: skip
dictionary_fit(run).round(3)

# %% [markdown]
# The trained dictionary leaves 1 to 2 % of the variance, of patches as of words; with as many latents firing, random directions leave
# most of it. Whoever brings a dictionary that was trained on text looks here first: where visual tokens are badly described, a latent's
# label says little (`vn.scanning.poorly_explained(run)` has that for every latent).

# %%
table = vn.classify(run)
run.save(table)
table = table[table.layer == LAYER]
table.groupby("site").label.value_counts(normalize=True).unstack().round(2)

# %% [markdown]
# Read alone, the labels say nothing about learning: random directions have at least as many visual and text latents as the trained ones, and
# more multimodal ones. The trained latents are rather narrower: about half of them are above the thresholds on too few patches or words of
# their strongest samples to have a class.

# %%
concepts = run.concepts().query(f"layer == {LAYER}")
counts = {
    f"r > {least}": (concepts.r > least).groupby([concepts.site, concepts.side]).sum() for least in (0.5, 0.7, 0.8)
}
pd.DataFrame(counts)

# %%
best = concepts[concepts.side == "picture"].sort_values("r", ascending=False)
best.groupby("site").head(6).sort_values(["site", "r"], ascending=[True, False])[
    ["neuron", "concept", "r", "runner_up", "r_runner_up"]
].round(2)

# %% [markdown]
# This tells them apart. Among latents that answer to something in pictures, the trained dictionary has the sharpest: one for each of
# several colours, with r around .9 on the half of the scenes that did not choose the concept. The best random directions answer to objects as such
# or to their size. Neurons stand between: some answer to one colour or shape, less sharply.
# With words it is the same at a lower distance, since a word is nearly a direction of its own: random ones find some too.

# %% [markdown]
# ## Explained and scored
# Of each kind the six units whose class is clearest: explained in words from ten strong samples, scored on samples that the explainer
# never saw.

# %%
chosen = {
    (site, label): table[(table.site == site) & (table.label == label) & table.confident]
    .nlargest(6, "peak")
    .neuron.tolist()
    for site in ("gate", "sae", "random")
    for label in ("visual", "text")
}
home = {neuron: kind for kind, neurons in chosen.items() for neuron in neurons}
evidence = vn.gather_evidence(model, data, run, table[table.neuron.isin([*home])], n_top=20, n_spare=20, progress=False)
explanations = vn.explain(evidence, progress=False)
scores = vn.score(explanations, evidence, n_permutations=999, progress=False)
scores["site"], scores["label"] = zip(*[home[neuron] for neuron in scores.neuron], strict=True)
scores.groupby(["label", "site", "side"]).r.agg(["median", "count"]).round(2)

# %%
seen = scores[(scores.side == "picture") & (scores.site == "sae")].nlargest(1, "r").neuron.item()
vn.show_neuron(evidence[seen], explanation=explanations[seen]).static()

# %% [markdown]
# On both sides the trained latents' median is above that of random ones, and for words above that of neurons; for pictures it is not. Six
# (five) units are too few to say by how much. Scores of random latents are not 0: an explanation can be right about a unit that nobody
# learnt. That a unit can be described well does not show that the model uses it.

# %% [markdown]
# ## Switched off
# The 24 strongest visual units of each kind, at the positions of patches, beside as many random units of the same kind matched by size.
# An edit of latents keeps what the dictionary does not explain. And the latents for one colour, taken one by one:

# %%
groups = {
    site: table[(table.site == site) & (table.label == "visual")].nlargest(24, "peak")
    for site in ("gate", "sae", "random")
}
colours = best[(best.site == "sae") & best.concept.str.startswith("color:") & (best.r > 0.7)]
groups |= {f"sae, {concept}": mine for concept, mine in colours.groupby("concept", observed=True)}
effects = vn.causal_effects(
    model, vn.scenes(40, seed=5), groups=groups, controls=2, where=["visual"], progress=False
)  # fmt: skip
kept = effects[effects.measure.isin(["description loss", "color", "shape"])]
kept.pivot(index=["group", "n_neurons"], columns="measure", values=["effect", "control"]).round(3)

# %% [markdown]
# At patches the 24 strongest visual latents of the trained dictionary matter most for the description (loss, shapes), and more than as many
# others of the same size; for colours they do no more than the others. The strongest visual neurons do little, random latents nothing. An edit of latents moves the
# residual stream itself, an edit of neurons only what one MLP adds to it, so that the two are not on one scale.
# Of the latents for one colour some take that colour from the description when they are switched off (pink, yellow, blue), others change nothing
# (orange, red, purple): that a latent fires on exactly one colour is no proof that the model reads the colour there. 40 scenes and two control draws are
# few: `effects` has the intervals.
