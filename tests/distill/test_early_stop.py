"""The early stop: the teacher's forward pass ends behind its last tap."""

import pytest
from torch import nn

from kd2.distill import TapError

from ..helpers.chain import Net, capturing, hooks_on, image


def test_the_stop_skips_everything_behind_the_last_tap():
    model = Net()
    taps, before = capturing(model, "x=first"), model.finished
    with taps.capture(stop=True) as maps:
        model(image())
    assert (len(maps["x"]), model.finished) == (1, before)


def test_the_stop_waits_for_the_last_call_of_the_last_tap():
    model = Net()
    with capturing(model, "a=first", "b=head").capture(stop=True) as maps:
        model(image())
    assert {alias: len(found) for alias, found in maps.items()} == {"a": 1, "b": 2}


def test_the_stop_passes_a_module_that_catches_exceptions():
    class Retrying(Net):
        def forward(self, x):
            try:
                return super().forward(x)
            except Exception:
                raise AssertionError("the stop was taken for an error") from None

    model = Retrying()
    with capturing(model, "x=first").capture(stop=True) as maps:
        model(image())
    assert len(maps["x"]) == 1


def test_too_few_calls_are_an_error_with_the_stop_too():
    model = Net()
    taps = capturing(model, "x=head")
    model.levels = 1
    with pytest.raises(TapError, match="fired 1x, 2x in the probe"):
        with taps.capture(stop=True):
            model(image())


def test_the_stop_spares_the_map_what_comes_later():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    with capturing(model, "x=0").capture(stop=True) as maps:
        model(image())
    assert maps["x"][0].min() < 0


def test_no_hook_stays_after_the_stop():
    model = Net()
    with capturing(model, "x=first").capture(stop=True):
        model(image())
    assert hooks_on(model) == 0
