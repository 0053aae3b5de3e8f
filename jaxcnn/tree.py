"""Pytree helpers: names of leaves, sizes, finiteness, and the digest that says two states are equal."""

import fnmatch
import hashlib
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.typing import Array, PyTree


def named_leaves(tree: PyTree) -> dict[str, Array]:
    """``{"params/conv1/kernel": array, ...}``, in the order of the tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {leaf_name(path): leaf for path, leaf in flat}


def leaf_name(path: Any) -> str:
    """A path as jax gives it in words: ``params/conv1/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern, in the shell's sense, fits a leaf's path or one of the modules on its way.

    ``layer1_*`` fits ``layer1_0/conv1/kernel``, and so do ``*/conv1`` and ``layer1_0/conv1/kernel`` itself.
    """
    parts = path.split("/")
    heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatchcase(head, pattern) for head in heads for pattern in patterns)


def is_moment(path: Any) -> bool:
    """Whether a leaf of the batch statistics is a running moment of a BatchNorm; the whitening of a speednet is none."""
    return leaf_name(path).rpartition("/")[2] in ("mean", "var")


def manifest(tree: PyTree) -> dict[str, str]:
    """``{"params/conv1/kernel": "float32[5,5,1,6]", ...}``: what the tree holds, without the values."""
    return {
        name: f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in named_leaves(tree).items()
    }


def num_elements(tree: PyTree) -> int:
    """Total number of array elements, e.g. parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: PyTree) -> int:
    """Memory of all arrays together, each counted once, however many devices hold it."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def norm(tree: PyTree) -> Array:
    """The square root of the sum of all squares, in float32 at least."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        total += reduce(operator.add, [jnp.square(part) for part in _parts(leaf)]).sum()
    return jnp.sqrt(total)


def all_finite(tree: PyTree) -> Array:
    """One boolean: no leaf holds NaN or infinity. Integer leaves are finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    each = [reduce(operator.and_, [jnp.isfinite(part) for part in _parts(leaf)]).all() for leaf in floats]
    return jnp.all(jnp.array(each)) if each else jnp.array(True)


def _parts(leaf: Array) -> list[Array]:
    """Up to eight equal parts, whose terms are added element by element first.

    XLA on a CPU computes those in one loop over memory; the terms of a sum over the whole it writes down and reads again.
    """
    if leaf.ndim < 2:
        return [leaf]
    number = next(n for n in range(8, 0, -1) if leaf.shape[0] % n == 0)
    parts = leaf.reshape(number, -1, *leaf.shape[1:])
    return [parts[i] for i in range(number)]


def digest(tree: PyTree) -> str:
    """A hash over name, shape, dtype and every bit of every leaf, in the order of names: equal digests mean equal trees.

    Integer sums modulo 2**32 are associative, so the value does not depend on how the leaves are sharded; each element
    has an odd weight, so any single flipped bit changes its leaf's sum (an odd number times a power of two is never 0
    modulo 2**32). Two different weightings catch what one might miss.
    """
    return begin_digest(tree)()


def begin_digest(tree: PyTree) -> Callable[[], str]:
    """Have the devices begin with the digest; the result waits for it, also when the tree's memory is given away."""
    names, sums = manifest(tree), _leaf_sums(jax.tree.leaves(tree))

    def wait() -> str:
        pairs = zip(names.items(), jax.device_get(sums), strict=True)
        text = [f"{name} {kind} {a} {b}" for (name, kind), (a, b) in pairs]
        return hashlib.sha256("\n".join(sorted(text)).encode()).hexdigest()

    return wait


@jax.jit
def _leaf_sums(leaves: list[Array]) -> list[tuple[Array, Array]]:
    return [_weighted_sums(leaf) for leaf in leaves]


def _weighted_sums(leaf: Array) -> tuple[Array, Array]:
    bits = _as_uint32(leaf)
    index = _linear_index(bits.shape)
    mixed = (index ^ (index >> 15)) * jnp.uint32(0x2C1B3C6D)
    total = partial(jnp.sum, dtype=jnp.uint32)
    return total(bits * (2 * index + 1)), total(bits * ((mixed ^ (mixed >> 12)) | 1))


def _as_uint32(leaf: Array) -> Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    width = leaf.dtype.itemsize * 8
    if width > 32:
        raise TypeError(f"digest: {leaf.dtype} leaves are not supported; a state holds 32-bit values or smaller")
    return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}")).astype(jnp.uint32)


def _linear_index(shape: tuple[int, ...]) -> Array:
    """Row-major position of each element, from one iota per axis: no reshape, so a sharded leaf is not gathered."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
