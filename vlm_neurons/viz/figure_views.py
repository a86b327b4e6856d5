"""Figures that a user shows in a notebook: what tables say of many neurons, and of one sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from vlm_neurons._checks import of_kind, on_scale
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.viz.card_content import an_evidence
from vlm_neurons.viz.html_pages import Fragment, template_text
from vlm_neurons.viz.views import View
from vlm_neurons.viz.wording import visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence
    from vlm_neurons.models import Batch
    from vlm_neurons.viz.drawing import Drawing

_PAPER = Thresholds()


def show_layers(table: pd.DataFrame) -> View:
    """Classes by layer, one bar a layer, as shares with their counts.

    Args:
        table: what `classify` returns.

    Raises:
        TypeError: it is no table.
        ValueError: a column is missing, or a label is none of the classes.

    >>> import pandas as pd
    >>> gates = pd.DataFrame({"site": "gate", "pole": "+", "layer": [0, 0, 1, 1], "confident": True})
    >>> view = vn.show_layers(gates.assign(label=["visual", "visual", "visual", "text"]))
    >>> "visual 75 %" in view.fragment.html
    True
    """
    import pandas as pd

    from vlm_neurons.viz.figures import layers_figure

    of_kind("table", table, pd.DataFrame, "give the table that vn.classify returns")
    return _view("Classes by layer", partial(layers_figure, table))


def show_concepts(table: pd.DataFrame) -> View:
    """Which concept lives in which layer: of the neurons of a layer, the share whose concept it is (the one with the
    largest r, its interval above 0), beside the same of random units where the run has them.

    Args:
        table: what `run.concepts()` returns.

    Raises:
        TypeError: it is no table.
        ValueError: a column is missing.

    >>> import pandas as pd
    >>> row = {"site": "gate", "pole": "+", "layer": 0, "side": "picture", "r_low": 0.2, "r": 0.4}
    >>> view = vn.viz.show_concepts(pd.DataFrame([row | {"concept": "color:red", "phrase": "red regions"}]))
    >>> "red regions" in view.fragment.html
    True
    """
    import pandas as pd

    from vlm_neurons.viz.concept_map import concept_figure, concept_maps

    of_kind("table", table, pd.DataFrame, "give the table that run.concepts() returns")
    return _view("Which concept lives in which layer", partial(concept_figure, concept_maps(table)))


def show_heads(by_class: pd.DataFrame) -> View:
    """Where attention heads of every class look, layer by layer: shares of the attention of the responses' words, the
    number of heads, and their focus (0: all patches the same, 1: one patch alone).

    Args:
        by_class: what `vn.evidence.heads_by_class` returns.

    Raises:
        TypeError: it is no table.
        ValueError: a column is missing.

    >>> import pandas as pd
    >>> shares = {"to_image": 0.5, "to_first": 0.2, "to_itself": 0.1, "to_text": 0.1, "to_template": 0.1}
    >>> view = vn.viz.show_heads(pd.DataFrame([{"layer": 0, "label": "visual", "n_heads": 3, "focus": 0.4} | shares]))
    >>> "layer 0, visual: 50 % of attention to the image (3 heads)" in view.fragment.html
    True
    """
    import pandas as pd

    from vlm_neurons.viz.heads_figure import heads_figure

    of_kind("by_class", by_class, pd.DataFrame, "give the table that vn.evidence.heads_by_class returns")
    return _view("Where heads look, by class", partial(heads_figure, by_class))


def show_top_neurons(batch: Batch, table: pd.DataFrame, row: int = 0) -> View:
    """The neurons that stand out on one sample, layer by layer with class and concept, beside the patches and the words
    where each has its largest activation. Words that read the same are marked alike.

    Args:
        batch: that of the sample.
        table: what `vn.top_neurons` returned for it.
        row: the sample's place in the batch.

    Raises:
        TypeError: it is no batch, or no table.
        IndexError: the batch has no such row.
        ValueError: a column is missing.

    >>> batch = model.prepare(data[36].load_images(), data[36].prompt, data[36].response)
    >>> view = vn.viz.show_top_neurons(batch, vn.top_neurons(model, batch, run, n=8))
    >>> view.save("stand out.png").name, "At image patches" in view.fragment.html
    ('stand out.png', True)
    """
    import pandas as pd

    from vlm_neurons.models import Batch
    from vlm_neurons.viz.top_neurons_card import top_neurons_figure

    of_kind("batch", batch, Batch, "give what model.prepare returns")
    of_kind("table", table, pd.DataFrame, "give the table that vn.top_neurons returns")
    if not 0 <= row < len(batch):
        raise IndexError(f"row={row}: the batch has {len(batch)} rows")
    return _view("Neurons that stand out", partial(top_neurons_figure, batch, table, row))


def show_distribution(evidence: Evidence, t_visual: float = _PAPER.t_visual, t_text: float = _PAPER.t_text) -> View:
    """How often a neuron has which activation, at image patches and at text tokens, on the scale where its largest is
    10: for random samples and for its strongest ones, with the thresholds from which a place counts.

    Args:
        evidence: of the neuron.
        t_visual: threshold of patches; the default is that of `classify`.
        t_text: threshold of tokens.

    Raises:
        TypeError: it is no evidence.
        ValueError: a threshold that is not from 0 to 10.

    >>> view = vn.viz.show_distribution(evidence["L2N304"])
    >>> view.title, view.save("activations.png").name
    ('Activations of L2N304', 'activations.png')
    """
    from vlm_neurons.viz.figures import distribution_figure

    on_scale(0, 10, "give a number from 0 to 10, where 10 is the neuron's largest activation", t_visual=t_visual,
             t_text=t_text)  # fmt: skip
    neuron = an_evidence(evidence).neuron
    return _view(f"Activations of {neuron}", partial(distribution_figure, evidence, float(t_visual), float(t_text)))


def show_scores(scores: pd.DataFrame) -> View:
    """Scores by class with their intervals, beside what other neurons' explanations reach, and the share with q < .05.

    Args:
        scores: what `score` returns; with `full=True`, or as `run.scores()`, it tells classes and q.

    Raises:
        TypeError: it is no table.
        ValueError: it has no column `r`.

    >>> view = vn.viz.show_scores(scores)
    >>> "1 neuron, median r ." in view.fragment.html  # the one text neuron
    True
    """
    import pandas as pd

    from vlm_neurons.viz.figures import scores_figure

    of_kind("scores", scores, pd.DataFrame, "give the table that vn.score returns")
    if "r" not in scores:
        raise ValueError(f"scores has no column 'r' but {', '.join(map(str, scores))}; pass what vn.score returns")
    return _view("Scores against their nulls", partial(scores_figure, scores))


def _view(title: str, draw: Callable[..., Drawing]) -> View:
    from vlm_neurons.viz.drawing import svg

    html = f'<section class="vn-view"><h3>{escape(visible(title))}</h3>{svg(draw())}</section>'
    return View(title, Fragment(html, template_text("card.css")), partial(draw, title=visible(title)))
