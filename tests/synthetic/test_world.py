"""The procedural world tells the truth about itself."""

import numpy as np
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons.synthetic import language
from vlm_neurons.synthetic.scene import COLORS, SHAPES, SIZES, Scene, _inside, draw_scene, held_out_keys, render

SEED = seeds.number(100_000)


def test_a_stream_is_the_same_however_many_scenes_are_drawn():
    few, many = vn.scenes(3, SEED), vn.scenes(30, SEED)
    for i in range(3):
        assert few.worlds[i] == many.worlds[i]
        assert few[i].response == many[i].response
        assert few[i].images[0].tobytes() == many[i].images[0].tobytes()
    assert vn.scenes(30, SEED).fingerprint() == many.fingerprint()
    assert vn.scenes(30, SEED + 1).fingerprint() != many.fingerprint()


def test_held_out_tuples_are_never_in_seen_scenes_and_always_in_held_out_ones():
    held = held_out_keys()
    assert len(held) == 93
    for shape in SHAPES:
        for color in COLORS:
            for size in SIZES:
                assert sum((shape, color, size, cell) in held for cell in range(9)) <= 2
    assert not any(t.key in held for w in vn.scenes(400, SEED, split="seen").worlds for t in w.things)
    assert all(t.key in held for w in vn.scenes(400, SEED, split="held_out").worlds for t in w.things)


def test_coverage_equals_a_fine_brute_force_count():
    data = vn.scenes(12, SEED)
    for i, world in enumerate(data.worlds):
        for thing, covered in zip(world.things, data.things(i), strict=True):
            fine = (np.arange(64 * 16) + 0.5) / 16
            inside = _inside(
                thing.shape, (fine - thing.x)[None] / thing.radius, (fine - thing.y)[:, None] / thing.radius
            )
            brute = inside.reshape(8, 128, 8, 128).mean((1, 3))
            assert np.abs(brute - covered).max() < 0.06  # up to four edges, each right to an eighth of a pixel


def test_pixels_change_exactly_in_the_patches_that_a_thing_covers():
    for i in range(20):
        world = draw_scene(SEED, i, objects=1)
        bare = render(Scene((), world.texture, world.shade, world.brightness, world.tint, world.phase))
        changed = (render(world) != bare).any(-1).reshape(8, 8, 8, 8).any((1, 3))
        covered = vn.scenes(i + 1, SEED, objects=1).things(i)[0]
        assert not changed[covered == 0].any()
        assert changed[covered > 0.02].all()


def test_concept_maps_are_the_coverage_of_the_things_that_have_the_property():
    data = vn.scenes(50, SEED)
    red, ring, anything = data.concept("color", "red"), data.concept("shape", "ring"), data.concept("object")
    for i, world in enumerate(data.worlds):
        covered = data.things(i)
        assert np.allclose(anything[i], covered.sum(0))
        assert np.allclose(
            red[i], sum((c for t, c in zip(world.things, covered, strict=True) if t.color == "red"), np.zeros((8, 8)))
        )
        assert (ring[i] > 0).any() == any(t.shape == "ring" for t in world.things)


def test_descriptions_say_exactly_what_is_there():
    for world in vn.scenes(500, SEED).worlds:
        assert language.read_description(language.description(world)) == language.facts(world)


def test_a_wrong_word_in_a_description_is_noticed():
    world = draw_scene(SEED, 0, objects=1)
    text = language.description(world)
    color = world.things[0].color
    other = next(c for c in COLORS if c != color)
    assert language.read_description(text.replace(color, other)) != language.facts(world)
    assert language.read_description("nothing of the kind") == ([], {})


@pytest.mark.parametrize("kind", language.QUESTION_KINDS)
def test_every_answer_is_true(kind):
    rng = np.random.default_rng(SEED)
    asked = 0
    for i in range(200):
        world = draw_scene(SEED, i)
        for question, answer in language.questions(world, rng, (kind,)).turns:
            asked += 1
            assert _answers(world, kind, question) == {answer.rstrip(".")}
    assert asked > 100


def _answers(world: Scene, kind: str, question: str) -> set[str]:
    """All answers that somebody who looks at the scene could give."""
    said = set(question.rstrip("?").split())
    match kind:
        case "count":
            return {{1: "one", 2: "two"}[len(world.things)]}
        case "exists":
            return {"yes" if any({t.color, t.shape} <= said for t in world.things) else "no"}
        case "color":
            return {t.color for t in world.things if t.shape in said}
        case "shape":
            return {t.shape for t in world.things if t.color in said}
        case "size":
            return {t.size for t in world.things if {t.color, t.shape} <= said}
        case _:
            return {t.place for t in world.things if {t.color, t.shape} <= said}


def test_words_are_where_they_are_said_to_be():
    data = vn.scenes(20, SEED)
    for sample in data:
        words = data.words(sample.id)
        assert all(sample.response[w.start : w.end] == w.text for w in words)
        assert [w.text for w in words if w.kind == "color"] == [
            w for w in sample.response.replace(".", "").split() if w in COLORS
        ]


def test_text_only_lines_have_no_picture_and_questions_have_one():
    assert all(s.images == () and s.response for s in vn.scenes(20, SEED, task="text"))
    questions = vn.scenes(60, SEED, task="question")
    assert all(len(s.images) == 1 for s in questions)
    assert len(set(questions.asked)) == len(language.QUESTION_KINDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n": 0}, "n=0"),
        ({"seed": 7_000_000}, "6,999,999"),
        ({"split": "train"}, "held_out"),
        ({"objects": 3}, "objects=3"),
        ({"task": "sing"}, "describe"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=named):
        vn.scenes(**{"n": 2, **arguments})


def test_an_unknown_concept_is_refused_with_the_list():
    with pytest.raises(ValueError, match="circle"):
        vn.scenes(2).concept("color", "beige")
