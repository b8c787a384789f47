"""benchmarks.attention_gpu without a GPU: it says so; and its clock, its errors and its table on a CPU."""

import json

import jax
import pytest

from benchmarks import attention_gpu
from benchmarks.attention_gpu import Case

SMALL = Case(2, 300, 70, 2)


def test_without_a_gpu_nothing_is_measured_and_that_is_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(attention_gpu, "device", lambda: (None, "no GPU: JAX sees cpu"))
    attention_gpu.main([])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line == {"measured": False, "why": "no GPU: JAX sees cpu"}


@pytest.mark.parametrize("pass_", SMALL.passes)
def test_a_contender_is_timed_and_its_error_is_bfloat16s(pass_):
    found = attention_gpu.run("chunked", SMALL, pass_, repeats=1)
    assert found["ms"] > 0 and found["of"] == "xla"
    # One part in 256 of values below 4; not 0, which float32 would give.
    assert 0 < found["error"] < 4 / 256


def test_a_wrong_result_is_seen():
    _, _, right = next(attention_gpu.candidates("chunked", SMALL))
    wrong = lambda q, k, v: 1.5 * right(q, k, v)
    assert attention_gpu.measure(wrong, SMALL, "fwd", 1)[1] > 0.1


def test_a_contender_that_cannot_run_says_why_and_has_no_figure():
    found = attention_gpu.run("ours", SMALL, "fwd", 1)
    assert jax.default_backend() != "cpu" or set(found) == {"failed"}


def test_the_ratio_is_ours_to_the_best_other():
    of = lambda tflops: {"text": dict.fromkeys(("fwd", "fwd_bwd"), tflops)}
    found = {
        "ours": of({"tflops": 600}),
        "tokamax": of({"tflops": 400}),
        "pallas": of({"failed": "x"}),
    }
    assert attention_gpu.table(found, ["text"])["text"]["fwd"]["ratio"] == 1.5
    assert (
        attention_gpu.table({"ours": of({"failed": "x"})}, ["text"])["text"]["fwd"]["ratio"] is None
    )


def test_pallas_is_given_lengths_that_it_takes_and_is_credited_for_them():
    pytest.importorskip("jax.experimental.pallas.ops.gpu.attention_mgpu")
    case = attention_gpu.CASES["1.3b"]
    for _, longer, _ in attention_gpu.candidates("pallas", case):
        assert longer.queries == longer.keys == 32_768
        assert longer.flops("fwd") > case.flops("fwd")
