"""The little that is asked of a hub: which revision, which files, fetch them, send a folder; and what went wrong.

`HuggingFace` is the real one; the tests have a folder stand for it.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from lib.errors import InputError

STREAMS = 8  # files that come at a time


class Hub(Protocol):
    """What a hub does; a repository is "owner/name", a revision a commit in full."""

    def revision(self, repo: str, wanted: str | None) -> str:
        """Return the newest revision, or in full the one that is wanted."""

    def files(self, repo: str, revision: str) -> list[str]:
        """Return the paths of the files of a revision."""

    def fetch(self, repo: str, revision: str, names: Sequence[str], folder: Path) -> None:
        """Bring files into a folder, under their paths; those that an earlier attempt brought there are kept."""

    def send(self, repo: str, folder: Path) -> str:
        """Send all of a folder; return the revision that has it."""


class HuggingFace:
    """Repositories of data on the Hugging Face hub; who may write there has logged in with ``hf auth login``."""

    def __init__(self) -> None:
        self.endpoint = os.environ.get("HF_ENDPOINT") or None
        self.api = HfApi(endpoint=self.endpoint)

    def revision(self, repo: str, wanted: str | None) -> str:
        """Return the newest revision, or in full the one that is wanted."""
        with in_words(repo, wanted):
            return self.api.repo_info(repo, repo_type="dataset", revision=wanted).sha

    def files(self, repo: str, revision: str) -> list[str]:
        """Return the paths of the files of a revision."""
        with in_words(repo, revision):
            return self.api.list_repo_files(repo, repo_type="dataset", revision=revision)

    def fetch(self, repo: str, revision: str, names: Sequence[str], folder: Path) -> None:
        """Bring files into a folder; those that an earlier attempt brought there are kept."""
        get = partial(
            hf_hub_download, repo, repo_type="dataset", revision=revision, local_dir=folder, endpoint=self.endpoint
        )
        # By name and not by pattern: a large repository would be searched for every pattern.
        with in_words(repo, revision), ThreadPoolExecutor(STREAMS) as streams:
            try:
                list(streams.map(get, names))
            except BaseException:
                streams.shutdown(cancel_futures=True)
                raise

    def send(self, repo: str, folder: Path) -> str:
        """Send all of a folder to a repository, which is made private if it is new; what is there is not sent again."""
        with in_words(repo):
            self.api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
            self.api.upload_folder(
                repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="Embeddings and heads"
            )
        return self.revision(repo, None)


@contextlib.contextmanager
def in_words(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what a hub's client raises into one sentence."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise InputError(f"{repo} has no revision '{revision}'; leave REVISION out for the newest.") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"There is no repository {repo} on the hub, or it is private and you may not see it; name another with "
            "REPO=owner/name, or log in with `hf auth login`."
        ) from error
    except HFValidationError as error:
        raise InputError(f"'{repo}' is no name of a repository; write REPO=owner/name.") from error
    except InputError:
        raise
    except Exception as error:  # of the hub's client, of HTTP, of the disk: each has errors of its own
        reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:200].rstrip(".")
        raise InputError(f"The hub did not do as asked ({reason}); try again: what came so far is kept.") from error
