"""Top samples equal a reference that stores everything, however the samples come."""

from __future__ import annotations

import os

import brute_force as brute
import pytest
import seeds
import torch

from vlm_neurons._files import write_atomic
from vlm_neurons.scanning.chunks import CHUNK, MANY, Chunks, entering, look
from vlm_neurons.scanning.state import TopSamples, Waiting, order_keys
from vlm_neurons.scanning.summarise import extremes, largest, rows_by_image, rows_by_kind, summarise

INF = float("inf")


def random_sample(generator, d, dtype, grid):
    """Activations [pos, d] with heavy ties, and the kinds of its tokens, some samples short, some without images."""
    length = int(torch.randint(2, 12, (1,), generator=generator))
    kinds = torch.randint(1, 4, (length,), generator=generator)
    kinds[int(torch.randint(0, length, (1,), generator=generator))] = 3  # a sample without text is never scanned
    acts = torch.randint(-grid, grid + 1, (length, d), generator=generator).to(dtype) / 4
    return acts * (-1) ** torch.randint(0, 2, acts.shape, generator=generator), kinds  # zeros of both signs


def pad(samples, left):
    width = max(len(kinds) for _, kinds in samples)
    acts = torch.full((len(samples), width, samples[0][0].shape[1]), INF, dtype=samples[0][0].dtype)
    kinds = torch.zeros(len(samples), width, dtype=torch.long)
    for row, (a, k) in enumerate(samples):
        place = slice(width - len(k), width) if left else slice(0, len(k))
        acts[row, place], kinds[row, place] = a, k
    return acts, kinds


def feed(state, samples, ids, pole, lazy, left):
    acts, kinds = pad([samples[i] for i in ids], left)
    acts, rows, ids = acts.flatten(0, 1), rows_by_kind(kinds), torch.tensor(ids)
    n_visual, n_text = state.visual.shape[2], state.text.shape[2]
    chunks, found = look(acts, rows, pole)
    for name in ("visual", "text", "other"):
        assert torch.equal(getattr(found, name), getattr(extremes(acts, rows, pole), name)), name
    assert not found.broken().any()  # padding is inf here: it must not be read
    if lazy:
        summary = entering(chunks, state.enters(found.score, ids), n_visual, n_text)
    else:
        summary = summarise(acts, rows, n_visual, n_text, pole)
    state.update(summary, ids, found.peak_all)


def assert_equals_brute_force(state, samples, pole):
    sign = 1.0 if pole == "+" else -1.0
    top_n = state.sample_ids.shape[1]
    for neuron in range(state.sample_ids.shape[0]):
        recordings = [
            brute.Recording(i, (sign * a[:, neuron].double()).tolist(), k.tolist()) for i, (a, k) in enumerate(samples)
        ]
        best = brute.top(recordings, top_n)
        spare = top_n - len(best)
        assert state.sample_ids[neuron].tolist() == [r.id for r in best] + [-1] * spare
        for name, kind in (("visual", brute.VISUAL), ("text", brute.TEXT)):
            values = getattr(state, name)[neuron]
            n = values.shape[1]
            assert values.tolist() == [brute.kept(r, kind, n) for r in best] + [[-INF] * n] * spare
        assert state.peak[neuron].item() == brute.peak(recordings, brute.VISUAL, brute.TEXT)
        assert state.peak_all[neuron].item() == brute.peak(recordings, brute.VISUAL, brute.TEXT, brute.TEMPLATE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("top_n", [1, 5, 50])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("pole", ["+", "-"])
def test_exact_with_ties_in_any_batches_order_and_shards(dtype, top_n, lazy, pole):
    generator = torch.Generator().manual_seed(seeds.number())
    samples = [random_sample(generator, 7, dtype, grid=3) for _ in range(40)]
    states = []
    for size, left in ((1, False), (7, True), (40, False)):
        order = torch.randperm(40, generator=generator).tolist()
        shards = [TopSamples.empty(7, top_n, 4, 2, dtype) for _ in range(3)]
        for number, start in enumerate(range(0, 40, size)):
            feed(shards[number % 3], samples, order[start : start + size], pole, lazy, left)
        merged = shards[2]
        merged.merge(shards[0])
        merged.merge(shards[1])
        states.append(merged)
    assert_equals_brute_force(states[0], samples, pole)
    for state in states[1:]:
        for name, tensor in states[0].tensors().items():
            assert torch.equal(getattr(state, name), tensor), name
            assert not (tensor.signbit() & (tensor == 0)).any(), f"a zero with a sign in {name}"


def test_continuous_values_far_apart_in_size_are_exact_too():
    generator = torch.Generator().manual_seed(seeds.number())
    samples = []
    for _ in range(25):
        acts, kinds = random_sample(generator, 6, torch.float32, 3)
        samples.append((torch.randn(acts.shape, generator=generator) * 10.0 ** torch.randint(-30, 30, (1,)), kinds))
    state = TopSamples.empty(6, 4, 3, 3, torch.float32)
    for i in range(25):
        feed(state, samples, [i], "+", True, False)
    assert_equals_brute_force(state, samples, "+")


def test_order_keys_follow_score_then_lower_id():
    scores = torch.tensor([0.0, -0.0, -1.5, 3.0, 3.0, -INF, 1e-40, INF])
    ids = torch.tensor([9, 2, 4, 2**31 - 1, 0, -1, 5, 6])
    order = order_keys(scores, ids).argsort(descending=True).tolist()
    expected = sorted(range(8), key=lambda i: (-float(scores[i]), int(ids[i])))
    assert order == expected


def test_samples_without_images_are_absent_from_image_tensors():
    acts = torch.arange(24.0).reshape(3 * 4, 2)  # three images of four patches
    rows = rows_by_image(torch.tensor([0] * 4 + [2] * 8), n_rows=4)
    state = TopSamples.empty(2, 3, 2, 1, torch.float32)
    state.update(summarise(acts, rows, 2, 1), torch.tensor([10, 11, 12, 13]), extremes(acts, rows).peak_all)
    assert state.sample_ids.tolist() == [[12, 10, -1]] * 2
    assert state.visual[0].tolist() == [[22.0, 20.0], [6.0, 4.0], [-INF, -INF]]
    assert state.peak_all.tolist() == [22.0, 23.0]


@pytest.mark.parametrize("value", [float("nan"), INF])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_non_finite_values_are_found_at_every_kind_of_token(value, kind):
    acts = torch.zeros(6, 3)
    kinds = torch.tensor([[1, 2, 3], [1, 2, 3]])
    acts[3 + kind - 1, 1] = value
    assert extremes(acts, rows_by_kind(kinds)).broken().tolist() == [False, True]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 900), (torch.float16, 900), (torch.float32, 1500)])
def test_state_of_a_neuron_is_small(dtype, limit):
    assert TopSamples.empty(1, 50, 4, 2, dtype).nbytes <= limit


def test_double_precision_is_refused():
    with pytest.raises(ValueError, match="float64"):
        TopSamples.empty(1, 50, 4, 2, torch.float64)


def test_states_of_other_parameters_do_not_merge():
    with pytest.raises(ValueError, match="different parameters"):
        TopSamples.empty(2, 5, 4, 2, torch.float32).merge(TopSamples.empty(2, 6, 4, 2, torch.float32))


def test_files_are_as_private_as_the_user_wants_them(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "own.txt", lambda path: path.write_text("x"))
        os.umask(0o022)
        write_atomic(tmp_path / "all.txt", lambda path: path.write_text("x"))
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("own.txt", "all.txt")]
    assert modes == [0o600, 0o644] and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pole", ["+", "-"])
def test_the_largest_values_are_found_by_chunks_as_by_sorting(dtype, pole):
    generator = torch.Generator().manual_seed(seeds.number())
    for n_tokens in (0, 1, MANY - 1, MANY, MANY + 1, 9 * CHUNK - 1, 150):
        acts = torch.randn(n_tokens, 12, generator=generator)
        acts[:, 1:4] = (acts[:, 1:4] * 1.5).round()  # ties, zeros of both signs
        acts[:, 4] = acts[:, 4].clamp(max=0) * -0.0
        acts[torch.rand(n_tokens, 12, generator=generator) < 0.2] = -INF if pole == "+" else INF  # not defined there
        acts[:, 5] = -INF if pole == "+" else INF
        acts[8:24, 6] = -INF if pole == "+" else INF  # whole chunks
        acts = acts.to(dtype)
        chunks, ordered = Chunks.of(acts, [slice(0, n_tokens)], pole), acts.float() * (1 if pole == "+" else -1)
        assert torch.equal(chunks.largest, largest(acts, slice(0, n_tokens), 1, pole)[:, 0])
        for wanted in (torch.arange(12), torch.tensor([1, 4, 5, 7])):
            for n in (1, 2, 3, 4, 7, 8, 9):
                expected = torch.full((len(wanted), n), -INF)
                best = ordered[:, wanted].sort(0, descending=True).values[:n].T
                expected[:, : best.shape[1]] = best
                found = chunks.values(wanted, n)
                assert (
                    found.dtype == dtype
                    and torch.equal(found.float(), expected)
                    and not (found.signbit() & (found == 0)).any()
                )


@pytest.mark.parametrize("pole", ["+", "-"])
def test_samples_of_any_lengths_side_by_side_give_what_each_gives_alone(pole, monkeypatch):
    generator = torch.Generator().manual_seed(seeds.number())
    kinds = torch.zeros(7, 200, dtype=torch.long)  # text is 3, what is looked at is 2
    for row, (n_visual, n_text) in enumerate([(70, 1), (70, 150), (64, 0), (0, 9), (100, 64), (3, 12), (70, 5)]):
        kinds[row, : n_visual + n_text] = torch.tensor([2] * n_visual + [3] * n_text)[:200]
    kinds[4, :164] = kinds[4, torch.randperm(164, generator=generator)]  # not neighbours
    acts = torch.randn(7, 200, 5, generator=generator)
    acts[..., 1] = acts[..., 1].round()
    acts[kinds == 0] = INF if pole == "+" else -INF  # padding is never read
    acts, rows = acts.flatten(0, 1), rows_by_kind(kinds)
    every, some = torch.ones(7, 5, dtype=torch.bool), torch.rand(7, 5, generator=generator) < 0.5
    expected = summarise(acts, rows, 4, 2, pole)
    for size, alike in ((1, 9), (2, 9), (3, 9), (7, 9), (7, 1.25), (7, 1)):
        monkeypatch.setattr("vlm_neurons.scanning.chunks.BESIDE", size * 150 * 5 * 4)
        monkeypatch.setattr("vlm_neurons.scanning.chunks.ALIKE", alike)
        groups, found = look(acts, rows, pole)
        assert [one.rows.start for one in groups] == [0, *(one.rows.stop for one in groups[:-1])]
        assert groups[-1].rows.stop == 7 and (alike < 9 or len(groups) <= 7 - size + 1)
        for name in ("visual", "text", "other"):
            assert torch.equal(getattr(found, name), getattr(extremes(acts, rows, pole), name))
        for enters in (every, some):
            summary = entering(groups, enters, 4, 2)
            for mine, full in ((summary.visual, expected.visual), (summary.text, expected.text)):
                wanted = full[summary.columns].where(enters.T[summary.columns][..., None], -INF)
                assert torch.equal(mine, wanted), size


def test_a_long_sample_among_short_ones_is_not_copied_for_each():
    kinds = torch.zeros(64, 4000, dtype=torch.long)
    kinds[0], kinds[1:, 0] = 2, 2
    groups, _ = look(torch.zeros(64 * 4000, 2), rows_by_kind(kinds), "+")
    assert [one.rows for one in groups] == [slice(0, 1), slice(1, 64)]
    assert sum(one.visual.tokens.numel() for one in groups) == 2 * (4000 + 63)


@pytest.mark.parametrize("lazy", [False, True])
def test_batches_that_wait_change_no_result(lazy):
    generator = torch.Generator().manual_seed(seeds.number())
    samples = [random_sample(generator, 7, torch.float32, grid=3) for _ in range(41)]
    at_once, later, waiting = *(TopSamples.empty(7, 5, 4, 2, torch.float32) for _ in range(2)), Waiting()
    for i, (acts, kinds) in enumerate(samples):
        feed(at_once, samples, [i], "+", lazy, left=False)
        chunks, found = look(acts, rows_by_kind(kinds[None]), "+")
        ids, rows = torch.tensor([i]), rows_by_kind(kinds[None])
        summary = entering(chunks, later.enters(found.score, ids), 4, 2) if lazy else summarise(acts, rows, 4, 2)
        waiting.add(later, summary, ids, found.peak_all)
    assert 0 < len(waiting.batches) < 41
    waiting.into(later)
    for name, tensor in at_once.tensors().items():
        assert torch.equal(later.tensors()[name], tensor), name
