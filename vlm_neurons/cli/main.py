"""The command line: every step works on the run directory of the one before."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.cli.inputs import find_model, model_and_data, model_of
from vlm_neurons.cli.options import AFTER_CTRL_C, command, data_options, model_options, names, positive
from vlm_neurons.cli.output import console, safe, say
from vlm_neurons.cli.threads import as_begun, one_thread

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

DEMO_MODEL = "tiny-llava-scenes"
DEMO_SITES = ["gate", "post", "projector"]
DEMO_SCENES = 1000
DEMO_NEURONS = 20  # of each class
DEMO_EDITED, DEMO_TRIALS = 5, 10  # of each class, those whose words are edited, and in how many scenes
DEMO_EDITS = ("repaint", "reshape", "replace")
DEMO_CONCEPTS, DEMO_RANDOM = "pixels+truth+words", 64  # banks; random units a layer
OPTIONS_OF = {  # of the methods of `classify`
    "thresholds": ("t_visual", "n_visual", "t_text", "n_text", "peak"),
    "modality-test": ("fdr", "delta", "correction"),
}
_LLAVA = "llava-hf/llava-1.5-7b-hf"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when it did what was asked, 1 when the input could not be used, 2 for a wrong command line, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:  # without what the commands need: seconds of imports
        from vlm_neurons import __version__

        sys.stdout.write(f"{__version__}\n")
        return 0
    parsed = argparse.Namespace(name="", traceback="--traceback" in given)
    try:
        find_model(given)
        parser = _parser()
        parsed = parser.parse_args(given)
        options = [word.partition("=")[0] for word in given if word.startswith("--")]  # abbreviations are refused
        if twice := [one for one in options if options.count(one) > 1]:
            parser.error(f"{twice[0]} is given twice: give it once, a list with commas")
        with one_thread():
            parsed.command(parsed)
    except KeyboardInterrupt:
        say(f"\ninterrupted; {AFTER_CTRL_C.get(parsed.name, 'nothing was begun')}")
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if parsed.traceback:
            raise
        say(f"vlm-neurons {parsed.name or given[0]}: {error}")
        return 1
    return 0


def demo(args: argparse.Namespace) -> None:
    """Scan with concepts, classify, explain, simulate, score, edit and report the embedded model on its own world."""
    from vlm_neurons.autointerp.explaining import explain as explain_neurons
    from vlm_neurons.autointerp.scoring import score as score_explanations
    from vlm_neurons.classification import classify as label
    from vlm_neurons.cli.concepts_command import bank_of, of_all
    from vlm_neurons.cli.edits_command import show as show_edits
    from vlm_neurons.cli.explain_command import clearest_of_classes, evidence_of
    from vlm_neurons.cli.score_command import show as show_scores
    from vlm_neurons.interventions.edits.effects import input_effects
    from vlm_neurons.reporting import report as write
    from vlm_neurons.synthetic import scenes

    model, data = model_of(args, DEMO_MODEL), scenes(DEMO_SCENES, seed=0)
    run = _scan(model, data, args, site=DEMO_SITES, batch_size=32, block_size=256, concepts=bank_of(DEMO_CONCEPTS),
                null_directions=DEMO_RANDOM)  # fmt: skip
    table = label(run)
    run.save(table)
    _show(run, table)
    of_all(run)
    evidence = evidence_of(run, clearest_of_classes(run, DEMO_NEURONS), lambda: model, data, seed=0)
    explanations = explain_neurons(evidence, out=run)
    show_scores(score_explanations(explanations, evidence, out=run, full=True))
    edited = {n: explanations[n] for n in clearest_of_classes(run, DEMO_EDITED) if not explanations[n].failed}
    show_edits(input_effects(model, scenes(DEMO_TRIALS, seed=1), edited, DEMO_EDITS, n=DEMO_TRIALS, out=run))
    say(f"run directory: {run.path}\nreport: {write(run, out=run, model=model)}")


def describe(args: argparse.Namespace) -> None:
    """Let a model write the responses that data lacks."""
    from vlm_neurons.data import describe as write

    model, given = model_and_data(args)
    data = write(
        model, given, args.out, prompt=args.prompt, batch_size=args.batch_size or 8,
        max_new_tokens=args.max_new_tokens,
    )  # fmt: skip
    missing = sum(sample.response is None for sample in data)
    say(f"{len(data) - missing} of {len(data)} samples have a response: {args.out}")
    if missing:
        say(f"{missing} could not be described; each line's `error` says why")


def scan(args: argparse.Namespace) -> None:
    """Scan data with a model."""
    from vlm_neurons.cli.concepts_command import bank_of

    bank = bank_of(args.concepts) if args.concepts else None
    model, data = model_and_data(args)
    as_begun(Path(args.out))
    _scan(model, data, args, site=args.site, batch_size=args.batch_size, block_size=args.block_size,
          top_n=args.top_n, prompt=args.prompt, workers=args.workers, concepts=bank,
          controls=args.controls)  # fmt: skip
    say(f"next: vlm-neurons classify {args.out}{f', vlm-neurons concepts {args.out}' if bank else ''}")


def classify(args: argparse.Namespace) -> None:
    """Classify a finished scan."""
    from vlm_neurons import classification
    from vlm_neurons.scanning import Run

    run = Run.load(args.run)
    own = OPTIONS_OF[args.method]
    for method, others in OPTIONS_OF.items():
        for name in others:
            if method != args.method and getattr(args, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is of --method {method}; {args.method} has no such number"
                )
    given = {name: getattr(args, name) for name in own if getattr(args, name) is not None}
    default = args.method == "thresholds"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `_show` says it
        table = (classification.classify if default else classification.modality_test)(run, **given)
    file = run.save(table)
    _show(run, table, "classes_by_layer.svg" if default else f"classes_by_layer-{args.method}.svg")
    say(f"table: {file}   next: vlm-neurons report {args.run}")


def explain(args: argparse.Namespace) -> None:
    """Explain neurons of a finished run."""
    from vlm_neurons.cli.explain_command import explain_run

    explain_run(args, model_of)


def score(args: argparse.Namespace) -> None:
    """Score the explanations of a run."""
    from vlm_neurons.cli.score_command import score_run

    score_run(args)


def report(args: argparse.Namespace) -> None:
    """Write the page of a run."""
    from vlm_neurons.reporting import report as write
    from vlm_neurons.synthetic import open_data

    data = open_data(args.data) if args.data else None
    model = model_of(args) if args.model else None
    say(f"report: {write(args.run, out=args.out or args.run, model=model, data=data, n_neurons=args.n_neurons)}")


def _scan(model: HookedVLM, data: ImageTextData, args: argparse.Namespace, **options: Any) -> Run:
    from vlm_neurons.scanning import scan as run_scan

    return run_scan(model, data, out=args.out, **options)


def _show(run: Run, table: pd.DataFrame, name: str = "classes_by_layer.svg") -> None:
    """Print counts and shares per layer, and write the figure of classes by layer."""
    from vlm_neurons._files import write_atomic
    from vlm_neurons.classification.tables import no_classes
    from vlm_neurons.viz import layer_tables
    from vlm_neurons.viz.drawing import svg
    from vlm_neurons.viz.figures import layers_figure

    for one in layer_tables(table):
        one.title = safe(one.title)
        console().print(one)
    if run.skipped:
        say(f"{len(run.skipped)} samples were skipped; {run.path / 'skipped.jsonl'} says why", stderr=False)
    top_n = run.info["parameters"]["top_n"]
    if why := no_classes(table):
        say(why, stderr=False)
    few = table[table["n_samples"] < top_n] if "p_visual" in table else table[:0]
    if len(few):
        say(f"classes of {len(few):,} neurons rest on fewer than top_n={top_n:,} samples (the fewest: "
            f"{few['n_samples'].min():,}): none of them is called confident", stderr=False)  # fmt: skip
    figure = run.path / name
    text = svg(layers_figure(table, "Classes by layer"), alone=True)
    write_atomic(figure, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    say(f"figure: {figure}", stderr=False)


def families(args: argparse.Namespace) -> None:
    """Print which families of models work, and with what."""
    from rich.table import Table

    from vlm_neurons.models.adapters import families as table

    found = table().drop(columns="architecture")
    shown = Table(title=f"{len(found)} families of models", title_justify="left", show_lines=True)
    for name in found.columns:
        shown.add_column(name, overflow="fold", no_wrap=name == "family")
    for row in found.itertuples(index=False):
        shown.add_row(*(safe(str(value)) for value in row))
    console().print(shown)


def _parser() -> argparse.ArgumentParser:
    from vlm_neurons import __version__
    from vlm_neurons.cli.concepts_command import add_command as add_concepts
    from vlm_neurons.cli.edits_command import add_command as add_edits
    from vlm_neurons.cli.faithfulness_command import add_command as add_faithfulness

    parser = argparse.ArgumentParser(
        prog="vlm-neurons", description="What single neurons of a vision-language model do.",
        epilog="Start with: vlm-neurons demo", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, dest="name", metavar="command")
    p = command(commands, "demo", demo, "scan, classify, explain and score the embedded model: no key, no GPU",
                "vlm-neurons demo --out runs/demo")  # fmt: skip
    p.add_argument("--out", default="runs/demo", help="run directory (default: %(default)s)")
    model_options(p, model=False)
    command(commands, "families", families, "list the families of models that work", "vlm-neurons families")
    for add in (_describe_options, _scan_options, _classify_options, add_concepts, _explain_options,
                _score_options, add_edits, add_faithfulness, _report_options):  # fmt: skip
        add(commands)
    return parser


def _describe_options(commands: Any) -> None:
    p = command(commands, "describe", describe, "let the model write the responses that data lacks",
                f"vlm-neurons describe --model {_LLAVA} --data photos/ --out captions.jsonl")  # fmt: skip
    model_options(p)
    data_options(p)
    p.add_argument("--out", required=True, help="JSONL to write, or to continue")
    p.add_argument("--max-new-tokens", type=positive, default=256)


def _scan_options(commands: Any) -> None:
    p = command(commands, "scan", scan, "one pass over the data; goes on if the run directory is there",
                f"vlm-neurons scan --model {_LLAVA} --data photos/ --out runs/photos --site gate,post")  # fmt: skip
    from vlm_neurons.cli.concepts_command import WRITTEN

    model_options(p)
    data_options(p)
    p.add_argument("--out", required=True, help="run directory")
    p.add_argument("--site", type=names, default=["gate"], metavar="SITE[,SITE]",
                   help="gate, post, projector, vision, heads, or hook names (default: gate)")  # fmt: skip
    p.add_argument("--controls", action="store_true", help="also look at pictures that show nothing")
    p.add_argument("--concepts", metavar="BANK[+BANK]", help=f"correlate every neuron with concepts: {WRITTEN}")
    p.add_argument("--top-n", type=positive, default=50, help="samples kept per neuron (default: %(default)s)")
    p.add_argument("--workers", type=int, default=0, help="processes that decode images (default: %(default)s)")
    p.add_argument("--block-size", type=positive, default=1000, help="samples per file (default: %(default)s)")


def _classify_options(commands: Any) -> None:
    p = command(commands, "classify", classify, "label every neuron of a finished scan",
                "vlm-neurons classify runs/photos --t-visual 3")  # fmt: skip
    p.add_argument("run", help="run directory")
    p.add_argument("--method", choices=[*OPTIONS_OF], default="thresholds", help="(default: %(default)s)")
    p.add_argument("--t-visual", type=float, help="thresholds: what visual tokens have to exceed, 0-10 (default: 2)")
    p.add_argument("--n-visual", type=positive, help="thresholds: visual tokens above it (default: 4)")
    p.add_argument("--t-text", type=float, help="thresholds: what text tokens have to exceed, 0-10 (default: 3)")
    p.add_argument("--n-text", type=positive, help="thresholds: text tokens above it (default: 2)")
    p.add_argument("--peak", choices=["tokens", "all"], help="thresholds: 10 is the largest at these (default: tokens)")
    p.add_argument("--fdr", type=float, help="modality-test: false-discovery rate (default: 0.05)")
    p.add_argument("--delta", type=float, help="modality-test: margin of the index (default: 0.2)")
    p.add_argument("--correction", choices=["bh", "by"], help="modality-test (default: bh)")


def _explain_options(commands: Any) -> None:
    from vlm_neurons.cli.explain_command import add_options

    p = command(commands, "explain", explain, "say in words what neurons respond to",
                "vlm-neurons explain runs/photos --class visual --top 20")  # fmt: skip
    add_options(p)
    model_options(p, required=False)
    p.add_argument("--data", help="overrides the data that the scan recorded")


def _score_options(commands: Any) -> None:
    from vlm_neurons.cli.score_command import add_options

    p = command(commands, "score", score, "tell whether the explanations of a run predict anything",
                "vlm-neurons score runs/photos --simulator concepts")  # fmt: skip
    add_options(p)


def _report_options(commands: Any) -> None:
    p = command(commands, "report", report, "write a page about a run that needs no network",
                "vlm-neurons report runs/photos --out photos.html")  # fmt: skip
    p.add_argument("run", help="run directory")
    p.add_argument("--out", help="page to write (default: report.html in the run directory)")
    text = "clearest neurons per site and class; 0: only those explained or scored (default: %(default)s)"
    p.add_argument("--n-neurons", type=int, default=5, help=text)
    model_options(p, required=False)
    p.add_argument("--data", help="overrides the data that the scan recorded")


if __name__ == "__main__":
    sys.exit(main())
