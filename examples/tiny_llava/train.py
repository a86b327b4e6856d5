"""Train the embedded LLaVA from nothing, on two CPU cores.

    python examples/tiny_llava/train.py --out tiny-llava-scenes

Stage 1 teaches the backbone to name what every patch shows, from patches alone; stage 2 teaches everything: to
describe, to answer, to read, with the names at the patches kept up. The reasons for each loss stand beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from batches import Batcher, TrainBatch
from build import make_model, make_processor, save
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration

MIDDLE = 2  # layers after which patches are read for the first time, and that text cannot look through to the picture


@dataclass
class Plan:
    """Sizes and rates of both stages; the defaults made the shipped model."""

    steps_1: int = 3200
    steps_2: int = 3000
    batch_1: int = 48
    batch_2: int = 32
    rate_1: float = 2.5e-3
    rate_2: float = 2.0e-3
    vision_rate_2: float = 1.5e-3
    warm_up: int = 60
    easy_until: float = 0.5  # share of stage 1 over which easy scenes fade out
    blocked: float = 0.7
    sparsity: float = 0.2
    floor: float = 0.18
    seed: int = 0
    log_every: int = 50


class Trainee:
    """The model with the one thing that transformers does not offer: an attention mask per layer."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self.model = model
        self.gates: list[Tensor] = []
        for layer in model.model.language_model.layers:
            layer.mlp.act_fn.register_forward_hook(lambda _m, args, _out: self.gates.append(args[0]))

    def hidden(self, batch: TrainBatch, blocked: bool) -> tuple[list[Tensor], Tensor]:
        """Residual stream after every layer, and the projected patches."""
        self.gates.clear()
        inner = self.model.model
        seen = inner.vision_tower(batch.pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        projected = inner.multi_modal_projector(seen)
        backbone = inner.language_model
        h = backbone.embed_tokens(batch.ids)
        h = h.masked_scatter(batch.image[..., None], projected.to(h.dtype))
        position = torch.arange(h.shape[1])[None]
        rotary = backbone.rotary_emb(h, position_ids=position)
        states = []
        for number, layer in enumerate(backbone.layers):
            mask = attention_mask(batch, blocked and number < MIDDLE)
            h = layer(h, attention_mask=mask, position_ids=position, position_embeddings=rotary)
            h = h[0] if isinstance(h, tuple) else h
            states.append(h)
        return states, projected


def attention_mask(batch: TrainBatch, blocked: bool) -> Bool[Tensor, "batch 1 query key"]:
    """Causal, without padding; `blocked`: what is not a picture does not look at pictures.

    Blocking makes the first layers' MLPs at the patches do the seeing: text cannot read the raw patches there.
    """
    n = batch.ids.shape[1]
    allowed = torch.ones(n, n, dtype=torch.bool).tril()[None] & ~batch.pad[:, None, :]
    if blocked:
        allowed = allowed & (batch.image[:, :, None] | ~batch.image[:, None, :])
    return (allowed | torch.eye(n, dtype=torch.bool))[:, None]  # a padded query sees itself, so that softmax is finite


def losses(trainee: Trainee, batch: TrainBatch, plan: Plan, blocked: bool) -> dict[str, Tensor]:
    """All terms, already weighted."""
    states, projected = trainee.hidden(batch, blocked)
    model = trainee.model

    def read(h: Tensor) -> Tensor:
        return model.lm_head(model.model.language_model.norm(h)).float()

    middle = patch_loss(read(states[MIDDLE - 1][batch.image]), batch)
    last = patch_loss(read(states[-1][batch.image]), batch)
    terms = {"patch_mid": 0.25 * middle, "patch": 0.5 * last}
    if bool((batch.weights > 0).any()):
        target = batch.weights[:, 1:] > 0
        nll = F.cross_entropy(read(states[-1][:, :-1][target]), batch.ids[:, 1:][target], reduction="none")
        weight = batch.weights[:, 1:][target]
        terms["language"] = (nll * weight).sum() / weight.sum()
    # Patches much longer than words would be read by attention directly, past every MLP.
    word_rms = model.get_input_embeddings().weight.detach().float().pow(2).mean().sqrt()
    rms = projected.float().pow(2).mean().sqrt()
    terms["length"] = 0.05 * F.relu(rms / word_rms - 1) ** 2
    terms["sparsity"] = plan.sparsity * sparsity(trainee.gates, batch, plan.floor)
    return terms


def patch_loss(logits: Float[Tensor, "patch d_vocab"], batch: TrainBatch) -> Float[Tensor, ""]:
    """Every patch says its colour, shape and size, or its background's two words, with equal probability."""
    log_p = F.log_softmax(logits, -1)
    nll = -log_p.gather(1, batch.patch_words.flatten(0, 1)).mean(1)
    weight = batch.patch_weights.flatten()
    return (nll * weight).sum() / weight.sum()


def sparsity(gates: list[Tensor], batch: TrainBatch, floor: float) -> Float[Tensor, ""]:
    """How much neurons fire everywhere: mean / rms of relu(gate), over patches and over words separately.

    Only what is above the floor counts: without one, most neurons die.
    """
    words = ~batch.image & ~batch.pad
    total = torch.zeros(())
    for gate in gates:
        for where in (batch.image, words):
            fired = F.relu(gate[where].float())
            share = fired.mean(0) / (fired.pow(2).mean(0) + 1e-6).sqrt()
            total = total + F.relu(share - floor).mean()
    return total / len(gates)


def optimizer(model: LlavaForConditionalGeneration, rate: float, vision_rate: float) -> torch.optim.AdamW:
    """AdamW with a rate of its own for the tower and the projector."""
    sees = [p for n, p in model.named_parameters() if "vision_tower" in n or "projector" in n]
    rest = [p for n, p in model.named_parameters() if "vision_tower" not in n and "projector" not in n]
    groups = [{"params": sees, "lr": vision_rate, "peak": vision_rate}, {"params": rest, "lr": rate, "peak": rate}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.05)


def set_rate(adam: torch.optim.AdamW, step: int, steps: int, warm_up: int) -> None:
    """Linear warm-up, then a cosine to a fiftieth."""
    done = max(step - warm_up, 0) / max(steps - warm_up, 1)
    factor = min((step + 1) / warm_up, 1.0) * (
        0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())
    )
    for group in adam.param_groups:
        group["lr"] = group["peak"] * factor


def share_gradients(model: LlavaForConditionalGeneration, world: int) -> None:
    """Average over processes in one message."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    if world > 1:
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= world
        for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(piece.view_as(p))
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)


def run_stage(trainee: Trainee, batcher: Batcher, plan: Plan, stage: int, rank: int, world: int, log: Path) -> None:
    """One stage, from its own warm-up to the end of its cosine."""
    steps, size = (plan.steps_1, plan.batch_1) if stage == 1 else (plan.steps_2, plan.batch_2)
    rates = (plan.rate_1, plan.rate_1) if stage == 1 else (plan.rate_2, plan.vision_rate_2)
    adam = optimizer(trainee.model, *rates)
    own, began = size // world, time.monotonic()
    blocked = torch.rand(steps, generator=torch.Generator().manual_seed(plan.seed)) < plan.blocked
    for step in range(steps):
        first = step * size + rank * own
        if stage == 1:
            batch = batcher.patches_only(first, own, easy_share=max(0.0, 1 - step / (plan.easy_until * steps)))
        else:
            batch = batcher.dialogues(first + 10_000_000, own)
        set_rate(adam, step, steps, plan.warm_up)
        terms = losses(trainee, batch, plan, blocked=stage == 2 and bool(blocked[step]))
        adam.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        share_gradients(trainee.model, world)
        adam.step()
        if rank == 0 and (step % plan.log_every == 0 or step == steps - 1):
            row = {"stage": stage, "step": step, "seconds": round(time.monotonic() - began, 1)}
            row |= {k: round(v.item(), 4) for k, v in terms.items()}
            print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
            with log.open("a") as f:
                f.write(json.dumps(row) + "\n")


def train(rank: int, world: int, meeting: str, plan: Plan, out: str) -> None:
    """What each process does; the first one writes the model."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.manual_seed(plan.seed)
    processor = make_processor()
    model = make_model(processor.tokenizer).train()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "training.jsonl"
    if rank == 0:
        log.unlink(missing_ok=True)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {plan}", flush=True)
    trainee, batcher = Trainee(model), Batcher(processor, plan.seed)
    for stage in (1, 2):
        run_stage(trainee, batcher, plan, stage, rank, world, log)
        if rank == 0:
            save(model, processor, folder)
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    """Read the command line and start the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="directory for the model")
    parser.add_argument("--processes", type=int, default=2)
    for name, value in vars(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = vars(parser.parse_args())
    out, world = args.pop("out"), args.pop("processes")
    # Tensors of a step are alike in size: keep their memory instead of giving it back to the system every time.
    os.environ.update(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="4294967296", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            train, (world, f"{folder}/meeting", Plan(**args), out), nprocs=world, start_method="forkserver"
        )


if __name__ == "__main__":
    main()
