"""Download a file once: verified, and under its final name only when it is complete.

``torch.hub.download_url_to_file`` would keep a truncated file, has no timeout and knows SHA-256 alone.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlparse

from filelock import FileLock
from tqdm import tqdm

from segkit.config.values import expand_home
from segkit.runtime import files

TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """Return the folder of downloads: ``$SEGKIT_CACHE``, or ``~/.cache/segkit``."""
    return Path(expand_home(os.environ.get("SEGKIT_CACHE") or "~/.cache/segkit"))


def fetch(url: str, target: Path, *, digest: str = "") -> Path:
    """Download a URL to ``target`` unless that file exists; several processes download once.

    Args:
        url: ``http://`` or ``https://``.
        target: the file to write; its folder is created.
        digest: expected, such as ``sha256:0123abcd``: an algorithm and the first digits, or all of them.

    Raises:
        OSError: the download failed, or the folder cannot be written.
        ValueError: the file has another digest.
    """
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.with_name(target.name + ".lock")):
                if not target.exists():
                    _download(url, target, digest)
        except (OSError, HTTPException) as error:  # urllib's errors are OSErrors
            raise OSError(_describe_failure(url, target, digest, error)) from error
    verify_digest(target, digest, f"{target}: delete the file and try again; it")
    return target


def resolve_source(source: str) -> Path:
    """Return the local file of a path or a ``file://`` or ``http(s)://`` address, which is downloaded once.

    Raises:
        ValueError: there is no such file, or the scheme is another.
        OSError: the download failed.
    """
    address = urlparse(source)
    path = unquote(address.path)
    if address.scheme in ("http", "https"):
        folder = hashlib.sha256(source.encode()).hexdigest()[:12]  # two addresses may end in one name
        return fetch(source, cache_folder() / "downloads" / folder / (Path(path).name or "file"))
    if "://" in source and address.scheme != "file":
        raise ValueError(f"{source}: give a path or an address that starts with file://, http:// or https://")
    file = Path(path if address.scheme == "file" else source).expanduser()
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    return file


def _download(url: str, target: Path, digest: str) -> None:
    for interrupted in target.parent.glob(f"{glob.escape(target.name)}.*.part"):
        interrupted.unlink()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, files.atomic_write(target) as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with tqdm.wrapattr(response, "read", total=total, desc=target.name, disable=None) as body:
            shutil.copyfileobj(body, file)
        if total is not None and file.tell() != total:
            raise OSError(f"the connection ended after {file.tell()} of {total} bytes")
        file.flush()
        message = f"{url}: try again, or put another copy at {target}; the file"
        verify_digest(Path(file.name), digest, message)


def verify_digest(path: Path, digest: str, message: str) -> None:
    """Check the digest of a file, given as for ``fetch``.

    Raises:
        ValueError: it has another digest; the text starts with ``message``.
    """
    if digest:
        algorithm, _, digits = digest.lower().partition(":")
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()[: len(digits)]
        if actual != digits:
            raise ValueError(f"{message} has the {algorithm} {actual} and not {digits}")


def _describe_failure(url: str, target: Path, digest: str, error: Exception) -> str:
    reason, fix = str(error) or type(error).__name__, "try again"
    if isinstance(error, urllib.error.HTTPError):
        reason = f"the server answers {error.code} {error.reason}"
        error.close()
    elif isinstance(error, urllib.error.URLError):
        reason = str(error.reason)
    elif isinstance(error, OSError) and error.filename:  # of the folder, not of the network
        reason = f"{target.parent} cannot be written ({error.strerror})"
        fix = "choose another folder"
        if target.is_relative_to(cache_folder()):
            fix = "set SEGKIT_CACHE to another folder"
    known = f" ({digest.replace(':', ' ')})" if digest else ""
    return f"cannot download {url}: {reason}; {fix}, or fetch the file{known} and put it at {target}"
