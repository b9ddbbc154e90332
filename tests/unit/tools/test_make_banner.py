"""Icon and banner: the shipped ones are those that the tool draws, in the registry's sizes."""

from __future__ import annotations

import numpy
from PIL import Image
from posttrain.tools import make_banner, registry_rules


def test_the_shipped_ones_are_what_the_tool_draws(tmp_path):
    make_banner.write(tmp_path)
    for name, fits in (("icon.png", registry_rules.icon_fits), ("banner.png", registry_rules.banner_fits)):
        with Image.open(make_banner.PICTURES / name) as shipped, Image.open(tmp_path / name) as drawn:
            apart = abs(numpy.asarray(shipped.convert("RGB"), float) - numpy.asarray(drawn.convert("RGB"), float))
        assert fits(make_banner.PICTURES / name) and apart.mean() < 2


def test_the_numbers_are_the_proofs():
    run = make_banner.run()
    points = make_banner.curve(run["rewards"], (100, 10))
    assert len(points) == run["iterations"] and points[0][0] == 0 and points[-1][0] == 100
    assert min(y for _, y in points) == 0 and max(y for _, y in points) == 10 and points[0][1] > points[-1][1]
