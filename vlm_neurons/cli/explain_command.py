"""`vlm-neurons explain`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.registry import EXPLAINERS, explainer_of, in_words
from vlm_neurons.cli.options import names, positive
from vlm_neurons.cli.output import cell, console, say
from vlm_neurons.cli.threads import all_threads

if TYPE_CHECKING:
    from vlm_neurons.autointerp.explanation import Explanation
    from vlm_neurons.autointerp.protocols import Explainer
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.evidence.gathered import Gathered
    from vlm_neurons.evidence.stored import Stored
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

CLASSES = ["visual", "text", "multimodal", "unknown", "not_applicable"]
SEEING = ("visual", "text", "multimodal")
CONCURRENCY = 8
DETAIL = 300  # letters shown of what a server said
SERVER = (
    "base_url",
    "price",
    "max_cost",
    "concurrency",
    "max_tokens",
    "retry_failures",
)  # options of what asks a server


def add_options(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument("run", help="run directory, classified")
    p.description = (
        f"{p.description}; without --neurons and --class, the clearest neurons of each of {', '.join(SEEING)}"
    )
    which = p.add_mutually_exclusive_group()
    which.add_argument("--neurons", help="ids, such as L3N17,P0N5")
    which.add_argument(
        "--class",
        dest="labels",
        type=classes_named,
        metavar="CLASS[,CLASS]",
        help=f"the clearest neurons of each: {', '.join(CLASSES)}",
    )
    p.add_argument("--top", type=positive, default=20, help="so many of a class (default: %(default)s)")
    p.add_argument("--explainer", choices=list(EXPLAINERS), default="dissection",
                   help=f"{in_words(EXPLAINERS)} (default: %(default)s)")  # fmt: skip
    p.add_argument("--explainer-model", help="name of the model that explains, or a local directory")
    add_server_options(p)
    p.add_argument("--attempt", type=int, help="another number asks anew where the cache has an answer")
    p.add_argument("--seed", type=int, default=0, help="of the random samples (default: %(default)s)")
    p.add_argument("--dry-run", action="store_true", help="print calls, images, tokens and price; send nothing")


def classes_named(text: str) -> list[str]:
    """Read classes with commas between them, however "multimodal" is written."""
    from vlm_neurons.tokens import NOT_APPLICABLE, Modality

    found = []
    for name in names(text):
        try:
            found.append(name if name == NOT_APPLICABLE else Modality(name).value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{name!r}: write some of {', '.join(CLASSES)}") from None
    return list(dict.fromkeys(found))


def add_server_options(p: argparse.ArgumentParser) -> None:
    """What every command takes that may ask a server."""
    p.add_argument("--base-url", help="OpenAI-compatible server (default: OPENAI_BASE_URL, or OpenAI)")
    p.add_argument("--price", type=_price, metavar="IN,OUT", help="dollars per million tokens")
    p.add_argument("--max-cost", type=float, help="dollars; no call is sent that could pass it")
    p.add_argument("--concurrency", type=positive, help=f"requests at once (default: {CONCURRENCY})")
    p.add_argument("--max-tokens", type=positive, help="of every answer; a model that thinks first needs more of them")
    p.add_argument("--retry-failures", action="store_true", default=None,
                   help="ask again where the cache has a failure; find out anew what the server can do")  # fmt: skip


def server_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was said about a server, as it is passed on."""
    given = {"max_tokens": args.max_tokens} if args.max_tokens else {}
    return {
        "base_url": args.base_url, "price": args.price, "max_cost": args.max_cost,
        "retry_failures": bool(args.retry_failures), "concurrency": args.concurrency or CONCURRENCY, **given,
    }  # fmt: skip


def _price(text: str) -> tuple[float, float]:
    try:
        tokens_in, tokens_out = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: two numbers with a comma between them, such as 2.5,10") from None
    return tokens_in, tokens_out


def refuse_unused(args: argparse.Namespace, names: Sequence[str], choice: str) -> None:
    """Refuse options that were given though the choice does not take them; none is dropped silently.

    Raises:
        ValueError: one was given.
    """
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{choice} does not take {', '.join(given)}; leave it out, or choose what asks a model")


def explain_run(args: argparse.Namespace, model: Callable[..., Any]) -> None:
    """Gather evidence where it is missing, explain, and print a table."""
    from vlm_neurons.autointerp.explaining import explain, summary
    from vlm_neurons.autointerp.store import read_explanations
    from vlm_neurons.scanning import Run
    from vlm_neurons.scanning.results import EXPLANATIONS
    from vlm_neurons.synthetic import open_data

    run = Run.load(args.run)
    args.model = args.model or run.info["model"]["name"]
    opened = cache(lambda: model(args))
    explainer = _explainer(args, run, opened)
    data = open_data(args.data) if args.data else None
    evidence = evidence_of(run, _chosen(args, run), opened, data, args.seed)
    if args.dry_run:
        plan = explainer.plan(evidence)
        free = explainer.effort(evidence) or f"{args.explainer}: {len(evidence)} neurons"
        say(f"no calls, no cost; {free}" if plan is None else str(plan))
        return
    before = read_explanations(run.path, [*evidence])
    explanations = explain(evidence, explainer, out=run)
    _show(explanations)
    lines = [summary(explanations), *_failures(explanations, explainer)]
    lines += _replaced(before, explanations, read_explanations(run.path, [*evidence]))
    say("\n".join([*lines, f"explanations: {run.path / EXPLANATIONS}"]))
    if explanations and all(e.failure for e in explanations.values()):
        raise ValueError("no neuron has an answer; the same command asks again")


def _failures(explanations: dict[str, Explanation], explainer: Explainer) -> list[str]:
    """A line for each kind of failure: where, and what was said first."""
    from vlm_neurons.autointerp.client.cache import address_of

    first = {e.failure.kind: e.failure.detail for e in reversed(explanations.values()) if e.failure}
    where = f" at {address_of(explainer.address)}" if explainer.address else ""
    return [f"{kind}{where}: {detail[:DETAIL]}" for kind, detail in first.items()]


def _replaced(before: dict[str, Explanation], made: dict[str, Explanation], after: dict[str, Explanation]) -> list[str]:
    """Lines that say how many earlier explanations count no more, and how many still do since the new ones failed."""
    there = [n for n, e in before.items() if not e.failed]
    lost = [n for n in there if before[n].to_record() != after[n].to_record()]
    kept = [n for n in there if n in made and made[n].failed]
    lines = [f"earlier explanations replaced: {len(lost)}"] if lost else []
    return lines + ([f"earlier explanations that still count, since the new ones failed: {len(kept)}"] if kept else [])


def _chosen(args: argparse.Namespace, run: Run) -> list[str]:
    """Ids of the neurons that were asked for; without a choice, the clearest of each class that sees something."""
    if args.neurons is not None:
        return named(args.neurons)
    return clearest_of_classes(run, args.top, args.labels or SEEING)


def named(text: str) -> list[str]:
    """Ids of `--neurons`, each once.

    Raises:
        ValueError: there are none, or one is no id.
    """
    from vlm_neurons.units import parse_neurons

    ids = list(dict.fromkeys(n.id for n in parse_neurons(text)))
    if not ids:
        raise ValueError(f"--neurons {text!r} names none; write ids such as L3N17,P0N5, or leave it out")
    return ids


def clearest_of_classes(run: Run, n: int, labels: Sequence[str] = SEEING) -> list[str]:
    """Ids of the n clearest neurons of each class.

    Raises:
        ValueError: the run is not classified, or has none.
    """
    import pandas as pd

    from vlm_neurons.classification import clearest

    file = run.path / "neurons.parquet"
    if not file.is_file():
        raise ValueError(f"{run.path} has no neurons.parquet; run vlm-neurons classify {run.path} first, or --neurons")
    table = pd.read_parquet(file)
    found = [str(neuron) for label in labels for neuron in clearest(table, label, n)["neuron"]]
    if not found:
        raise ValueError(f"{run.path} has no neuron of class {' or '.join(labels)}")
    return found


def evidence_of(
    run: Run, neurons: Sequence[str], model: Callable[[], HookedVLM], data: ImageTextData | None, seed: int
) -> Gathered:
    """From the run directory, and gathered for those that are not there (only then the model is loaded). Classes are
    those that the run has now."""
    from vlm_neurons.evidence import gather_evidence
    from vlm_neurons.evidence.gathered import Gathered
    from vlm_neurons.evidence.gathering import labels_of
    from vlm_neurons.evidence.storing import relabel
    from vlm_neurons.scanning.writing import check_length

    if data is not None:
        check_length(run, data)  # also where all evidence is there: data that was named is not ignored
    stored = _stored(run)
    known = _of_run(stored, run, seed)
    if missing := [n for n in neurons if n not in known]:
        try:
            gather_evidence(model(), run.open_data() if data is None else data, run, missing, seed=seed, out=run)
        except KeyError as error:  # a neuron that was not scanned: wrong input, not a fault of the program
            raise ValueError(str(error.args[0])) from error
        stored = _stored(run)
        known = _of_run(stored, run, seed)
    labels = labels_of(run, [*known])
    stored = relabel(stored, {name: labels.get(name, label) for name, label in known.items()})
    return Gathered.of(stored, neurons)


def _stored(run: Run) -> Stored:
    """What is stored of a run, or nothing."""
    from vlm_neurons.evidence import load
    from vlm_neurons.evidence.stored import Stored, is_there

    return load(run.path) if is_there(run.path / "evidence") else Stored(run.path / "evidence")


def _of_run(stored: Stored, run: Run, seed: int) -> dict[str, Any]:
    """Labels of the stored neurons that were gathered from a run as it is, with a seed."""
    about = {n: stored.about(n) for n in stored}
    return {
        n: x["label"] for n, x in about.items() if x["seed"] == seed and x["source"].get("run") == run.identity
    }  # fmt: skip


def _explainer(args: argparse.Namespace, run: Run, model: Callable[[], HookedVLM]) -> Explainer:
    entry = EXPLAINERS[args.explainer]
    if entry.needs != "server":
        unused = (*SERVER, "attempt", *([] if entry.needs == "weights" else ["explainer_model"]))
        refuse_unused(args, unused, f"--explainer {args.explainer}")
    if not entry.needs:
        return explainer_of(args.explainer)
    if entry.needs == "model":
        of_itself: Explainer = entry.load()(model())
        return of_itself
    if not args.explainer_model:
        raise ValueError(f"--explainer {args.explainer} needs --explainer-model")
    kind: Any = entry.load()
    if entry.needs == "server":
        asked: Explainer = kind(
            args.explainer_model, attempt=args.attempt or 0, cache=run.path / "cache.sqlite", **server_options(args)
        )
        return asked
    opened: Explainer = kind(*_opened(args))
    return opened


def _opened(args: argparse.Namespace) -> tuple[Any, Any]:
    """The local model that explains, and its processor, where and as exact as `--device` and `--dtype` say."""
    import torch

    from vlm_neurons.autointerp.client.local import open_model

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, args.dtype) if args.dtype else torch.bfloat16 if device.type == "cuda" else torch.float32
    all_threads()
    return open_model("AutoModelForImageTextToText", args.explainer_model, device, dtype)


def _show(explanations: dict[str, Explanation]) -> None:
    from rich.table import Table

    table = Table("neuron", "explanation", "confidence")
    for key, e in explanations.items():
        text = cell(f"failed: {e.failure.kind}", "dim") if e.failure else cell(e.text)
        table.add_row(cell(key), text, "" if e.confidence != e.confidence else f"{e.confidence:.2f}")
    console().print(table)
