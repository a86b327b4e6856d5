"""An edited scene differs where the object was or is, and nowhere else."""

import numpy as np
import pytest
import seeds

from vlm_neurons.synthetic.editing import OF_THINGS, altered, fits, showing
from vlm_neurons.synthetic.scene import SIZES, alpha_of, draw_scene, render


@pytest.mark.parametrize("kind", OF_THINGS)
def test_changing_one_attribute_of_an_object_changes_no_pixel_elsewhere(kind: str) -> None:
    rng, seed = seeds.rng(), seeds.number(1000)
    for index in range(8):
        world = draw_scene(seed, index)
        thing, rest = world.things[0], world.things[1:]
        new = altered(thing, kind, str(rng.choice([v for v in OF_THINGS[kind] if v != getattr(thing, kind)])))
        assert [getattr(new, k) != getattr(thing, k) for k in OF_THINGS] == [k == kind for k in OF_THINGS]
        if not fits(new, rest):
            continue
        before, after = render(world), render(showing(world, (*rest, new)))
        changed = (before != after).any(-1)
        assert changed.any() and not changed[(alpha_of(thing) == 0) & (alpha_of(new) == 0)].any()


def test_an_object_that_is_taken_away_leaves_its_background() -> None:
    world = draw_scene(seeds.number(1000), 0, objects=1)
    empty = showing(world, ())
    covered = alpha_of(world.things[0]) > 0
    assert (render(empty)[~covered] == render(world)[~covered]).all()
    assert (render(empty)[covered] != render(world)[covered]).any()


def test_sizes_and_places_stay_those_that_can_be_drawn() -> None:
    for index in range(20):
        thing = draw_scene(seeds.number(1000), index).things[0]
        for size, (low, high) in SIZES.items():
            assert low <= altered(thing, "size", size).radius <= high
        for place in OF_THINGS["place"]:
            moved = altered(thing, "place", place)
            assert moved.place == place and np.clip(moved.x, moved.radius, 64 - moved.radius) == moved.x
        back = altered(altered(thing, "color", "red"), "color", thing.color)
        assert back == thing


def test_an_unknown_value_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="color 'mauve': choose from red"):
        altered(draw_scene(0, 0).things[0], "color", "mauve")
