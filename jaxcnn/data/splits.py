"""Splits in TFDS syntax: ``train``, ``train[:90%]``, ``train[1000:]+test``."""

from collections.abc import Mapping

from jaxcnn.errors import UsageError, nearest


def split_size(sizes: Mapping[str, int], split: str) -> int:
    """Number of examples in a split; UsageError when it is unknown or empty."""
    return sum(stop - start for _, start, stop in spans(sizes, split))


def spans(sizes: Mapping[str, int], split: str) -> list[tuple[str, int, int]]:
    """``[(split name, first, stop), ...]`` of a split; UsageError when it is unknown or empty.

    Args:
      sizes: number of examples of each split of the dataset.
      split: in TFDS syntax.
    """
    from tensorflow_datasets.core import splits as tfds_splits  # slow to import

    infos = {name: tfds_splits.SplitInfo(name=name, shard_lengths=[n], num_bytes=0) for name, n in sizes.items()}
    try:
        parts = tfds_splits.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else "not in TFDS syntax"
        hint = "" if split.split("[")[0] in sizes else nearest(split.split("[")[0], sizes)
        raise UsageError(
            f"split={split!r} must be made of {', '.join(sizes)}, e.g. train[:90%] ({reason}){hint}"
        ) from None
    found = [(p.splitname, p.from_ or 0, sizes[p.splitname] if p.to is None else p.to) for p in parts]
    if sum(stop - start for _, start, stop in found) < 1:
        raise UsageError(
            f"split={split!r} holds no example; the splits are {', '.join(f'{k} ({n:,})' for k, n in sizes.items())}"
        )
    return found
