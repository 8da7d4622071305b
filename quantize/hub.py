"""The Hugging Face hub: resolve revisions to commits, fetch files at a commit, and report every refusal in one line.

The message depends on the hub's answer; the hub is called unreachable only if it did not answer.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

RepoType = Literal["model", "dataset"]
TIMEOUT_S = 20
"""Longest time to wait for an answer of the hub. Chosen: far longer than an answer takes."""
COMMIT = re.compile("[0-9a-f]{40}")
"""A full commit hash, the only revision that always refers to the same files."""


class HubError(Exception):
    """The hub refused or is unreachable; one line."""

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered
        """Whether the hub refused, so that retrying is useless."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(error: Exception, repo: str, revision: str) -> HubError | None:
    """Return the error for the hub's answer; None if it did not answer."""
    from huggingface_hub import errors

    answer = next((cause for cause in _causes(error) if isinstance(cause, errors.HfHubHTTPError)), None)
    if answer is None:
        return None
    status = answer.response.status_code
    name = f"{repo}@{revision}"
    file = PurePosixPath(answer.response.url.path).name
    by_kind = {
        errors.GatedRepoError: f"{repo} is gated: accept its terms on the hub, then set HF_TOKEN ({status})",
        errors.RevisionNotFoundError: f"{repo} has no revision '{revision}': type one of its branches, tags or commits",
        errors.RemoteEntryNotFoundError: f"{name} has no {file}",
        errors.RepositoryNotFoundError: f"the hub has no public repository {repo}: check the name; if it is private, "
        f"set HF_TOKEN ({status})",
    }
    by_status = {
        401: f"the hub refuses {name} (401): set HF_TOKEN to a token that may read it",
        403: f"the hub refuses {name} (403): set HF_TOKEN to a token that may read it",
        404: f"the hub has no {name} (404): check repository and revision",
    }
    known = next((line for kind, line in by_kind.items() if isinstance(answer, kind)), None)
    line = known or by_status.get(status, f"the hub answered {status} for {name}: try again later")
    return HubError(line, answered=status < 500 and status != 429)


def explain(error: Exception, repo: str, revision: str) -> HubError:
    """Return a one-line error for a failed request of ``repo`` at ``revision``."""
    import httpx
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    refusal = _refusal(error, repo, revision)
    if refusal is not None:
        return refusal
    if isinstance(error, HFValidationError):
        return HubError(f"'{repo}' is not a repository name: type Organisation/Name", answered=True)
    unreachable = (httpx.ConnectError, httpx.TimeoutException, httpx.ProxyError, OfflineModeIsEnabled)
    cause = next((cause for cause in _causes(error) if isinstance(cause, unreachable)), None)
    reason = cause or error
    lines = str(reason).strip().splitlines()
    details = f"{type(reason).__name__}: {lines[0]}" if lines else type(reason).__name__
    if cause is not None:
        return HubError(f"cannot reach the hub for {repo}@{revision} ({details})", answered=False)
    return HubError(f"cannot get {repo}@{revision} from the hub ({details})", answered=False)


@contextlib.contextmanager
def asking(repo: str, revision: str) -> Iterator[None]:
    """Turn the exceptions of huggingface_hub into a :class:`HubError`."""
    import httpx
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        yield
    except (HfHubHTTPError, EntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        raise explain(error, repo, revision) from error


def download(repo: str, revision: str, file: str, repo_type: RepoType = "model") -> Path:
    """Return one file of a repository in the local hub cache, downloading it if necessary.

    It is in the folder ``snapshots/COMMIT``, where COMMIT is the commit of ``revision``. If the cache has the file, the
    hub need not be reachable.

    Raises:
        HubError: the file is unavailable.
    """
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    where: dict[str, Any] = {"revision": revision, "repo_type": repo_type}
    if COMMIT.fullmatch(revision) and isinstance(local := try_to_load_from_cache(repo, file, **where), str):
        return Path(local)
    try:
        with asking(repo, revision):
            # hf_hub_download retries an unresponsive hub for half a minute, so this checks the hub first.
            HfApi().repo_info(repo, timeout=TIMEOUT_S, expand=["sha"], **where)
            return Path(hf_hub_download(repo, file, **where))
    except HubError as error:
        cached = None if error.answered else try_to_load_from_cache(repo, file, **where)
        if not isinstance(cached, str):
            raise
        return Path(cached)


def _cached_file(repo: str, pattern: str) -> tuple[str, str] | None:
    """Return (commit, path) of a data set's only cached file that matches; None without a match or with several."""
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}" / "snapshots"
    paths = [path.relative_to(snapshots) for path in snapshots.glob(f"*/{pattern}")]
    return (paths[0].parts[0], str(PurePosixPath(*paths[0].parts[1:]))) if len(paths) == 1 else None


@functools.cache
def find_dataset_file(repo: str, revision: str, pattern: str) -> tuple[str, str]:
    """Return (commit, path) of a data set's first file, in order of names, that matches a glob over its paths.

    The result is cached per process, so that all jobs of a sweep use the same commit. If the hub is unreachable, a file
    of an earlier run in the hub cache is used.

    Raises:
        HubError: the repository, revision or file does not exist, or the hub is unreachable.
    """
    from huggingface_hub import HfApi

    folder = str(PurePosixPath(pattern).parent)
    options: dict[str, Any] = {"repo_type": "dataset"}
    try:
        with asking(repo, revision):
            commit = HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT_S, expand=["sha"]).sha
            assert commit is not None
            tree = HfApi().list_repo_tree(repo, None if folder == "." else folder, revision=commit, **options)
            paths = sorted(item.path for item in tree)
    except HubError as error:
        cached = None if error.answered else _cached_file(repo, pattern)
        if cached is None:
            raise
        return cached
    matches = [path for path in paths if fnmatchcase(path, pattern)]
    if not matches:
        raise HubError(f"{repo}@{commit} has no file {pattern}", answered=True)
    return commit, matches[0]
