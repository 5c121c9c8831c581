"""Taps: where they capture, what they hand over, and that nothing stays behind."""

import copy
import pickle

import pytest
import torch
from torch import nn

from kd2.distill import FeatureSpec, Tap, TapError, Taps

from ..helpers.chain import SIZE, Net, capturing, hooks_on, image

# Places.


def test_unknown_module_lists_near_names_and_the_config_key():
    with pytest.raises(TapError, match=r"KD.STUDENT.TAPS: .* no module 'secnd' \(tap 'x'\); did you mean second"):
        capturing(Net(), "x=secnd")


def test_a_tap_cannot_stand_there_twice():
    with pytest.raises(TapError, match="x=first stands there twice"):
        capturing(Net(), "x=first", "y=first", "x=first")


def test_places_of_one_alias_follow_each_other_in_the_order_of_the_taps_not_of_the_forward_pass():
    net = Net()
    taps = capturing(net, "x=head", "x=first")
    with taps.capture() as maps, torch.no_grad():
        net(image())
    assert [spec.channels for spec in taps.specs["x"]] == [x.shape[1] for x in maps["x"]] == [2, 2, 4]
    assert maps.sources["x"][2].shape == maps["x"][2].shape
    assert taps.level_names("x") == ["0", "1", "2"]


def test_maps_are_called_by_the_keys_of_what_their_module_gives():
    class Pyramid(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"p3": x, "p4": x[:, :, ::2, ::2]}

    net = nn.Sequential(nn.Conv2d(3, 2, 1), Pyramid())
    assert capturing(net, "fpn=1").level_names("fpn") == ["p3", "p4"]
    assert capturing(net, "fpn=1:p4").level_names("fpn") == ["p4"]
    assert capturing(net, "fpn=1:p4", "fpn=0").level_names("fpn") == ["p4", "0"]


def test_the_empty_path_is_the_model():
    taps = capturing(Net(), "scores=")
    assert [spec.channels for spec in taps.specs["scores"]] == [2, 2]


class Sum(nn.Module):
    """What no module gives, a sum, goes into ``last``, which writes over its input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.last = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
        self.ran = 0
        self.last.register_forward_hook(self._count)

    def _count(self, *_):
        self.ran += 1

    def forward(self, x):
        return self.last(self.a(x) + self.b(x))


class Named(Sum):
    def forward(self, x):
        return self.last(input=self.a(x) + self.b(x))


def test_the_input_of_a_module_is_a_place_too_and_the_pass_can_end_there():
    model = Sum()
    model.last[0] = nn.ReLU()
    taps = capturing(model, "sum=input(last)")
    expected = model.a(image()) + model.b(image())
    before = model.ran
    with taps.capture(stop=True) as maps, torch.no_grad():
        model(image())
    assert torch.equal(maps["sum"][0], expected) and model.ran == before
    assert taps.specs["sum"] == [FeatureSpec(4, (16, 16), (1.0, 1.0))] and hooks_on(model) == 1


def test_an_input_that_its_module_writes_over_is_refused():
    model = Sum()
    with pytest.raises(TapError, match="the map of tap 'sum' at 'last' was changed in place"):
        with capturing(model, "sum=input(last)").capture(), torch.no_grad():
            model(image())


def test_an_input_given_by_name_is_no_place():
    with pytest.raises(TapError, match="module 'last' is given its input by name; tap an output"):
        capturing(Named(), "sum=input(last)")


# The probe.


def test_the_probe_learns_channels_sizes_and_strides():
    assert capturing(Net(), "x=head").specs["x"] == [
        FeatureSpec(2, (8, 8), (2.0, 2.0)),
        FeatureSpec(2, (4, 4), (4.0, 4.0)),
    ]


def test_a_vector_has_one_cell_and_no_stride_whatever_the_image():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    assert capturing(classifier, "logits=@vector", "fc=1@vector").specs["logits"] == [
        FeatureSpec(10, (1, 1), (1.0, 1.0))
    ]


def test_a_module_that_never_fires_is_no_place_for_a_tap():
    model = Net()
    model.unused = nn.Identity()
    with pytest.raises(TapError, match=r"KD.STUDENT.TAPS: \['x'\] never fired in a full forward pass"):
        capturing(model, "x=unused")


def test_capturing_before_the_probe_is_refused():
    model = Net()
    with pytest.raises(TapError, match="probe\\(\\) comes before capture\\(\\)"):
        with Taps(model, [Tap.parse("x=first")]).capture():
            model(image())


# Listening.


def test_a_network_can_be_stopped_at_its_own_output():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    with capturing(classifier, "logits=@vector").capture(stop=True) as maps:
        classifier(image())
    assert maps["logits"][0].flatten(1).equal(classifier(image()))


def test_repeated_calls_become_levels_in_call_order():
    model = Net()
    with capturing(model, "x=head").capture() as maps:
        scores = model(image())
    assert [torch.equal(a, b) for a, b in zip(maps["x"], scores, strict=True)] == [True, True]


def test_maps_carry_the_gradient():
    model = Net()
    with capturing(model, "x=first").capture() as maps:
        model(image())
    maps["x"][0].sum().backward()
    assert model.first.weight.grad.abs().sum() > 0


def test_outputs_of_tapped_modules_are_untouched_on_every_call():
    model = Net()
    plain = [model(image()) for _ in range(2)]
    with capturing(model, "a=first", "b=head").capture():
        tapped = model(image())
    assert all(torch.equal(a, b) for expected in plain for a, b in zip(expected, tapped, strict=True))


def test_no_hook_stays_after_success():
    model = Net()
    with capturing(model, "x=head").capture():
        model(image())
    assert hooks_on(model) == 0


def test_no_hook_stays_after_a_failing_forward():
    model = Net()
    taps = capturing(model, "x=head")
    with pytest.raises(RuntimeError, match="channels"):
        with taps.capture():
            model(torch.zeros(1, 5, *SIZE))
    assert hooks_on(model) == 0


def test_no_hook_stays_after_a_failing_probe():
    model = Net()
    with pytest.raises(TapError):
        capturing(model, "x=head:p3")
    assert hooks_on(model) == 0


def test_a_model_that_was_listened_to_copies_and_pickles():
    model = Net()
    with capturing(model, "x=head").capture():
        model(image())
    assert torch.equal(copy.deepcopy(model)(image())[0], pickle.loads(pickle.dumps(model))(image())[0])


# What would otherwise be silent.


@pytest.mark.parametrize("levels", [1, 4])
def test_another_number_of_calls_than_in_the_probe_is_an_error(levels):
    model = Net()
    taps = capturing(model, "x=head")
    model.levels = levels
    with pytest.raises(TapError, match=rf"tap 'x' at 'head' fired {levels}x, 2x in the probe"):
        with taps.capture():
            model(image())


def test_a_map_changed_in_place_behind_the_tap_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    with pytest.raises(TapError, match="the map of tap 'x' at '0' was changed in place by a later module"):
        with capturing(model, "x=0").capture():
            model(image())


def test_a_permuted_map_changed_in_place_is_an_error_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    with pytest.raises(TapError, match="was changed in place"):
        with capturing(model, "x=0@nhwc").capture():
            model(image())
