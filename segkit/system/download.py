"""Fetch a file once: resumable, verified, and in its place whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote, urlparse

from tqdm import tqdm

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte


class Hash(NamedTuple):
    """How a file is verified: an algorithm and the first digits of its hexadecimal digest, or all of them."""

    algorithm: str
    digits: str

    def __str__(self) -> str:
        return f"{self.algorithm} {self.digits}{'...' if len(self.digits) < 40 else ''}"

    def of(self, path: Path) -> str:
        """As many digits of the file's digest."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.algorithm).hexdigest()[: len(self.digits)]


def cache() -> Path:
    """Where downloads are kept: ``$SEGKIT_CACHE``, or ``~/.cache/segkit``."""
    return Path(os.environ.get("SEGKIT_CACHE") or Path.home() / ".cache" / "segkit").expanduser()


def fetch(url: str, target: Path, *, sha256: str | None = None, sha1: str | None = None) -> Path:
    """The file at an address, downloaded to ``target`` unless it is there.

    What an interrupted download left is continued by the next call when there is a hash to verify the whole
    by. Several processes may call at once; one downloads.

    Args:
        url: ``http://`` or ``https://``.
        target: where it goes; its folder is made.
        sha256: the digest, or its first digits.
        sha1: likewise, for files published with that.

    Raises:
        OSError: the file cannot be had; the message says how to put it in its place by hand.
        ValueError: the file is not the expected one.
    """
    expected = Hash("sha256", sha256.lower()) if sha256 else Hash("sha1", sha1.lower()) if sha1 else None
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(target.with_name(target.name + ".lock")):
        if target.exists():
            _verify(target, expected, url)
            return target
        try:
            _download(url, part, resume=expected is not None)
        except (OSError, HTTPException) as error:  # urllib's errors are OSErrors
            known = f" (its {expected})" if expected else ""
            raise OSError(
                f"cannot download {url}: {_reason(error)}; call again to continue, or fetch the file{known} "
                f"some other way and put it at {target}"
            ) from error
        _verify(part, expected, url)
        part.replace(target)
    return target


def resolve(source: str) -> Path:
    """The local file a path, ``file://`` or ``http(s)://`` address means; the last is fetched into the cache.

    Raises:
        ValueError: there is no such file, or the scheme is another.
        OSError: the download failed.
    """
    address = urlparse(source)
    if address.scheme in ("http", "https"):
        folder = hashlib.sha256(source.encode()).hexdigest()[:12]  # two addresses may end in one name
        return fetch(source, cache() / "downloads" / folder / (Path(unquote(address.path)).name or "file"))
    if "://" in source and address.scheme != "file":
        raise ValueError(f"{source}: give a path or an address that starts with file://, http:// or https://")
    path = Path(unquote(address.path) if address.scheme == "file" else source).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    return path


def _download(url: str, part: Path, *, resume: bool) -> None:
    """Fill the partial file up to the length the server announces."""
    have = part.stat().st_size if resume and part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing beyond what we have: it is whole, or the hash will tell
            raise
        return
    with answer:
        if answer.status != 206:  # the whole file, from its start
            have = 0
        with part.open("ab" if have else "wb") as file:
            _copy(answer, file, have, name=part.stem)


def _copy(answer, file: IO[bytes], have: int, *, name: str) -> None:
    """Copy the answer's body, with a progress bar on a terminal."""
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    with tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _verify(path: Path, expected: Hash | None, url: str) -> None:
    if expected is None or (digits := expected.of(path)) == expected.digits:
        return
    if path.suffix == ".part":
        path.unlink()
    raise ValueError(
        f"{path}: its {expected.algorithm} begins with {digits}, that of {url} with {expected.digits}; "
        "it is damaged or another file: delete it if it is still there, and call again"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
