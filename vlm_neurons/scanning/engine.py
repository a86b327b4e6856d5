"""The scan: one forward pass over the data, the top samples of every neuron, in blocks that survive an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from tqdm import tqdm

from vlm_neurons._checks import whole_number
from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData, describe
from vlm_neurons.models import on_day
from vlm_neurons.models.reading import hooks_of
from vlm_neurons.scanning.blocks import ColumnInfo, Skip, States, check_place, claimed, open_block, write_block
from vlm_neurons.scanning.fused import Fused, choose
from vlm_neurons.scanning.identity import day_of, describe_scan, made_with
from vlm_neurons.scanning.loading import Loaded, ahead, chunks_of, known_skips, load
from vlm_neurons.scanning.planning import (
    SHARE,
    TIMED,
    check_memory,
    check_model_and_prompt,
    check_prompt_asked,
    kept_samples,
    measure,
    place,
    places_of,
    seconds_per_sample,
)
from vlm_neurons.scanning.recorder import Recorder, measure_columns
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.writing import finish, start
from vlm_neurons.synthetic import open_data
from vlm_neurons.tokens import TokenKind

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
    batch_size: int = 8,
    block_size: int = 1000,
    *,
    out: str | Path,
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

    Where all hooks that are read are of the four sites, the forward pass is transformers' own with fused attention
    (`HookedVLM.fast_hooks`), else the bridge's; `scan.json` says which. They differ in last digits. In the same pass
    the sums for `vn.modality_test` are gathered.

    Args:
        model: what to scan.
        data: samples, or what `synthetic.open_data` takes.
        site: `"gate"` (the neurons of Xu, Lan, Lu 2025), `"post"`, `"projector"`, `"vision"`, a hook name such as
            `"blocks.3.hook_mlp_out"`, a site of your own (see `vlm_neurons.sites`), or a list of those. Site `post` and
            hooks that are no site give both poles.
        top_n: samples per neuron (the paper: 50); all, where there are fewer.
        n_visual: values per sample at visual tokens; a later `classify` can ask for at most as many.
        n_text: the same at text tokens.
        batch_size: samples per forward pass.
        block_size: samples per block, the unit of resuming.
        out: run directory.
        prompt: question for the samples that have none of their own.
        workers: processes that decode and preprocess images (a DataLoader's); 0 does it in one thread beside the
            model. A fast GPU needs several: a photograph takes 10-20 ms of a core, its forward pass can take less.
        compiled: look at activations with code made by torch.compile; None does so on CUDA where it works. The same
            values are kept; sums of the modality test differ in last digits.
        progress: say on stderr what it will cost, how far it is, and what was skipped.

    Returns:
        The run; `run.complete` is False only where other processes have still blocks to do.

    Raises:
        ValueError: bad arguments or data, or `out` is no directory of its own or holds another run.
        FloatingPointError: an activation is not finite; the message names sample and site.
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
    batch_size, block_size = whole_number("batch_size", batch_size), whole_number("block_size", block_size)
    out, rank, world = Path(out), *place()
    check_place(out)
    sites, places = places_of(model, site)
    console = Console(stderr=True, quiet=not progress, soft_wrap=True, markup=False)
    data = data if isinstance(data, ImageTextData) else open_data(data)
    check_prompt_asked(prompt, data, console.print)
    parameters = {
        "sites": sites, "hooks": places, "top_n": top_n, "n_visual": n_visual, "n_text": n_text,
        "batch_size": batch_size, "block_size": block_size, "prompt": prompt,
    }  # fmt: skip
    with on_day(model, day_of(out, model)):  # a date in prompts is that of the run's first call
        data = _with_responses(model, data, out, prompt, batch_size, world, progress)
        job, first = _begin(model, data, out, parameters, compiled, workers, console)
        if job.run.complete:
            job.run.open_result()  # refuses what is not this run's
        else:
            _scan_share(job, first, rank, world, console, progress)
    console.print(_done(job.run) if job.run.complete else "Done here; other processes go on.")
    return job.run


def _begin(
    model: HookedVLM,
    data: ImageTextData,
    out: Path,
    parameters: dict[str, Any],
    compiled: bool | None,
    workers: int,
    console: Console,
) -> tuple[_Job, Batch]:
    """The run directory, begun or found, what its blocks share, and the first batch."""
    prompt, places = parameters["prompt"], parameters["hooks"]
    known = known_skips(data, prompt)
    first = _first_batch(model, data, prompt, known)
    fast = hooks_of(places) <= model.fast_hooks
    columns = measure_columns(model, places, first, fast)
    check_memory(columns, parameters, len(data), model.device, console.print)
    kinds = first.kinds[:1].repeat(parameters["batch_size"], 1)
    fused = choose(compiled, columns, kinds, parameters["n_visual"], parameters["n_text"], console.print)
    info = describe_scan(model, data, {**parameters, "compiled": fused is not None}, columns, first, fast)
    run = start(out, info)
    return _Job(model, data, run, columns, known, prompt, fast, workers, fused, made_with=made_with(info)), first


def _scan_share(job: _Job, first: Batch, rank: int, world: int, console: Console, progress: bool) -> None:
    """Scan this process's blocks, and merge all where they are the last."""
    run = job.run
    mine = [b for b in job.missing() if b % world == rank]
    _say_cost(console, job, mine, first)
    try:
        job.scan_blocks(mine, progress)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted with {len(run.missing_blocks())} of {run.n_blocks} blocks to go. The same call goes on."
        )
        raise
    if not run.complete and not run.missing_blocks():
        finish(run, job.data, job.prompt)


def _done(run: Run) -> str:
    return f"{run.summary()}. Run directory: {run.path}"


def _with_responses(
    model: HookedVLM, data: ImageTextData, out: Path, prompt: str, batch_size: int, world: int, progress: bool
) -> ImageTextData:
    """The data with every response that the model can write; they go to `captions.jsonl` in the run directory."""
    if not any(one.response is None and one.readable for one in data.facts):
        return data
    if world > 1:
        raise ValueError(
            f"responses are missing, and {world} processes must not all write them: run `vlm-neurons describe` first, "
            "and scan its JSONL"
        )
    return describe(model, data, out / "captions.jsonl", prompt=prompt, batch_size=batch_size, progress=progress)


def _first_batch(model: HookedVLM, data: ImageTextData, prompt: str, known: dict[int, Skip]) -> Batch:
    """The first sample that can be scanned, one with an image if there is one.

    Raises:
        ValueError: there is none.
    """
    skipped: list[Skip] = []
    for with_images in (True, False):
        for i, one in enumerate(data.facts):
            if bool(one.digests) == with_images:
                loaded = load(model, data, [i], prompt, known)
                if loaded.batch is not None:
                    return loaded.batch
                skipped += loaded.skipped
    shown = "; ".join(f"{s.name}: {s.reason} ({s.detail})" for s in skipped[:5])
    raise ValueError(f"none of the {len(data)} samples can be scanned. {shown}")


def _say_cost(console: Console, job: _Job, mine: list[int], first: Batch) -> None:
    """Time a few batches, print what the scan will cost, and refuse if the disk is too small for it."""
    run, n = job.run, sum(len(job.ids(block)) for block in mine)
    batches = [first]
    chunks = chunks_of(0, n, run.info["parameters"]["batch_size"])
    if mine and len(chunks) >= SHARE:
        start = job.ids(mine[0]).start
        few = [range(start + c.start, start + c.stop) for c in chunks[: min(TIMED, len(chunks) // SHARE)]]
        batches = [b for c in few if (b := job.load([i for i in c if i < len(job.data)]).batch) is not None] or batches
    seconds = seconds_per_sample(job.model, job.recorder(), batches) if mine else 0.0
    cost = measure(run.path, job.columns, run.info, seconds, len(run.missing_blocks()))
    console.print(
        f"{sum(c.d for c in job.columns):,} neurons at {len(run.info['parameters']['hooks'])} hooks, "
        f"{len(job.data):,} samples in {run.n_blocks} blocks; {len(mine)} blocks ({n:,} samples) to do here, at about "
        f"{seconds:.2g} s a sample {n * seconds / 60:.1f} min. About {cost.state / 2**20:.1f} MiB of memory for the "
        f"state of a block and as much for those before it, and {cost.disk / 2**20:.1f} MiB of disk for the blocks and "
        f"the result ({cost.free / 2**20:,.0f} MiB are free)."
    )
    if mine:
        cost.check(run.path)


@dataclass(frozen=True)
class _Job:
    """What all blocks of a scan share."""

    model: HookedVLM
    data: ImageTextData
    run: Run
    columns: list[ColumnInfo]
    known: dict[int, Skip]
    prompt: str
    fast: bool
    workers: int = 0
    fused: Fused | None = None
    made_with: str = field(kw_only=True)
    before: States = field(default_factory=dict)

    def missing(self) -> list[int]:
        """Blocks to do; those that are there are checked to be of this run."""
        missing = self.run.missing_blocks()
        for block in sorted({*range(self.run.n_blocks)} - {*missing}):
            with open_block(self.run.block_path(block), self.run.identity, block):
                pass
        return missing

    def ids(self, block: int) -> range:
        size = self.run.info["parameters"]["block_size"]
        return range(block * size, min((block + 1) * size, len(self.data)))

    def scan_blocks(self, blocks: Sequence[int], progress: bool) -> None:
        n = sum(len(self.ids(block)) for block in blocks)
        with tqdm(total=n, unit="sample", desc="scan", disable=not progress) as bar:
            for block in blocks:
                with claimed(self.run.block_path(block)) as to_do:
                    if to_do:
                        self.scan_block(block, bar)

    def recorder(self) -> Recorder:
        """An empty one."""
        kept = self.run.info["parameters"]
        return Recorder(
            self.model, self.columns, kept_samples(self.run.info), kept["n_visual"], kept["n_text"], self.fast,
            self.before, self.fused,
        )  # fmt: skip

    def load(self, chunk: Sequence[int]) -> Loaded:
        """The samples of a chunk as a batch."""
        return load(self.model, self.data, chunk, self.prompt, self.known)

    def remember(self, states: States) -> None:
        """Merge the states of a finished block into what later ones need not better."""
        for column, state in states.items():
            if state.peak_all.device.type == "cpu":
                self.before.setdefault(column, state.empty_like()).merge(state)

    def scan_block(self, block: int, bar: Any) -> None:
        ids, recorder = self.ids(block), self.recorder()
        counts: dict[str, list[int]] = {"id": [], "n_visual_tokens": [], "n_text_tokens": []}
        skipped: list[Skip] = []

        chunks = chunks_of(ids.start, ids.stop, self.run.info["parameters"]["batch_size"])
        for loaded in ahead(self.load, chunks, self.workers):
            skipped += loaded.skipped
            if loaded.batch is not None:
                recorder.see(loaded.batch, loaded.ids, [self.data.facts[i].name for i in loaded.ids])
                counts["id"] += loaded.ids
                counts["n_visual_tokens"] += loaded.batch.mask(TokenKind.VISUAL).sum(1).tolist()
                counts["n_text_tokens"] += loaded.batch.mask(TokenKind.TEXT).sum(1).tolist()
            bar.update(len(loaded.ids) + len(loaded.skipped))
        assert len(counts["id"]) + len(skipped) == sum(map(len, chunks)), "every sample is scanned or skipped, once"
        samples = {name: torch.tensor(values, dtype=torch.int32) for name, values in counts.items()}
        path = self.run.block_path(block)
        write_block(path, recorder.states, recorder.moments, samples, skipped, block, self.run.identity, self.made_with)
        self.remember(recorder.states)
