"""TFDS's download manager, which asks first: is it allowed to download, and is there room?"""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import jax
import tensorflow_datasets as tfds

from jaxcnn.console import say
from jaxcnn.errors import DataError

_MARGIN = 1.1  # over an estimate: TFDS tells the size of a dataset only to those who ask its server


class Downloads(tfds.download.DownloadManager):
    """Downloads what a builder asks for and is not there yet.

    A file that was downloaded by hand is found in the manual directory by its own name, and its checksum is compared.

    Args:
      builder: the builder that will ask.
      directory: where downloads are kept.
      manual_dir: where files are that were downloaded by hand.
      offline: a file that is missing is a DataError, and the network is not touched.
    """

    def __init__(self, builder: Any, directory: pathlib.Path, manual_dir: pathlib.Path, offline: bool):
        super().__init__(
            download_dir=directory,
            # One for each dataset: TFDS finds an extracted file by its name, and mnist and fashion_mnist use the same
            # names. It is removed in the end.
            extract_dir=extract_dir(directory, builder.name),
            manual_dir=manual_dir,
            manual_dir_instructions=builder.MANUAL_DOWNLOAD_INSTRUCTIONS,
            url_infos={
                url: dataclasses.replace(info, filename=info.filename or url.rsplit("/")[-1])
                for url, info in (builder.url_infos or {}).items()
            },
            dataset_name=builder.name,
            max_simultaneous_downloads=builder.MAX_SIMULTANEOUS_DOWNLOADS,
        )
        self._directory, self._by_hand, self._offline = directory, manual_dir, offline

    def download(self, url_or_urls: Any) -> Any:
        """As TFDS's. DataError when offline and a file is missing, or when the disk is too small."""
        self._check(url_or_urls, copies=2)
        return super().download(url_or_urls)

    def download_and_extract(self, url_or_urls: Any) -> Any:
        """As TFDS's. DataError when offline and a file is missing, or when the disk is too small."""
        self._check(url_or_urls, copies=3)
        return super().download_and_extract(url_or_urls)

    def download_kaggle_data(self, competition_or_dataset: str) -> Any:
        """As TFDS's. DataError when offline."""
        if self._offline:
            raise DataError(f"--offline: {competition_or_dataset} of Kaggle cannot be downloaded")
        return super().download_kaggle_data(competition_or_dataset)

    def _check(self, url_or_urls: Any, copies: int) -> None:
        """Nothing is downloaded yet. ``copies``: records, the same again to shuffle them, and what is extracted."""
        resources = [
            url if isinstance(url, tfds.download.Resource) else tfds.download.Resource(url=url)
            for url in jax.tree.leaves(url_or_urls)
        ]
        missing = [resource for resource in resources if not self._is_here(resource)]
        if missing and self._offline:
            files = "; ".join(f"{resource.url} as {self._place(resource)}" for resource in missing)
            raise DataError(f"--offline: {len(missing)} of {len(resources)} files are missing: {files}")
        if unknown := [resource.url for resource in resources if resource.url not in self._url_infos]:
            say(f"the size of {unknown[0]} is unknown, so free space is not checked")
            return
        total, to_download = (
            sum(self._url_infos[resource.url].size for resource in part) for part in (resources, missing)
        )
        check_space(self._directory, to_download, copies * total)
        say(f"downloading {len(missing)} of {len(resources)} files, {to_download / 1e6:,.2f} MB, to {self._directory}")

    def _is_here(self, resource: Any) -> bool:
        """Where TFDS looks: downloaded by hand, or by itself, now or by older versions, with or without a checksum."""
        if self._get_manually_downloaded_path(self._url_infos.get(resource.url)):
            return True
        looks = (self._get_checksum_dl_result, self._get_url_dl_result)
        return any(look(resource, legacy_mode=legacy) for look in looks for legacy in (False, True))

    def _place(self, resource: Any) -> pathlib.Path:
        """Where a file that was downloaded elsewhere has to be put."""
        known = self._url_infos.get(resource.url)
        return self._by_hand / known.filename if known and known.filename else pathlib.Path(self._get_dl_path(resource))


def extract_dir(directory: pathlib.Path, name: str) -> pathlib.Path:
    """Where the archives of a dataset are unpacked."""
    return directory / "extracted" / name


def remove_leftovers(directory: pathlib.Path, name: str) -> None:
    """Remove half-downloaded files of a dataset, and all that was extracted; whole downloads stay."""
    remove([extract_dir(directory, name), *(directory / name).glob("*.tmp.*")])


def remove(directories: Iterable[pathlib.Path]) -> None:
    """Remove directories with all that is in them, where they exist."""
    for path in directories:
        shutil.rmtree(path, ignore_errors=True)


def check_space(directory: pathlib.Path, to_download: int, to_write: int) -> None:
    """DataError when the disk of ``directory`` has no room for so many bytes, and a tenth more."""
    needed, free = int(_MARGIN * (to_download + to_write)), shutil.disk_usage(directory).free
    if needed > free:
        raise DataError(
            f"{directory} has {free / 1e9:,.2f} GB free, and about {needed / 1e9:,.2f} GB are needed: {to_download / 1e9:,.2f} "
            f"to download, {to_write / 1e9:,.2f} to extract, shuffle and write, and a tenth more; make room, or name "
            "another --data_dir"
        )
