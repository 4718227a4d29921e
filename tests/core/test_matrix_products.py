"""Products by oneDNN against float64, below every kind of derivative; the tests put the kernels in on any processor and take them out."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tasks.core import matrix_products
from tasks.core.matching import trajectory_gradient
from tasks.core.seeding import make_generator
from tests.core.engine_problems import make_flat, make_trajectory, relative_errors, student_loss

KERNEL = "mkldnn::_linear_pointwise"

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def onednn():
    is_there = bool(matrix_products._KEPT)
    if not is_there:
        matrix_products.replace_products()
    yield
    if not is_there:
        _take_out()


@pytest.fixture
def everywhere(onednn, monkeypatch):
    monkeypatch.setattr(matrix_products, "SMALLEST", 1.0)


def _take_out():
    matrix_products._KEPT.clear()
    gc.collect()


def _draw(label, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=make_generator(0, label), dtype=torch.float64).to(dtype)


def _kernels(function):
    """Return what the function gives, and how often oneDNN's product was called."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        value = function()
    return value, sum(event.count for event in events.key_averages() if event.key == KERNEL)


# The rows of one large product in all layouts that autograd makes: plain, transposed, cut from something wider.
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_out", [False, True])
def test_large_products_equal_float64(onednn, is_turned, has_bias, has_out):
    a, b, bias = _draw("a", 200, 300)[:, 20:220], _draw("b", 200, 150), _draw("bias", 150)
    if is_turned:
        a, b = a.t().contiguous().t(), b.t().contiguous().t()
    expected = a.double() @ b.double() + (bias.double() if has_bias else 0.0)
    out = {"out": torch.empty(200, 150)} if has_out else {}
    found, calls = _kernels(lambda: torch.addmm(bias, a, b, **out) if has_bias else torch.mm(a, b, **out))
    assert calls == 1
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert not has_out or found.data_ptr() == out["out"].data_ptr()


@pytest.mark.parametrize(
    "function",
    [
        lambda a, bias: torch.mm(a[:4], a),
        lambda a, bias: torch.mm(a.double(), a.double()),
        lambda a, bias: torch.addmm(bias, a, a, beta=0.5),
        lambda a, bias: torch.addmm(bias, a, a, alpha=2),
        lambda a, bias: torch.addmm(bias[:, None], a, a),
        lambda a, bias: torch.mm(a, a, out=a.new_empty(0)),
        lambda a, bias: torch.addmm(bias, a, a, beta=0.5, out=a.new_empty(200, 200)),
    ],
)
def test_other_products_stay_torchs_own(function, onednn):
    a, bias = _draw("a", 200, 200), _draw("bias", 200)
    found, calls = _kernels(lambda: function(a, bias))
    assert calls == 0
    torch.testing.assert_close(found.double(), function(a.double(), bias.double()), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda a: torch.mm(a, a[:100]), "cannot be multiplied"),
        (lambda a: torch.mm(a, a.double()), "dtype"),
        (lambda a: torch.addmm(a[0, :3], a, a), "must match"),
    ],
)
def test_what_torch_refuses_is_refused_in_its_words(onednn, function, word):
    with pytest.raises(RuntimeError, match=word):
        function(_draw("a", 200, 200))


@pytest.mark.parametrize("engine", ["double_backward", "forward_over_reverse", "central_difference"])
@pytest.mark.parametrize("name", ["vit", "heads"])
def test_engines_equal_unrolled_autograd_in_float64(everywhere, name, engine):
    exact = make_flat(name, torch.float64)
    oracle = trajectory_gradient(student_loss(exact), engine="unroll", **make_trajectory(name, exact))
    flat = make_flat(name, torch.float32)
    found, calls = _kernels(lambda: trajectory_gradient(student_loss(flat), engine=engine, **make_trajectory(name, flat)))
    assert calls > 30
    assert max(relative_errors(found, oracle).values()) <= 5e-3


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False), ("", "DEFAULT", False)],
)
def test_the_processor_decides(monkeypatch, vendor, capability, expected):
    monkeypatch.setattr(matrix_products, "_vendor", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(matrix_products, "_KEPT", [])
    put_in = []
    monkeypatch.setattr(matrix_products, "replace_products", lambda: put_in.append(1))
    matrix_products.use_fast_products()
    assert matrix_products.are_slow() is expected and bool(put_in) is expected


def test_nothing_stays_when_the_kernels_are_taken_out():
    were_there = bool(matrix_products._KEPT)
    _take_out()
    a = _draw("a", 200, 200)
    before, calls = _kernels(lambda: a @ a)
    assert calls == 0
    matrix_products.replace_products()
    assert _kernels(lambda: a @ a)[1] == 1
    _take_out()
    after, calls = _kernels(lambda: a @ a)
    assert calls == 0 and torch.equal(before, after)
    if were_there:
        matrix_products.replace_products()
