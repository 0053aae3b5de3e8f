"""Optimizers and schedules against closed forms and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.config import OptimizerConfig, ScheduleConfig
from jaxcnn.optim import decays, make_optimizer
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
