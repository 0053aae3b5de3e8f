"""Optimizers and schedules against closed forms and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.config import OptimizerConfig, ScheduleConfig
from jaxcnn.optim import decays, make_optimizer, peak_rate
from jaxcnn.schedules import make_schedule

PARAMS = {"kernel": np.array([[1.0, -2.0], [3.0, 0.5]], np.float32), "bias": np.array([0.3, -0.7], np.float32)}
GRADS = [jax.tree.map(lambda p, k=k: (np.sin(p * (k + 1)) + 0.1).astype(np.float32), PARAMS) for k in range(5)]


def trajectory(config, learning_rate=0.1):
    optimizer = make_optimizer(config)
    params, state = jax.tree.map(jnp.asarray, PARAMS), optimizer.init(PARAMS)
    for grads in GRADS:
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int power
            direction, state = optimizer.update(grads, state, params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
    return params


def test_momentum_and_coupled_decay_by_hand():
    w, b, vw, vb = PARAMS["kernel"], PARAMS["bias"], 0, 0
    for grads in GRADS:
        vw = 0.9 * vw + grads["kernel"] + 0.01 * w
        vb = 0.9 * vb + grads["bias"]
        w, b = w - 0.1 * vw, b - 0.1 * vb
    ours = trajectory(OptimizerConfig("sgd", momentum=0.9, weight_decay=0.01))
    np.testing.assert_allclose(ours["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(ours["bias"], b, rtol=1e-5)


def test_clipping_scales_the_whole_gradient():
    optimizer = make_optimizer(OptimizerConfig("sgd", momentum=0.0, clip_norm=1.0))
    direction, _ = optimizer.update(GRADS[0], optimizer.init(PARAMS), PARAMS)
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(GRADS[0])))
    assert norm > 1
    for name in PARAMS:
        np.testing.assert_allclose(direction[name], GRADS[0][name] / norm, rtol=1e-5)


def test_kernels_decay_and_the_rest_does_not():
    assert decays({"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}) == {
        "kernel": True,
        "bias": False,
        "scale": False,
    }


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (
            OptimizerConfig("sgd", weight_decay=0.02, decay_all=True),
            lambda t, p: t.optim.SGD(p, 0.1, 0.9, weight_decay=0.02),
        ),
        (OptimizerConfig("sgd", nesterov=True), lambda t, p: t.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (OptimizerConfig("sgd", momentum=0.0), lambda t, p: t.optim.SGD(p, 0.1)),
        (
            OptimizerConfig("adam", weight_decay=0.02, decay_all=True),
            lambda t, p: t.optim.Adam(p, 0.1, weight_decay=0.02),
        ),
        (
            OptimizerConfig("adamw", weight_decay=0.02, decay_all=True),
            lambda t, p: t.optim.AdamW(p, 0.1, weight_decay=0.02),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, OptimizerConfig) else "",
)
def test_agrees_with_torch(config, make):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in PARAMS.items()}
    optimizer = make(torch, list(params.values()))
    for grads in GRADS:
        for name, param in params.items():
            param.grad = torch.tensor(grads[name])
        optimizer.step()
    ours = trajectory(config)
    for name, param in params.items():
        np.testing.assert_allclose(ours[name], param.detach().numpy(), rtol=2e-5, atol=1e-5)


def rates(config, total=100, peak=2.0):
    schedule = jax.jit(make_schedule(config, peak, total))
    return np.array([schedule(step) for step in range(total)])


def test_constant_and_warmup():
    np.testing.assert_allclose(rates(ScheduleConfig("constant")), 2.0)
    warm = rates(ScheduleConfig("constant", warmup=0.1))
    np.testing.assert_allclose(warm[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(warm[10:], 2.0)


def test_step_falls_at_its_milestones():
    np.testing.assert_allclose(
        rates(ScheduleConfig("step", milestones=(0.5, 0.75), factor=0.1)),
        [2.0] * 50 + [0.2] * 25 + [0.02] * 25,
        rtol=1e-5,
    )


def test_cosine_and_linear():
    t = np.arange(100) / 100
    np.testing.assert_allclose(rates(ScheduleConfig("cosine")), 1 + np.cos(np.pi * t), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rates(ScheduleConfig("cosine", final=0.5)), 1 + 0.5 * (1 + np.cos(np.pi * t)), rtol=1e-4)
    np.testing.assert_allclose(rates(ScheduleConfig("linear")), 2 * (1 - t), rtol=1e-4, atol=1e-6)


def test_onecycle_rises_and_falls():
    values = rates(ScheduleConfig("onecycle"))
    assert values.argmax() in (29, 30)
    assert (np.diff(values[:29]) > 0).all()
    assert (np.diff(values[31:]) < 0).all()
    assert values[-1] < 0.002
    np.testing.assert_allclose(values.max(), 2.0, rtol=1e-6)


def norm(x):
    return np.sqrt(np.sum(np.square(x, dtype=np.float64)))


def test_lars_follows_the_paper():
    """You et al. 2017, Algorithm 1, the learning rate outside of the momentum; biases are neither decayed nor adapted."""
    w, b, vw, vb = PARAMS["kernel"], PARAMS["bias"], 0, 0
    for grads in GRADS:
        g = grads["kernel"] + 0.05 * w
        vw = 0.9 * vw + 0.02 * norm(w) / norm(g) * g
        vb = 0.9 * vb + grads["bias"]
        w, b = w - 0.1 * vw, b - 0.1 * vb
    ours = trajectory(OptimizerConfig("lars", weight_decay=0.05, trust=0.02))
    np.testing.assert_allclose(ours["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(ours["bias"], b, rtol=1e-5)


def adam(grads, m, v, step, b1=0.9, b2=0.99, epsilon=1e-6):
    m, v = b1 * m + (1 - b1) * grads, b2 * v + (1 - b2) * grads**2
    return m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + epsilon), m, v


def test_lamb_follows_the_paper():
    """You et al. 2020, Algorithm 2, with phi the identity."""
    w, b, states = PARAMS["kernel"], PARAMS["bias"], [(0, 0), (0, 0)]
    for step, grads in enumerate(GRADS, 1):
        dw, *states[0] = adam(grads["kernel"], *states[0], step)
        db, *states[1] = adam(grads["bias"], *states[1], step)
        dw = dw + 0.05 * w
        w, b = w - 0.1 * norm(w) / norm(dw) * dw, b - 0.1 * db
    ours = trajectory(OptimizerConfig("lamb", second_moment=0.99, epsilon=1e-6, weight_decay=0.05))
    np.testing.assert_allclose(ours["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(ours["bias"], b, rtol=1e-5)


def test_lion_follows_the_paper():
    """Chen et al. 2023, Algorithm 2."""
    w, b, mw, mb = PARAMS["kernel"], PARAMS["bias"], 0, 0
    for grads in GRADS:
        dw, db = np.sign(0.9 * mw + 0.1 * grads["kernel"]), np.sign(0.9 * mb + 0.1 * grads["bias"])
        mw, mb = 0.99 * mw + 0.01 * grads["kernel"], 0.99 * mb + 0.01 * grads["bias"]
        w, b = w - 0.1 * (dw + 0.05 * w), b - 0.1 * db
    ours = trajectory(OptimizerConfig("lion", second_moment=0.99, weight_decay=0.05))
    np.testing.assert_allclose(ours["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(ours["bias"], b, rtol=1e-5)


def orthogonalised(g, steps=5):
    """By Newton-Schulz steps (Jordan 2024): singular values go to about 1."""
    x = (g.T if g.shape[0] > g.shape[1] else g) / norm(g)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def test_muon_follows_its_author():
    """A convolution's kernel is a matrix of inputs by outputs; what is no matrix goes by Adam."""
    random = np.random.default_rng(0)
    params = {"kernel": random.normal(size=(3, 3, 2, 24)).astype(np.float32), "bias": np.ones(24, np.float32)}
    all_grads = [jax.tree.map(lambda p: random.normal(size=p.shape).astype(np.float32), params) for _ in range(4)]
    optimizer = make_optimizer(
        OptimizerConfig("muon", momentum=0.95, second_moment=0.99, epsilon=1e-6, weight_decay=0.05)
    )
    ours, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    w, b, m, adams = params["kernel"].astype(np.float64), params["bias"], 0, (0, 0)
    for step, grads in enumerate(all_grads, 1):
        with jax.numpy_dtype_promotion("standard"):
            direction, state = optimizer.update(grads, state, ours)
        ours = jax.tree.map(lambda p, d: p - 0.1 * d, ours, direction)
        m = 0.95 * m + 0.05 * grads["kernel"].astype(np.float64)
        dw = orthogonalised(m.reshape(18, 24)).reshape(w.shape) * np.sqrt(24 / 18)
        db, *adams = adam(grads["bias"], *adams, step, b1=0.9)
        w, b = w - 0.1 * (dw + 0.05 * w), b - 0.1 * db
    np.testing.assert_allclose(ours["kernel"], w, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours["bias"], b, rtol=1e-4)
    values = np.linalg.svd(np.asarray(direction["kernel"] - 0.05 * ours["kernel"]).reshape(18, 24), compute_uv=False)
    assert 0.6 < values.min() < values.max() < 1.5


def test_muon_relative_to_the_kernel_with_sgd_for_the_rest_at_rates_of_its_own():
    random = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 4, 8)}, "bn": {"bias": (8,)}, "fc": {"kernel": (8, 5), "bias": (5,)}}
    params, *all_grads = (
        jax.tree.map(
            lambda shape: random.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: type(x) is tuple
        )
        for _ in range(4)
    )
    config = OptimizerConfig(
        "muon",
        momentum=0.6,
        nesterov=True,
        newton_schulz=3,
        relative=True,
        rest="sgd",
        rest_momentum=0.8,
        rest_layers=("fc",),
        rates=("fc/kernel=0.5", "*/bias=64", "fc=7"),
        weight_decay=0.1,
    )
    optimizer = make_optimizer(config)
    state, buffers = optimizer.init(params), jax.tree.map(np.zeros_like, params)
    for grads in all_grads:
        with jax.numpy_dtype_promotion("standard"):
            direction, state = optimizer.update(grads, state, params)
        buffers = jax.tree.map(lambda m, g: 0.8 * m + g, buffers, grads)
    nesterov = jax.tree.map(lambda m, g: 0.8 * m + g, buffers, all_grads[-1])
    np.testing.assert_allclose(direction["bn"]["bias"], 64 * nesterov["bn"]["bias"], rtol=1e-5)
    np.testing.assert_allclose(direction["fc"]["bias"], 64 * nesterov["fc"]["bias"], rtol=1e-5)
    wanted = 0.5 * nesterov["fc"]["kernel"] + 0.1 * params["fc"]["kernel"]  # decay is not slower
    np.testing.assert_allclose(direction["fc"]["kernel"], wanted, rtol=1e-5)
    kernel, m = params["conv"]["kernel"], 0
    for grads in all_grads:
        g = grads["conv"]["kernel"].reshape(36, 8).astype(np.float64)
        m = 0.6 * m + 0.4 * g
    # Dozat 2016: of three steps; the momentum is looked at as the fourth will.
    u = orthogonalised(0.6 * m / (1 - 0.6**4) + 0.4 * g / (1 - 0.6**3), steps=3)
    wanted = u.reshape(kernel.shape) * np.linalg.norm(kernel) / np.sqrt(8) + 0.1 * kernel
    np.testing.assert_allclose(direction["conv"]["kernel"], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.compiles(keep=1)
@pytest.mark.parametrize("name", ["lars", "lamb", "lion", "muon"])
def test_decay_of_all_reaches_the_biases(name):
    some, whole = (trajectory(OptimizerConfig(name, weight_decay=0.3, decay_all=flag)) for flag in (False, True))
    none = trajectory(OptimizerConfig(name))
    np.testing.assert_array_equal(some["bias"], none["bias"])
    assert np.any(some["kernel"] != none["kernel"])
    assert np.any(whole["bias"] != none["bias"])


def test_the_learning_rate_grows_with_the_batch():
    """Goyal et al. 2017: 0.1 for 256 images is 3.2 for 8192, reached by a linear warm-up."""
    config = OptimizerConfig(learning_rate=0.1, scale_batch=256)
    assert peak_rate(config, 8192) == pytest.approx(3.2)
    assert peak_rate(OptimizerConfig(learning_rate=0.1), 8192) == 0.1
    schedule = make_schedule(ScheduleConfig("step", warmup=0.1), peak_rate(config, 8192), 100)
    np.testing.assert_allclose([schedule(step) for step in (0, 4, 9, 10)], [0.32, 1.6, 3.2, 3.2], rtol=1e-6)
