"""Products by oneDNN against float64, below every kind of derivative; the tests put the kernels in on any processor."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tasks import device
from tasks.core import matrix_products
from tasks.core.matching import trajectory_gradient
from tasks.core.seeding import make_generator
from tests.core.engine_problems import make_flat, make_trajectory, relative_errors, student_loss

KERNEL = "mkldnn::_linear_pointwise"

pytestmark = pytest.mark.skipif(not matrix_products.can_replace(), reason="this torch has no oneDNN")


def _take_out():
    matrix_products.replace_products.cache_clear()
    gc.collect()


@pytest.fixture(autouse=True)
def taken_out():
    """Every test begins and ends with torch's own kernels; stages put the others in again when they ask for a device."""
    _take_out()
    yield
    _take_out()


@pytest.fixture
def onednn():
    matrix_products.replace_products()


@pytest.fixture
def everywhere(onednn, monkeypatch):
    monkeypatch.setattr(matrix_products, "SMALLEST", 1.0)
    monkeypatch.setattr(matrix_products, "THINNEST", 1)


def _draw(label, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=make_generator(0, label), dtype=torch.float64).to(dtype)


def _kernels(function):
    """Return what the function gives, and how often oneDNN's product was called."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        value = function()
    return value, sum(event.count for event in events.key_averages() if event.key == KERNEL)


# (200, 180) by (180, 150) in the layouts that autograd makes: cut from something wider, as it lies in memory or transposed.
LAYOUTS = {
    "plain": lambda: (_draw("a", 200, 220)[:, 20:200], _draw("b", 180, 150)),
    "expanded": lambda: (_draw("a", 200, 1).expand(200, 180), _draw("b", 1, 1).expand(180, 150)),
    "in steps": lambda: (_draw("a", 400, 360)[::2, ::2], _draw("b", 180, 300)[:, ::2]),
    "turned": lambda: (_draw("a", 220, 200).t()[:, 20:200], _draw("b", 150, 180).t()),
}
BIASES = {
    "none": lambda: None,
    "plain": lambda: _draw("bias", 150),
    "strided": lambda: _draw("bias", 300)[::2],
    "column": lambda: _draw("bias", 150, 3)[:, 0],
    "expanded": lambda: _draw("bias", 1).expand(150),
}
OUTS = {"none": lambda: {}, "plain": lambda: {"out": torch.empty(200, 150)}, "turned": lambda: {"out": torch.empty(150, 200).t()}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("out", OUTS)
def test_large_products_equal_float64(onednn, layout, bias, out):
    (a, b), shift, given = LAYOUTS[layout](), BIASES[bias](), OUTS[out]()
    expected = a.double() @ b.double() + (0.0 if shift is None else shift.double())
    found, calls = _kernels(lambda: torch.mm(a, b, **given) if shift is None else torch.addmm(shift, a, b, **given))
    assert calls == 1
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert not given or found.data_ptr() == given["out"].data_ptr()


def test_only_factors_without_a_run_of_memory_are_copied():
    plain, cut = _draw("a", 20, 30), _draw("a", 20, 30)[:, 3:9]
    for factor in (plain, plain.t(), cut, cut.t()):
        assert matrix_products._in_rows(factor) is factor
    for factor in (_draw("a", 1, 1).expand(8, 9), _draw("a", 1, 9).expand(8, 9), plain[::2, ::2]):
        assert matrix_products._in_rows(factor).is_contiguous() and torch.equal(matrix_products._in_rows(factor), factor)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, bias: torch.mm(a[:40, :40], a[:40]),
        lambda a, bias: torch.mm(a[:1], a.repeat(1, 60)),
        lambda a, bias: torch.mm(a.repeat(60, 1), a[:, :1]),
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
        (lambda a: torch.mm(a.expand(200, 200, 200), a), "must be a matrix"),
        (lambda a: torch.mm(a, a.expand(200, 200, 200)), "must be a matrix"),
        (lambda a: torch.mm(a[0], a), "must be a matrix"),
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
    ("vendor", "capability", "has_mkl", "expected"),
    [
        ("AuthenticAMD", "AVX512", True, True),
        ("AuthenticAMD", "AVX512", False, False),
        ("AuthenticAMD", "AVX2", True, False),
        ("GenuineIntel", "AVX512", True, False),
        ("", "DEFAULT", False, False),
    ],
)
def test_the_processor_decides_what_stages_compute_with(monkeypatch, vendor, capability, has_mkl, expected):
    monkeypatch.setattr(matrix_products, "_vendor", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: has_mkl)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    a = _draw("a", 200, 200)
    for _ in range(2):  # the second time changes nothing
        assert device.choose_device() == torch.device("cpu")
        assert _kernels(lambda: a @ a)[1] == int(expected)
    assert device.describe().endswith("oneDNN") is expected


def test_nothing_stays_when_the_kernels_are_taken_out():
    a = _draw("a", 200, 200)
    before, calls = _kernels(lambda: a @ a)
    assert calls == 0
    matrix_products.replace_products()
    assert _kernels(lambda: a @ a)[1] == 1
    _take_out()
    after, calls = _kernels(lambda: a @ a)
    assert calls == 0 and torch.equal(before, after)
