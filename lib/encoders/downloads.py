"""One file from the hub or from a plain address: looked up first, resumed where it was cut off, checked, never run.

The hub is asked what the file is (its revision, size and SHA-256) before a byte is fetched; the bytes then come by
plain HTTP, as `hf_hub_download` begins an interrupted file anew. Only the one file is fetched.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from huggingface_hub import DatasetInfo, HfApi, ModelInfo, hf_hub_url
from tqdm import tqdm

from lib.errors import InputError

TIMEOUT = 30  # seconds without an answer
CHUNK = 2**16  # bytes; what is under way when the connection breaks is lost


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched.

    Attributes
    ----------
    url : str
        Where from.
    origin : str
        The same for people, with the full revision.
    size : int or None
        Bytes, where the manifest or the host says.
    sha256 : str or None
        The same for the checksum.
    revision : str or None
        On the hub, the commit in full.
    """

    url: str
    origin: str
    size: int | None = None
    sha256: str | None = None
    revision: str | None = None


def offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` forbids all downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def on_hub(
    repo: str, repo_type: str, revision: str | None, file: str | None, size: int | None, sha256: str | None
) -> Remote:
    """Look a file up on the Hugging Face hub.

    Parameters
    ----------
    repo, repo_type : str
        Owner and name; "model" or "dataset".
    revision : str or None
        A commit or its beginning; the newest if it is None.
    file : str or None
        Its name; if it is None, the file with the checksum `sha256`.
    size, sha256 : int and str, or None
        What it must be, where that is known.

    Raises
    ------
    InputError
        If the repository has no such revision or file, or the file there is another one.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or None
    hub = HfApi(endpoint=endpoint, token=False)

    def at(commit: str | None) -> ModelInfo | DatasetInfo:
        return hub.repo_info(repo, repo_type=repo_type, revision=commit, files_metadata=True, timeout=TIMEOUT)

    if revision and len(revision) < 40:  # the hub wants it in full: it is the newest, or among those before
        info = at(None)
        if not (info.sha or "").startswith(revision):
            commits = [commit.commit_id for commit in hub.list_repo_commits(repo, repo_type=repo_type)]
            full = next((commit for commit in commits if commit.startswith(revision)), None)
            if full is None:
                raise InputError(f"{repo} has no revision {revision}")
            info = at(full)
    else:
        info = at(revision)
    if revision and not (info.sha or "").startswith(revision):
        raise InputError(f"{repo} answers with the revision {info.sha} instead of {revision}")
    files = {entry.rfilename: entry for entry in info.siblings or []}
    by_checksum = [name for name, entry in files.items() if entry.lfs and entry.lfs.sha256 == sha256]
    name = file or next(iter(by_checksum), None)
    if name not in files:
        wanted = f"file '{file}'" if file else f"file with the SHA-256 {sha256}"
        raise InputError(f"{repo}@{info.sha} has no {wanted}")
    there = files[name].lfs
    if sha256 and there and there.sha256 != sha256:
        raise InputError(f"'{name}' of {repo}@{info.sha} has the SHA-256 {there.sha256}, not that of the manifest")
    if size and files[name].size and files[name].size != size:
        raise InputError(f"'{name}' of {repo}@{info.sha} has {files[name].size:,} bytes, not the manifest's {size:,}")
    return Remote(
        hf_hub_url(repo, name, repo_type=repo_type, revision=info.sha, endpoint=endpoint),
        f"hf {repo_type} {repo}@{info.sha} {name}",
        size or files[name].size,
        sha256 or (there.sha256 if there else None),
        info.sha,
    )


def download(remote: Remote, path: Path) -> None:
    """Fetch a file to `path`: resumed where an earlier attempt was cut off, and in place only when complete and right.

    Raises
    ------
    InputError
        If the file that came is another one; nothing of it is kept.
    OSError
        If the connection fails; what came so far is kept for the next attempt.
    """
    pooch.get_logger().setLevel("WARNING")
    known = f"sha256:{remote.sha256}" if remote.sha256 else None
    try:
        pooch.retrieve(remote.url, known, path.name, path.parent, downloader=Resuming(path, remote.size))
    except (requests.RequestException, InputError):  # some of them are ValueErrors too
        raise
    except ValueError as error:  # pooch's word for a wrong checksum
        raise InputError("what came has another SHA-256 than it must have, and was deleted") from error


class Resuming:
    """A downloader for pooch that goes on where an earlier attempt, of this or another process, was cut off.

    What came so far lies beside the destination in ``.<name>.part``, the host's mark of its version (ETag) in
    ``.<name>.mark``; if the host has another version by now, or cannot resume, the file begins anew.

    Parameters
    ----------
    path : Path
        The destination.
    size : int or None
        Bytes, if known.
    """

    def __init__(self, path: Path, size: int | None) -> None:
        self.size, self.name = size, path.name
        self.part, self.mark = (path.with_name(f".{path.name}.{end}") for end in ("part", "mark"))

    def __call__(self, url: str, output_file: str, _pooch: object, check_only: bool = False) -> None:
        """Fetch `url` to `output_file`, in as many attempts as bring something."""
        while True:
            before = self._have()
            try:
                self._go_on(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if self._have() <= before:
                    raise
        self.part.replace(output_file)
        self._forget()

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)

    def _go_on(self, url: str) -> None:
        have, mark = self._have(), self.mark.read_text(encoding="utf-8") if self.mark.is_file() else ""
        headers = {"Accept-Encoding": "identity"}
        if have and mark:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if "Range" in headers and not resumed and answer.status_code in (206, 416):  # other bytes, or no more
                self._forget()
                return self._go_on(url)
            answer.raise_for_status()
            start = have if resumed else 0
            coming = answer.headers.get("Content-Length", "")
            total = start + int(coming) if coming.isdigit() else self.size
            if self.size and total != self.size:
                self._forget()
                raise InputError(f"the host offers {total:,} bytes, but it must be {self.size:,}")
            if not resumed:
                self._forget()  # never an old part beside a new mark
                self.mark.write_text(answer.headers.get("ETag", ""), encoding="utf-8")
            bar = tqdm(
                desc=self.name, total=total, initial=start, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
            )
            with bar, self.part.open("ab" if resumed else "wb") as file:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total and self._have() != total:
            raise requests.ConnectionError(f"cut off after {self._have():,} of {total:,} bytes")
        return None
