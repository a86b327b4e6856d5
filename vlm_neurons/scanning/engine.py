"""The scan: one forward pass over the data, the top samples of every neuron, in blocks that survive an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vlm_neurons._checks import of_kind, whole_number
from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData, describe
from vlm_neurons.models import on_day
from vlm_neurons.models.reading import hooks_of
from vlm_neurons.protocols import ConceptBank
from vlm_neurons.scanning.always_on import write_controls
from vlm_neurons.scanning.batching import MOST, begun_with, fewer, one_sample_at_least, out_of_memory, suitable
from vlm_neurons.scanning.blocks import Skip, check_place
from vlm_neurons.scanning.concept_job import Asked, ConceptJob
from vlm_neurons.scanning.dictionary_fits import in_words
from vlm_neurons.scanning.fused import choose
from vlm_neurons.scanning.identity import day_of, describe_scan, made_with
from vlm_neurons.scanning.job import Job
from vlm_neurons.scanning.loading import Loaded, known_skips, load
from vlm_neurons.scanning.nulls import random_units
from vlm_neurons.scanning.planning import (
    check_memory,
    check_model_and_prompt,
    check_prompt_asked,
    free_memory,
    measure,
    place,
    places_of,
)
from vlm_neurons.scanning.recorder import measure_columns
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.writing import drop_blocks, finish, start
from vlm_neurons.synthetic import open_data

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM
    from vlm_neurons.sites import Site


def scan(
    model: HookedVLM,
    data: ImageTextData | str | Path,
    site: str | Site | Sequence[str | Site] = "gate",
    top_n: int = 50,
    n_visual: int = 4,
    n_text: int = 2,
    batch_size: int | None = None,
    block_size: int = 1000,
    *,
    out: str | Path,
    concepts: ConceptBank | None = None,
    folds: int = 8,
    null_directions: int = 256,
    controls: bool = False,
    prompt: str = DEFAULT_PROMPT,
    workers: int = 0,
    compiled: bool | None = None,
    progress: bool = True,
) -> Run:
    """Run the model once over the data, and keep what classification and explanation need of every neuron.

    Per neuron: the `top_n` samples with the largest maximum over visual and text tokens (ties to the lower sample id),
    the largest values of each at visual and at text tokens, and the maximum over all tokens. The result is exact: equal
    to storing every activation, whatever the batch size, for the activations that the model gives in these batches.

    A run directory that is there already is gone on with: blocks that are done are not scanned again. Of several
    processes (`RANK` and `WORLD_SIZE` in the environment, as torchrun sets them, or SLURM's variables under srun) each
    takes every WORLD_SIZE-th block, and the last one merges; `vlm_neurons.scanning.merge` joins runs of machines that
    share no disk. A scan while hooks of the user stand on the model is what they make of it, and is never gone on with.

    Where all hooks that are read are of the four sites or the residual stream, the forward pass is transformers' own
    with fused attention (`HookedVLM.fast_hooks`), else the bridge's; `scan.json` says which. They differ in last
    digits. In the same pass the sums for `vn.modality_test` are gathered.

    Args:
        model: what to scan.
        data: samples, or what `synthetic.open_data` takes.
        site: `"gate"` (the neurons of Xu, Lan, Lu 2025), `"post"`, `"projector"`, `"vision"`, a hook name such as
            `"blocks.3.hook_mlp_out"`, a site of your own (see `vlm_neurons.sites`), or a list of those. Site `post` and
            hooks that are no site give both poles.
        top_n: samples per neuron (the paper: 50); all, where there are fewer.
        n_visual: values per sample at visual tokens; a later `classify` can ask for at most as many.
        n_text: the same at text tokens.
        batch_size: samples per forward pass; None takes that of the run that is gone on with, else as many as
            suit a processor (1 for wide models), and 8 on a GPU. Where memory is too small it is halved, with a word,
            for `controls` and for responses that the model writes too.
        block_size: samples per block, the unit of resuming.
        out: run directory.
        concepts: a bank (`vlm_neurons.protocols.ConceptBank`): the same pass sums up every unit with every concept over
            all patches and all tokens of responses, for `run.concepts()` and `vn.explain(run)`. Batches are then filled
            fold by fold. Template tokens are left out, BOS among them.
        folds: parts of the data, by picture, from which concepts are chosen and told how sure they are.
        null_directions: random units in every layer of sites gate and post, that a neuron's r is compared with; where
            it has experts, in each of them, at the tokens that chose it.
        controls: also look at 24 samples with their own picture, a gray one, noise, and their own cut in cells and
            shuffled (96 samples more), after the rest. Tables of labels then have `always_on`, the mean positive
            activation at the patches of gray pictures or of noise, whichever is less, as a share of that on the
            samples' own (1 at most): a neuron that needs no content has 1; and `between_images`, the share of the
            variance over patches that is between the samples' own pictures. NaN where nothing is positive, or varies.
        prompt: question for the samples that have none of their own.
        workers: processes that decode and preprocess images (a DataLoader's); 0 does it in one thread beside a model
            on a GPU, and in between on a CPU, which has no core to spare. A fast GPU needs several: a photograph takes
            10-20 ms of a core, its forward pass can take less.
        compiled: look at activations with code made by torch.compile; None does so on CUDA where it works. The same
            values are kept; sums of the modality test differ in last digits.
        progress: say on stderr what it will cost (after three batches, which it is told from), how far it is, and what
            was skipped.

    Returns:
        The run; `run.complete` is False only where other processes have still blocks to do.

    Raises:
        ValueError: bad arguments or data, or `out` is no directory of its own or holds another run.
        FloatingPointError: an activation is not finite; the message names sample and site.
        torch.OutOfMemoryError: there is too little memory for one sample.
        OSError: the disk is too small, or full; what was finished stays.

    >>> data = vn.scenes(20, seed=0)
    >>> run = vn.scan(model, data, site="gate", top_n=2, out="run", progress=False)
    >>> run.summary()
    '20 samples scanned, 0 skipped'
    >>> strongest = run.top("blocks.2.mlp.hook_act").sample_ids[304].tolist()  # of neuron L2N304
    >>> [data[i].response.split(".")[0] for i in strongest]
    ['a large pink triangle', 'a large purple cross and a small pink cross']
    """
    check_model_and_prompt(model, prompt)
    top_n, n_visual = whole_number("top_n", top_n), whole_number("n_visual", n_visual)
    n_text, workers = whole_number("n_text", n_text), whole_number("workers", workers, least=0)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size)
    block_size = whole_number("block_size", block_size)
    of_kind("out", out, str | Path, "give the run's directory")
    out, rank, world = Path(out), *place()
    check_place(out)
    sites, places = places_of(model, site)
    folds, null_directions = whole_number("folds", folds, 4), whole_number("null_directions", null_directions, 0)
    console = Console(stderr=True, quiet=not progress, soft_wrap=True, markup=False)
    data = given = data if isinstance(data, ImageTextData) else open_data(data)
    check_prompt_asked(prompt, data, console.print)
    parameters = {
        "sites": sites, "hooks": places, "top_n": top_n, "n_visual": n_visual, "n_text": n_text,
        "batch_size": batch_size or begun_with(out), "block_size": block_size, "prompt": prompt,
    }  # fmt: skip
    with on_day(model, day_of(out, model)):  # a date in prompts is that of the run's first call
        data = _with_responses(model, data, out, prompt, batch_size, world, progress)
        asked = None if concepts is None else Asked.of(concepts, folds, null_directions, data)
        job = _begin(model, data, out, parameters, asked, compiled, workers, console)
        if job.run.complete:
            job.run.open_result()  # refuses what is not this run's
            drop_blocks(job.run)  # of a process that was killed while it did so, and of earlier versions
        else:
            _scan_share(job, rank, world, console, progress)
        if controls and job.run.complete:
            write_controls(model, data, job.run, progress)
    job.run.memory.update(model=model, data=given)
    console.print(_done(job.run) if job.run.complete else "Done here; other processes go on.")
    return job.run


def _begin(
    model: HookedVLM,
    data: ImageTextData,
    out: Path,
    parameters: dict[str, Any],
    asked: Asked | None,
    compiled: bool | None,
    workers: int,
    console: Console,
) -> Job:
    """The run directory, begun or found, and what its blocks share."""
    prompt, places = parameters["prompt"], parameters["hooks"]
    known = known_skips(data, prompt)
    loaded, first = _first_batch(model, data, prompt, known, asked)
    random = [] if asked is None else random_units(model, places, asked.null_directions)
    fast = hooks_of(places, fitted=True) | {hook for units in random for hook in units.hooks} <= model.fast_hooks
    with one_sample_at_least():
        columns = measure_columns(model, places, first, fast)
    parameters["batch_size"] = parameters["batch_size"] or max(suitable(model, columns, first), 1 + bool(compiled))
    check_memory(columns, parameters, len(data), model.device, console.print)
    kinds = first.kinds[:1].repeat(parameters["batch_size"], 1)
    fused = choose(compiled, columns, kinds, parameters["n_visual"], parameters["n_text"], console.print)
    more = {} if asked is None else asked.parameters
    info = describe_scan(model, data, {**parameters, **more, "compiled": fused is not None}, columns, first, fast)
    concepts = None
    if asked is not None:
        info["concepts"] = {**asked.record, "identity": asked.bank.identity()}
        if remark := asked.bank.remark(model):
            console.print(remark)
            info["concepts"]["remark"] = remark
        concepts = ConceptJob.begin(asked, random, model, columns, first, loaded.told, fast)
        concepts.check_memory(free_memory(model.device))
    run = start(out, info)
    concepts = None if concepts is None else concepts.of_run(run.path, run.identity)
    return Job(model, data, run, columns, known, prompt, fast, workers, fused, concepts, made_with=made_with(info))


def _scan_share(job: Job, rank: int, world: int, console: Console, progress: bool) -> None:
    """Scan this process's blocks, and merge all where they are the last."""
    run = job.run
    mine = [b for b in job.missing() if b % world == rank]
    tell = _cost_teller(console, job, mine)
    if not mine:
        tell(0.0)
    try:
        job.scan_blocks(mine, progress, tell)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted with {len(run.missing_blocks())} of {run.n_blocks} blocks to go. The same call goes on."
        )
        raise
    if not run.complete and not run.missing_blocks():
        finish(run, job.data, job.prompt)


def _done(run: Run) -> str:
    return f"{run.summary()}.{in_words(run)} Run directory: {run.path}"


def _with_responses(
    model: HookedVLM, data: ImageTextData, out: Path, prompt: str, batch_size: int | None, world: int, progress: bool
) -> ImageTextData:
    """The data with every response that the model can write; they go to `captions.jsonl` in the run directory."""
    if not any(one.response is None and one.readable for one in data.facts):
        return data
    if world > 1:
        raise ValueError(
            f"responses are missing, and {world} processes must not all write them: run `vlm-neurons describe` first, "
            "and scan its JSONL"
        )
    size, found = min(batch_size or MOST, begun_with(out, fits=True) or batch_size or MOST), list[ImageTextData]()

    def write() -> None:
        file = out / "captions.jsonl"
        found.append(describe(model, data, file, prompt=prompt, batch_size=size, progress=progress))

    while (error := out_of_memory(write)) is not None:  # those that are written stay
        size = fewer(error, min(size, len(data)), ", to write responses")
    return found[0]


def _first_batch(
    model: HookedVLM, data: ImageTextData, prompt: str, known: dict[int, Skip], asked: Asked | None
) -> tuple[Loaded, Batch]:
    """The first sample that can be scanned, one with an image if there is one.

    Raises:
        ValueError: there is none.
    """
    skipped: list[Skip] = []
    for with_images in (True, False):
        for i, one in enumerate(data.facts):
            if bool(one.digests) == with_images:
                loaded = load(model, data, [i], prompt, known, None if asked is None else asked.views)
                if loaded.batch is not None:
                    return loaded, loaded.batch
                skipped += loaded.skipped
    shown = "; ".join(f"{s.name}: {s.reason} ({s.detail})" for s in skipped[:5])
    raise ValueError(f"none of the {len(data)} samples can be scanned. {shown}")


def _cost_teller(console: Console, job: Job, mine: list[int]) -> Callable[[float], None]:
    """What prints the cost of the scan, given the seconds of one sample; refuses at once if the disk is too small."""
    run, n = job.run, sum(len(job.ids(block)) for block in mine)
    sums = 0 if job.concepts is None else job.concepts.disk
    n_missing = len(run.missing_blocks())
    cost = measure(run.path, job.columns, run.info, n_missing, sums)
    if mine:
        cost.check(run.path)

    def tell(seconds: float) -> None:
        console.print(
            f"{sum(c.d for c in job.columns):,} neurons at {len(run.info['parameters']['hooks'])} hooks, "
            f"{len(job.data):,} samples in {run.n_blocks} blocks; {len(mine)} blocks ({n:,} samples) to do here, at "
            f"about {seconds:.2g} s a sample {n * seconds / 60:.1f} min. About {cost.state / 2**20:.1f} MiB of memory "
            f"for the state of a block and as much for those before it, and {cost.disk / 2**20:.1f} MiB of disk until "
            f"all blocks are merged, {(cost.disk - cost.state * n_missing) / 2**20:.1f} MiB then "
            f"({cost.free / 2**20:,.0f} MiB are free)."
            + (
                f" Latents that fire come to it: up to {cost.latents / 2**20:,.1f} MiB for each state, and "
                f"{cost.latents * (n_missing + 1) / 2**20:,.1f} MiB of disk."
                if cost.latents
                else ""
            )
        )
        if job.concepts is not None:
            console.print(job.concepts.cost(n_missing, run.info["parameters"]["block_size"]))

    return tell
