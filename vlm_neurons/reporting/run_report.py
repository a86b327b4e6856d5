"""A page about a run."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_neurons._checks import whole
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.evidence import gather_evidence
from vlm_neurons.interventions.edits.gallery import edit_gallery
from vlm_neurons.interventions.trusting import summary
from vlm_neurons.reporting.edits_in_words import effects_of
from vlm_neurons.reporting.faithful_in_words import faithfulness_of
from vlm_neurons.reporting.neuron_list import Shown, choose, record, with_evidence
from vlm_neurons.reporting.other_neurons import Others
from vlm_neurons.reporting.page_files import Story, write
from vlm_neurons.reporting.run_facts import Dependence, document, score_summary
from vlm_neurons.reporting.run_results import Results, classes
from vlm_neurons.reporting.trained_or_random import values_of
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.writing import check_length

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM

TOP = 3  # samples shown of a neuron without stored evidence


def report(
    run: Run | str | Path,
    out: Run | str | Path,
    model: HookedVLM | None = None,
    data: ImageTextData | None = None,
    n_neurons: int = 5,
) -> Path:
    """Write a page about a run: what was scanned, classes by layer, how much the thresholds matter, the clearest
    neurons of every class and all that have an explanation or a score, and how it was made.

    It loads nothing from the network and reads without JavaScript too. Beside it stands a JSON file with the same
    numbers. Up to about 10 MB and 250 neurons it is one file; above that the page is an index, and every neuron has its
    own in a folder beside it (`report_files/` for `report.html`), where each picture is stored once. Neurons without a
    card are found by their id, or by words of their explanation (its first 200 characters): above 20,000 neurons what
    the scan tells lies in that folder too, and the page reads what a search needs. The same run gives the same bytes.

    Args:
        run: a finished scan, or its directory; classified with the defaults if it is not yet. Explanations,
            simulations, scores and evidence are taken from the directory.
        out: the page, such as `"page.html"`; or a run or a directory, to have `report.html` in it.
        model: the model that was scanned, for neurons without stored evidence; by default the one that `scan` was given
            to make `run`, else loaded again by the name that the run recorded.
        data: the data that was scanned, for the same; by default that of `scan`, else opened again from the source that
            the run recorded.
        n_neurons: the clearest neurons per site, pole and class (`classification.clearest` says which). With 0
            only those with an explanation or a score are shown.

    Returns:
        Path of the page.

    Raises:
        ValueError: model or data cannot be found again (the message says which to pass), or are not those scanned; or
            `out` has the ending of the numbers; or a file of the run directory cannot be read (the message says what
            writes it again).
        OSError: an image cannot be read any more.

    >>> page = vn.report(run, out="report.html", model=model, data=data, n_neurons=1)
    >>> page.name, page.with_suffix(".json").exists()
    ('report.html', True)
    """
    run = Run.load(run)
    whole(0, n_neurons=n_neurons)
    out = out.path if isinstance(out, Run) else Path(out)
    out = out / "report.html" if out.is_dir() else out
    if out.suffix == ".json":
        raise ValueError(
            f"out={str(out)!r}: the numbers get this ending; call the page {out.with_suffix('.html').name}"
        )
    table, results = classes(run), Results.of(run)
    shown = choose(table, results, n_neurons)
    missing = [s.neuron for s in shown if s.evidence is None and s.row]
    if missing:
        found = gather_evidence(
            _model(run, model), _data(run, data), run, missing, n_top=TOP, n_spare=0, n_pool=0, progress=False
        )
        shown = with_evidence(shown, found)
    write(story(run, table, results, shown), out)
    return out


def story(run: Run, table: pd.DataFrame, results: Results, shown: list[Shown]) -> Story:
    """All that the page tells, and its numbers."""
    rule = _rule(table)
    thresholds = Dependence.of(run, rule)
    scores = score_summary(results.scores)
    numbers = document(run, table, rule, thresholds, scores, [record(s) for s in shown])
    numbers["concepts_by_layer"] = [asdict(one) for one in results.maps]
    trusted = values_of(run)
    numbers["trained_or_random"] = [] if trusted is None else summary(trusted).to_dict("records")
    effects = effects_of(run)
    numbers["edits"] = [] if effects is None else effects.to_dict("records")
    faithful = faithfulness_of(run)
    numbers["faithfulness"] = [] if faithful is None else faithful.to_dict("records")
    galleries = {} if effects is None else edit_gallery(run)
    maps, lacking = results.maps, results.no_concepts
    others = Others.of(run, table, results.explanations, {s.neuron for s in shown})
    return Story(
        run, table, rule, thresholds, shown, numbers, maps, lacking, trusted, effects, galleries, faithful, others
    )


def _rule(table: pd.DataFrame) -> Thresholds | None:
    """The thresholds behind the table, if it says so itself."""
    names = [field.name for field in fields(Thresholds)]
    said = table.attrs.get("parameters", {})
    return Thresholds(**{name: said[name] for name in names}) if set(names) <= set(said) else None


def _model(run: Run, model: HookedVLM | None) -> HookedVLM:
    import torch

    from vlm_neurons.models import HookedVLM

    recorded = run.info["model"]
    if model is None and (model := run.memory.get("model")) is None:
        try:
            model = HookedVLM.from_pretrained(recorded["name"], dtype=getattr(torch, recorded["dtype"]))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model {recorded['name']!r} cannot be loaded again; pass model=, or n_neurons=0 to show only neurons "
                f"with stored evidence ({error})"
            ) from error
    if model.fingerprint() != recorded["fingerprint"]:
        raise ValueError(f"{model.name!r} is not the model that {run.path} was made with; pass that one as model=")
    return model


def _data(run: Run, data: ImageTextData | None) -> ImageTextData:
    if data is None and (data := run.memory.get("data")) is None:
        try:
            return run.open_data()
        except (OSError, ValueError) as error:
            raise ValueError(f"the data of {run.path} cannot be opened again; pass data= ({error})") from error
    check_length(run, data)
    return run.with_scanned_responses(data)
