# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Every neuron at once
#
# Explaining one neuron after the other from its strongest samples takes a model of 7B days, and a score from those samples
# says nothing of all others. A scan sees every activation anyway: with a *bank of concepts* it sums up, in the same pass,
# every neuron with every concept over all patches and all words. Here that is done on real photographs (of scikit-image and
# scikit-learn), with concepts of pixels, of words, and of a CLIP.
#
# **What this notebook cannot show.** The embedded model was trained on coloured shapes: photographs are foreign to it. The CLIP
# has random weights, so its "opinions" are noise with the right shape. And there are few photographs, most of them shown in
# parts. What is real is the way: with LLaVA and COCO the same lines do the real thing (last cell).

# %%
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

import vlm_neurons as vn

names = ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg",
         "retina.jpg", "china.jpg", "flower.jpg", "brick.png", "grass.png", "gravel.png", "coins.png", "moon.png"]  # fmt: skip
folders = [
    Path(find_spec("skimage").origin).parent / "data",
    Path(find_spec("sklearn").origin).parent / "datasets/images",
]
photographs = [folder / name for folder in folders for name in names if (folder / name).is_file()]
print(len(photographs), "photographs")

# %% [markdown]
# Twelve parts of each, as pictures of their own: correlations need more than a dozen pictures. (Parts of one photograph are
# not independent, and folds are by picture: the intervals below are narrower than they should be. Own data has no such trouble.)

# %%
model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
samples = []
for path in photographs:
    whole = Image.open(path).convert("RGB")
    wide, tall = whole.width // 4, whole.height // 3
    parts = [whole.crop((x * wide, y * tall, (x + 1) * wide, (y + 1) * tall)) for y in range(3) for x in range(4)]
    samples += [{"image": part, "name": f"{path.stem} {i}"} for i, part in enumerate(parts)]
data = vn.ImageTextData.from_samples(samples)
print(model.generate([samples[0]["image"]], [vn.data.DEFAULT_PROMPT])[0], "<- of an astronaut's photograph")

# %% [markdown]
# ## Banks
# `Pixels` and `Words` need no model. `Clip` asks how much every patch looks like each of some words; here with random weights,
# for the plumbing. `CocoMasks` (things and stuff of COCO), `Masks` (label images, SAM's among them) and banks of your own join
# with `+` as well.

# %%
torch.manual_seed(0)
tokenizer = model.processor.tokenizer
small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
untrained = CLIPModel(
    CLIPConfig(
        text_config={**small, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "eos_token_id": 2},
        vision_config={**small, "image_size": 64, "patch_size": 8},
        projection_dim=32,
    )
)
images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
clip = vn.concepts.Clip(
    untrained.eval(), CLIPProcessor(images, tokenizer), ["a face", "sky", "metal", "a cat", "stone"]
)
bank = vn.concepts.Pixels() + vn.concepts.Words() + clip
[c.phrase for c in bank.concepts("picture")][::8]

# %% [markdown]
# ## One pass
# Missing responses are written first. The sums are kept by folds of pictures: a concept is chosen on one half and told on the
# other, and the folds say how sure that is. 256 random units of every layer are looked at in the same pass.

# %%
run = vn.scan(model, data, site=["gate", "post"], concepts=bank, out="runs/photographs", batch_size=32, progress=False)
table = run.concepts(min_images=10)
print(f"{table.neuron.nunique():,} neurons and poles, {len(table):,} rows")
shown = ["neuron", "side", "phrase", "r", "r_low", "r_high", "n_images", "r_generic", "p_random", "focus"]
table[table.site == "gate"].sort_values("focus", ascending=False)[shown].head(8).round(3)

# %% [markdown]
# r falls with the frequency of a concept, for a right one too: it ranks concepts of a neuron, not neurons. `focus` is what told
# trained neurons from random ones best; `p_random` is how many of the layer's random units have as much of it. Both are
# [measured](../../vlm_neurons/scanning/README.md#what-may-be-concluded) on scenes, not on photographs.

# %%
vn.viz.show_concepts(table[table.site == "gate"]).static()

# %% [markdown]
# The words do not survive a look at the responses, which say shapes and colours that are not there: what the model says of a
# photograph is wrong, and its neurons for words follow what it says.
#
# ## Explanations of all of them, and the neurons of one picture

# %%
run.save(vn.classify(run))
explanations = vn.explain(run, min_images=10)
print(
    len(explanations),
    "explanations;",
    sum(e.text != "no clear pattern" for e in explanations.values()),
    "say something",
)

# %%
at = next(i for i, sample in enumerate(samples) if sample["name"] == "chelsea 5")
response = run.samples.set_index("id").response[at]
batch = model.prepare([samples[at]["image"]], [vn.data.DEFAULT_PROMPT], [response])
standing = vn.top_neurons(model, batch, run, n=8)
vn.viz.show_top_neurons(batch, standing).static()

# %% [markdown]
# ## Does a CLIP that knows nothing get chosen?
# It should not be the best concept often, if pixels have something to say; where it is, noise of the right shape is all that the
# bank had. Ask the same of every bank: a concept is the best *of the bank*, never the meaning.

# %%
picture = table[(table.site == "gate") & (table.side == "picture") & (table.r_low > 0)]
kinds = picture.concept.str.partition(":")[0].value_counts(normalize=True)
kinds.round(3).to_dict()

# %% [markdown]
# ## With weights
# The first thing to run where there is a GPU and LLaVA-1.5-7B (this was not run by its authors): the command is in
# [the page on scanning](../../vlm_neurons/scanning/README.md#first-thing-to-run-with-weights).

# %%
assert table.neuron.nunique() == 3 * 1536 and set(table.side) == {"picture", "text"}
assert len(explanations) == 3 * 1536 and len(standing) == 16
