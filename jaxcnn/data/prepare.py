"""Datasets downloaded and prepared by their official TFDS builders, into ArrayRecord files, mostly without TensorFlow."""

import contextlib
import dataclasses
import fcntl
import importlib.util
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from jaxcnn.console import console, say
from jaxcnn.data import prepared, standin
from jaxcnn.data.catalog import CATALOG
from jaxcnn.data.records import ArrayRecords, allow_many_files
from jaxcnn.environment import cache_dir
from jaxcnn.errors import DataError, JaxcnnError, UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A dataset that can be trained on.

    Attributes:
      directory: where its files are.
      splits: number of examples of each.
      num_bytes: size of its files.
      new: it was prepared now.
    """

    directory: pathlib.Path
    splits: dict[str, int]
    num_bytes: int
    new: bool


def prepare(name: str, data_dir: str | None = None, manual_dir: str | None = None, offline: bool = False) -> Prepared:
    """Download a dataset and write it as ArrayRecord files, unless that was done before.

    It may be killed at any moment and started again: whole downloads are kept, and a dataset appears in one piece.

    Args:
      name: of the catalog, or ``tfds:NAME[/CONFIG]``.
      data_dir: directory of prepared TFDS datasets; None for the user's cache.
      manual_dir: where files are that were downloaded by hand; None for ``downloads/manual`` in data_dir.
      offline: use what was downloaded, and never touch the network.

    Raises:
      UsageError: an unknown name, or a directory that is a file.
      DataError: a file is missing or damaged, the disk is too small, or a package that the builder needs is missing.
    """
    if (row := CATALOG.get(name)) and row.origin == "ours":
        say(f"{name} is made by jaxcnn itself at first use, in the user's cache; nothing is downloaded")
        new = not (cache_dir() / "tfds" / name).is_dir()
        return _described(prepared.builder(row, None), new)
    for flag, path in (("data_dir", data_dir), ("manual_dir", manual_dir)):
        if path and pathlib.Path(path).exists() and not pathlib.Path(path).is_dir():
            raise UsageError(f"--{flag}={path} is a file; it must be a directory")
    directory = (pathlib.Path(data_dir) if data_dir else cache_dir() / "tfds").absolute()
    downloads = directory / "downloads"
    manual = pathlib.Path(manual_dir).absolute() if manual_dir else downloads / "manual"
    name = _official_name(name)
    try:
        with _without_tensorflow(), contextlib.redirect_stdout(io.StringIO()):  # TFDS prints what is said better here
            if done := _if_prepared(name, directory, new=False):
                return done
            downloads.mkdir(parents=True, exist_ok=True)
            with _alone(downloads / f"{name.split('/')[0]}.lock", name):
                if done := _if_prepared(name, directory, new=False):  # by the one that we waited for
                    return done
                _run(_builder(name, directory, file_format="array_record"), downloads, manual, offline)
                if done := _if_prepared(name, directory, new=True):
                    return done
    except JaxcnnError:
        raise
    except Exception as error:  # TFDS raises many kinds, and wraps some
        raise _translated(error, name) from error
    raise DataError(f"the builder of {name} wrote no examples to {directory}")


def _run(builder: Any, downloads: pathlib.Path, manual: pathlib.Path, offline: bool) -> None:
    import tensorflow_datasets as tfds

    from jaxcnn.data import downloads as files  # slow to import

    version = pathlib.Path(builder.data_dir)
    files.remove(version.parent.glob(f"incomplete.*_{version.name}"))  # TFDS's name for one that is being written
    files.remove_leftovers(downloads, builder.name)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        files.check_space(downloads, 0, 2 * _check_manual(builder, manual))
    manager = files.Downloads(builder, downloads, manual, offline)
    builder._make_download_manager = lambda **_: manager  # TFDS takes options for its own manager, but not another one
    tfds.display_progress_bar(console().is_terminal)  # a log would get thousands of lines
    allow_many_files()  # TFDS shuffles what does not fit memory in 1,000 files, all of which stay open
    say(f"preparing {builder.info.full_name} in {version}")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    files.remove_leftovers(downloads, builder.name)


def _without_tensorflow() -> contextlib.AbstractContextManager[None]:
    """Where TensorFlow is installed, everything is done TFDS's own way."""
    return contextlib.nullcontext() if importlib.util.find_spec("tensorflow") else standin.lent()


def _translated(error: BaseException, name: str) -> DataError:
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for link in chain:
        if isinstance(link, ImportError) and link.name:
            package = link.name.split(".")[0]
            return DataError(
                f"the builder of {name} needs the package {package}, for this step alone: pip install {package}"
            )
    return DataError(
        f"{name} cannot be prepared ({_first_line(error)}); files that were downloaded whole are kept for the next time"
    )


def _check_manual(builder: Any, manual: pathlib.Path) -> int:
    """Size of the files that the user downloaded. DataError when there are none, with all that is known about them."""
    text = re.sub(r"\s+", " ", builder.MANUAL_DOWNLOAD_INSTRUCTIONS).strip()
    names = dict.fromkeys(re.findall(r"[\w.-]+\.(?:tar|zip|tgz|gz|bz2|7z|csv|h5|mat|npz)\b", text))
    right = {url.rsplit("/")[-1]: int(info.size) for url, info in (builder.url_infos or {}).items()}
    sizes = {name: (manual / name).stat().st_size for name in names if (manual / name).is_file()}
    wrong = [name for name in names if name not in sizes or sizes[name] != right.get(name, sizes[name])]
    strict = builder.name in CATALOG  # other builders may name archives that have to be unpacked by hand
    if not wrong if strict else manual.is_dir() and any(manual.iterdir()):
        return sum(sizes.values())
    say(f"{builder.name} has to be downloaded by hand. Its builder says: {text}\nmanual_dir is {manual}")
    for name in names:
        wanted = f"; {right[name]:,} bytes are expected" if name in right else ""
        say(f"  {name}: " + (f"found, {sizes[name]:,} bytes" if name in sizes else "not found") + wanted)
    files = ", ".join(wrong) + ", whole," if strict else "what it asks for"
    raise DataError(f"{builder.name}: put {files} into {manual}, or name another directory by --manual_dir")


def _if_prepared(name: str, directory: pathlib.Path, new: bool) -> Prepared | None:
    """What is in the directory; None when it is not prepared. DataError when it is there and of no use."""
    builder = _builder(name, directory)
    version = pathlib.Path(builder.data_dir)
    if not version.is_dir():
        return None
    if not builder.is_prepared() or not builder.info.splits:
        raise DataError(f"{version} is there, but is no prepared dataset; remove it and start again")
    if (kind := builder.info.file_format.value) != "array_record":
        raise DataError(f"{version} holds {kind} files, and array_record is needed; name another --data_dir")
    for split in builder.info.splits.values():
        ArrayRecords([pathlib.Path(path) for path in split.filepaths], split.shard_lengths, ("", "")).check()
    return _described(builder, new)


def _described(builder: Any, new: bool) -> Prepared:
    splits = {name: info.num_examples for name, info in builder.info.splits.items()}
    directory = pathlib.Path(builder.data_dir)
    return Prepared(directory, splits, sum(path.stat().st_size for path in directory.iterdir()), new)


def _builder(name: str, directory: pathlib.Path, **options: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=directory, try_gcs=False, **options)
    except ImportError:
        raise
    except Exception as error:  # many kinds on damaged descriptions
        raise DataError(
            f"{name} in {directory} cannot be read ({_first_line(error)}); remove it and prepare it again"
        ) from None


def _official_name(name: str) -> str:
    """``NAME[/CONFIG]`` of an official builder; UsageError when there is none."""
    import tensorflow_datasets as tfds

    known = {row.name: row.place or row.name for row in CATALOG.values() if row.origin != "synthetic"}
    official = tfds.list_builders(with_community_datasets=False)
    if name in CATALOG and name not in known:
        raise UsageError(f"{name!r} is made in memory: there is nothing to prepare")
    builder, _, config = known.get(name, name.removeprefix("tfds:")).partition("/")
    if (name not in known and not name.startswith("tfds:")) or builder not in official:
        close = nearest(name, [*known, *(f"tfds:{other}" for other in official)])
        raise UsageError(
            f"{name!r} must be one of {', '.join(known)}, or tfds:NAME[/CONFIG] of a dataset of TFDS{close}"
        )
    configs = list(tfds.builder_cls(builder).builder_configs)
    if config and config not in configs:
        has = f"{', '.join(configs[:20])}{nearest(config, configs)}" if configs else "none"
        raise UsageError(f"{name!r}: {config!r} is no configuration of {builder}; it has {has}")
    return f"{builder}/{config}" if config else builder


@contextlib.contextmanager
def _alone(path: pathlib.Path, name: str) -> Iterator[None]:
    """Hold a lock file, which the kernel gives back when the process ends, however it ends."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process prepares {name} in the same directory: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]
