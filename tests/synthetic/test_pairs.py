"""Pairs of pictures differ on the object, in nothing but its colour."""

import numpy as np

from vlm_neurons.synthetic.pairs import color_pairs
from vlm_neurons.synthetic.scene import alpha_of


def test_pairs_differ_where_the_object_is_and_only_there() -> None:
    pairs = color_pairs(8, seed=3, size="large", cell=4)
    for i, (world, (clean, corrupt)) in enumerate(zip(pairs.worlds, pairs.colors, strict=True)):
        a, b = (np.asarray(d[i].load_images()[0]).astype(int) for d in (pairs.clean, pairs.corrupt))
        inside = alpha_of(world.things[0]) > 0
        assert (a != b).any() and (a[~inside] == b[~inside]).all()
        assert clean == world.things[0].color != corrupt and world.things[0].cell == 4
        assert pairs.clean[i].response == pairs.corrupt[i].response == "a large"
