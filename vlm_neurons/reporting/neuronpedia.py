"""Evidence of units as the files that SAEDashboard writes and Neuronpedia reads, with images as links."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_neurons._checks import of_kind
from vlm_neurons._files import write_atomic
from vlm_neurons.evidence import Evidence, Exemplar, load
from vlm_neurons.interventions import logit_lens
from vlm_neurons.scanning import Run
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

BARS = 40  # of a histogram
BINS = 5  # of the samples that are not among the top ones
WORDS = 10  # that a unit raises, and lowers
DIGITS = 3  # as SAEDashboard rounds


class _Set(NamedTuple):
    """What has a folder of its own: Neuronpedia knows a set by model, layer and name, and its units by a number."""

    layer: int
    name: str


def export(
    run: Run | str | Path,
    format: Literal["neuronpedia"],
    out: str | Path,
    model: HookedVLM | None = None,
    url: str = "",
) -> list[Path]:
    """Write all units that the run has evidence of, for viewers of text activations: as sae-dashboard 0.8 writes what
    it uploads to Neuronpedia. A picture is one token, a link to its file, with the unit's largest value at its patches.

    What was not measured is empty: nearest neurons and features, and histograms of logits. How often a unit is above 0,
    and how its values are spread, is of the random samples of the evidence.

    Args:
        run: a run with evidence in it (`vn.gather_evidence(..., out=run)`), or its directory.
        format: `"neuronpedia"`.
        out: a directory: gets `LAYER-NAME/batch-0.json` for every layer of a site (`-expert-5` of an expert,
            `-negative` of negative poles) and the pictures in `images/`. Files that are there already are replaced.
        model: the model that was scanned, for the words that a unit raises and lowers (`logit_lens`); without it, and
            for units that write nowhere, these are empty.
        url: where `out` will be found, such as `"https://example.org/units"`; the beginning of the links.

    Returns:
        The JSON files.

    Raises:
        FileNotFoundError: the run has no evidence.
        ValueError: another format.

    >>> found = vn.gather_evidence(model, data, run, "L2N304", n_top=4, n_spare=4, out=run, progress=False)
    >>> files = vn.export(run, "neuronpedia", "neuronpedia", model)
    >>> "2-gate" in {file.parent.name for file in files}  # of layer 2, site gate
    True
    """
    if format != "neuronpedia":
        raise ValueError(f"format={format!r}: only 'neuronpedia' is known")
    of_kind("url", url, str, "give the address of the folder, or nothing for links beside the files")
    run, out, sets = Run.load(run), Path(out), dict[_Set, list[Evidence]]()
    for one in load(run.path).values():
        sets.setdefault(_set_of(Neuron.parse(one.neuron)), []).append(one)
    links = _pictures([e for group in sets.values() for one in group for e in one.exemplars], out, url)
    files = []
    for (layer, name), group in sorted(sets.items()):
        group = sorted(group, key=lambda one: Neuron.parse(one.neuron).index)
        features = [_feature(one, run, links, model) for one in group]
        whole = {"model_id": run.info["model"]["name"], "layer": layer, "sae_set": name, "features": features}
        file = out / f"{layer}-{name}" / "batch-0.json"
        text = json.dumps(whole, ensure_ascii=False, allow_nan=False)
        write_atomic(file, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        files.append(file)
    return files


def _set_of(unit: Neuron) -> _Set:
    site, layer = at(unit.hook)
    expert = getattr(site, "expert", None)
    name = site.name if expert is None else f"{site.name}-expert-{expert}"
    return _Set(layer, f"{name}{'-negative' if unit.pole == '-' else ''}".replace("/", "_"))


def _pictures(exemplars: Sequence[Exemplar], out: Path, url: str) -> dict[str, str]:
    """Write every picture once; digest -> link."""
    links: dict[str, str] = {}
    for exemplar in exemplars:
        for image, digest in zip(exemplar.seen.images, exemplar.seen.image_digests, strict=True):
            if digest not in links:
                name = f"images/{digest[:16]}.png"
                write_atomic(out / name, lambda path, image=image: image.save(path, "PNG"))  # type: ignore[misc]
                links[digest] = f"{url.rstrip('/')}/{name}" if url else f"../{name}"
    return links


def _feature(evidence: Evidence, run: Run, links: dict[str, str], model: HookedVLM | None) -> dict[str, Any]:
    """One unit."""
    drawn = [e for e in evidence.exemplars if e.group == "random"]
    values = np.concatenate([np.zeros(0), *(_values(e) for e in drawn)])
    above = values[values > 0]
    heights, edges = np.histogram(above, bins=BARS) if above.size else (np.zeros(0), np.zeros(1))
    peaks = [_peak(e) for e in drawn]
    empty = ("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
             "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
             "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson",
             "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist")  # fmt: skip
    return {
        "feature_index": Neuron.parse(evidence.neuron).index,
        **{name: [] for name in empty},
        **_words(evidence.neuron, model),
        "frac_nonzero": float((values > 0).mean()) if len(values) else 0.0,
        "freq_hist_data_bar_values": _rounded((edges[1:] + edges[:-1]) / 2),
        "freq_hist_data_bar_heights": [int(height) for height in heights],
        "n_prompts_total": len(run.samples),
        "n_tokens_in_prompt": max((len(e.seen.tokens) + len(e.seen.images) for e in evidence.exemplars), default=0),
        "dataset": str(run.info["data"]["source"]),
        "activations": [_activation(e, evidence.peak, peaks, links) for e in evidence.exemplars],
    }


def _words(neuron: str, model: HookedVLM | None) -> dict[str, list[Any]]:
    """What a unit raises and lowers."""
    found: dict[str, list[Any]] = {"neg_str": [], "neg_values": [], "pos_str": [], "pos_values": []}
    if model is None:
        return found
    try:
        row = logit_lens(model, neuron, k=WORDS).iloc[0]
    except ValueError:  # it writes nowhere
        return found
    return {"neg_str": row.lowers, "neg_values": _rounded(row.lowered),
            "pos_str": row.raises, "pos_values": _rounded(row.raised)}  # fmt: skip


def _activation(exemplar: Exemplar, peak: float, drawn: Sequence[float], links: dict[str, str]) -> dict[str, Any]:
    """One sample: top ones as SAEDashboard marks them, others with the interval that their largest value is in."""
    tokens, values = list(exemplar.seen.tokens), exemplar.token_acts.astype(float).tolist()
    pictures = zip(exemplar.seen.places, exemplar.seen.image_digests, exemplar.patch_acts, strict=True)
    for place, digest, acts in reversed([*pictures]):
        tokens.insert(place, f"![image]({links[digest]})")
        values.insert(place, _largest(acts))
    low, high, share = -1.0, peak, -1.0
    if exemplar.group != "top":
        place = min(BINS - 1, int(max(0.0, _peak(exemplar)) / peak * BINS)) if peak > 0 else 0
        low, high = max(peak, 0.0) * place / BINS, max(peak, 0.0) * (place + 1) / BINS
        here = [low <= one < high or (one == high and place == BINS - 1) for one in drawn]
        share = float(np.mean(here)) if drawn else 0.0
    return {"bin_min": round(low, DIGITS), "bin_max": round(high, DIGITS), "bin_contains": round(share, DIGITS),
            "tokens": tokens, "values": _rounded(np.nan_to_num(values))}  # fmt: skip


def _values(exemplar: Exemplar) -> Float[np.ndarray, "value"]:
    """At all patches and words."""
    parts = [*(acts.ravel() for acts in exemplar.patch_acts), exemplar.token_acts[exemplar.seen.is_text]]
    values = np.concatenate([np.zeros(0), *parts])
    return values[~np.isnan(values)]


def _peak(exemplar: Exemplar) -> float:
    return _largest(_values(exemplar))


def _largest(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if known.size else 0.0


def _rounded(values: Any) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
