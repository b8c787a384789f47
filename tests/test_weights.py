"""Rules between torch tensors and our parameters: exact both ways, and nothing may be left over."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnihuman_jax.errors import InputError
from omnihuman_jax.weights import Rule, convert, plan, to_torch

RULES = [
    Rule("embed.weight", "table", alias="tied.weight"),
    Rule("conv.weight", "conv/kernel", axes=(2, 1, 0)),
    Rule("blocks.{}.q.weight", "blocks/q/kernel", axes=(1, 0)),
    Rule("blocks.{}.modulation", "blocks/modulation", squeeze=(0,)),
    Rule("stage.{}.gamma", "stage/{}/scale", squeeze=(1, 2)),
]


def released(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"embed.weight": (5, 3), "conv.weight": (2, 3, 4)}
    for i in range(12):  # two digits: layer 10 comes after 9, not after 1
        shapes |= {f"blocks.{i}.q.weight": (2, 3), f"blocks.{i}.modulation": (1, 6, 2)}
    shapes |= {f"stage.{i}.gamma": (4 + i, 1, 1) for i in range(3)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def shapes(values: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in values.items()}


def test_parameters_are_transposed_squeezed_and_stacked() -> None:
    torch = released()
    ours = convert(torch, RULES)
    assert shapes(ours) == {
        "table": (5, 3), "conv/kernel": (4, 3, 2), "blocks/q/kernel": (12, 3, 2),
        "blocks/modulation": (12, 6, 2), "stage/0/scale": (4,), "stage/1/scale": (5,),
        "stage/2/scale": (6,),
    }  # fmt: skip
    assert ours["conv/kernel"][3, 1, 0] == torch["conv.weight"][0, 1, 3]
    assert ours["blocks/q/kernel"][10, 2, 1] == torch["blocks.10.q.weight"][1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_there_and_back_is_the_same_bits(dtype: type) -> None:
    torch = released(dtype)
    back = to_torch(convert(torch, RULES), RULES)
    assert shapes(back) == shapes(torch)
    for name, value in torch.items():
        assert (back[name].dtype, back[name].tobytes()) == (value.dtype, value.tobytes())


@given(st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_undo_is_the_inverse_of_apply(axes: list[int], sizes: list[int]) -> None:
    rule = Rule("name", "path", axes=tuple(axes), squeeze=(1,))
    tensor = np.arange(np.prod(sizes)).reshape(sizes[0], 1, *sizes[1:])
    value = rule.apply(tensor)
    assert value.shape == rule.shape(tensor.shape)
    np.testing.assert_array_equal(rule.undo(value), tensor)
    first = rule.first_axis()
    assert first is not None
    assert value.shape[first] == sizes[0]


def test_every_tensor_has_a_place_and_every_parameter_a_tensor() -> None:
    torch = released()
    params = shapes(convert(torch, RULES)) | {"ours/alone": (3,)}
    places = plan(shapes(torch), RULES, params)
    assert list(places) == list(torch)  # in the order of the file, to read it from start to end
    assert (places["blocks.7.modulation"].path, places["blocks.7.modulation"].row) == (
        "blocks/modulation",
        7,
    )


def test_a_tied_tensor_may_have_either_name_or_both() -> None:
    torch = released()
    params = shapes(convert(torch, RULES))
    both = torch | {"tied.weight": torch["embed.weight"]}
    other = {name: value for name, value in both.items() if name != "embed.weight"}
    assert "tied.weight" in plan(shapes(other), RULES, params)
    assert plan(shapes(both), RULES, params).keys() == torch.keys()
    np.testing.assert_array_equal(convert(other, RULES)["table"], torch["embed.weight"])


def test_leftovers_on_both_sides_are_named_and_counted() -> None:
    torch = released()
    params = shapes(convert(torch, RULES))
    wrong = torch | {"lora.up": np.zeros(1), "lora.down": np.zeros(1)}
    del wrong["blocks.3.q.weight"], wrong["conv.weight"]
    message = (
        r"2 tensors have no place \(lora.down, lora.up\); "
        r"2 parameters get no tensor \(conv/kernel, blocks/q/kernel\[3\]\)"
    )
    with pytest.raises(InputError, match=message):
        plan(shapes(wrong), RULES, params)
    with pytest.raises(InputError, match=message):
        convert(wrong, RULES)


def test_a_layer_too_many_has_no_place() -> None:
    torch = released()
    params = shapes(convert(torch, RULES))
    extra = shapes(torch) | {"blocks.12.q.weight": (2, 3)}
    with pytest.raises(InputError, match=r"1 tensors have no place \(blocks.12.q.weight\)"):
        plan(extra, RULES, params)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv.weight", (2, 3, 5)),
        ("conv.weight", (2, 3)),
        ("blocks.1.q.weight", (3, 2)),
        ("blocks.1.modulation", (2, 6, 2)),
        ("blocks.1.modulation", (6, 2)),
    ],
)
def test_a_shape_that_does_not_fit_is_named(name: str, shape: tuple[int, ...]) -> None:
    torch = released()
    params = shapes(convert(torch, RULES))
    with pytest.raises(InputError, match=rf"Tensor {name} has shape .*, which does not become"):
        plan(shapes(torch) | {name: shape}, RULES, params)
