"""Model hubs: list a repository's files, and fetch them with progress, resume and hash check.

Hugging Face: `GET /api/models/{repository}/tree/{revision}`, `GET /{repository}/resolve/{revision}/{path}`.
ModelScope: `GET /api/v1/models/{repository}/repo/files`, `GET /models/{repository}/resolve/{revision}/{path}`.
Both tell size and hash of each file before it is fetched: the SHA-256 of large files, and on Hugging Face the git
hash of small ones. A file gets its name only when it is whole and its hash is right.

Other addresses for the hubs (mirrors) are given by the variables that the hubs' own tools know, `HF_ENDPOINT` and
`MODELSCOPE_ENDPOINT`, tokens for private repositories by `HF_TOKEN` and `MODELSCOPE_API_TOKEN`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import httpx2
from tqdm import tqdm

from tingdao.errors import SetupError

log = logging.getLogger(__name__)

HubName = Literal["hf", "modelscope"]

RECORD = ".tingdao.json"
"""In a fetched folder: where its files came from, and their hashes."""
WANTED = re.compile(r"[^/]+\.(safetensors|json|txt|bin|model|jinja)")
"""Files at the top of a repository that a model consists of; documents and pictures are left out."""
ANSWER_SECONDS, READ_SECONDS = 15.0, 60.0
TRIES = 4
BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. hash: `sha256:…`, or `git:…` (SHA-1 of git's header and the content)."""

    path: str
    size: int
    hash: str


@dataclass(frozen=True, slots=True)
class Record:
    """Where a folder came from."""

    hub: str
    repository: str
    revision: str
    files: dict[str, str]


class Hub:
    """One hub. Raises SetupError with words for the operator when it is out of reach or says no."""

    def __init__(self, name: HubName, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.name = name
        if name == "hf":
            self._address = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
            token, self._default_revision = os.environ.get("HF_TOKEN"), "main"
        else:
            self._address = os.environ.get("MODELSCOPE_ENDPOINT", "https://modelscope.cn").rstrip("/")
            token, self._default_revision = os.environ.get("MODELSCOPE_API_TOKEN"), "master"
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(READ_SECONDS, connect=answer_seconds),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            follow_redirects=True,
        )

    def list(self, repository: str, revision: str | None) -> tuple[str, list[RemoteFile]]:
        """The revision that was found, and its wanted files."""
        revision = revision or self._default_revision
        if self.name == "hf":
            # The commit that a branch points to now, so that all files are of one commit.
            revision = self._json(f"/api/models/{repository}/revision/{revision}", repository)["sha"]
            entries = self._json(f"/api/models/{repository}/tree/{revision}", repository)
            files = [_hugging_face_file(entry) for entry in entries if entry["type"] == "file"]
        else:
            found = self._json(
                f"/api/v1/models/{repository}/repo/files?Revision={revision}&Recursive=false", repository
            )
            files = [
                RemoteFile(entry["Path"], int(entry["Size"]), f"sha256:{entry['Sha256']}")
                for entry in (found.get("Data") or {}).get("Files") or []
                if entry["Type"] == "blob"
            ]
        wanted = [file for file in files if WANTED.fullmatch(file.path)]
        if not wanted:
            raise SetupError(f"{repository} at {revision} on {self._address} has no model files.")
        return revision, wanted

    def fetch(self, repository: str, revision: str, file: RemoteFile, folder: Path, bar: tqdm[Any]) -> None:
        """Fetch one file into the folder, going on where an earlier try stopped, and check its hash."""
        target, partial = folder / file.path, folder / f"{file.path}.partial"
        if target.is_file() and target.stat().st_size == file.size and file_hash(target, file.hash) == file.hash:
            bar.update(file.size)
            return
        prefix = "" if self.name == "hf" else "/models"
        url = f"{self._address}{prefix}/{repository}/resolve/{revision}/{file.path}"
        for attempt in range(1, TRIES + 1):
            try:
                self._append(url, partial, file.size, bar)
                break
            except httpx2.TransportError as error:
                if attempt == TRIES:
                    raise self._out_of_reach(error) from error
                log.info("download broke and goes on", extra={"file": file.path, "attempt": attempt})
        if file_hash(partial, file.hash) != file.hash:
            partial.unlink()
            raise SetupError(
                f"{file.path} arrived with another hash than {self._address} announced; it was thrown away. "
                "Run the same command again, and use another hub (--from) if it stays so."
            )
        partial.rename(target)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _append(self, url: str, partial: Path, size: int, bar: tqdm[Any]) -> None:
        there = partial.stat().st_size if partial.is_file() else 0
        if there > size:
            partial.unlink()
            there = 0
        if there == size:
            bar.update(size)
            return
        with self._client.stream("GET", url, headers={"Range": f"bytes={there}-"} if there else {}) as response:
            self._check(response, url)
            if response.status_code != httpx2.codes.PARTIAL_CONTENT:
                there = 0  # the server sends everything anew
            begun = bar.n
            bar.update(there)
            try:
                with partial.open("ab" if there else "wb") as stream:
                    # In the pieces that come, not in blocks: the rest of a block would be lost with the connection.
                    for block in response.iter_raw():
                        stream.write(block)
                        bar.update(len(block))
            except httpx2.TransportError:
                bar.update(begun - bar.n)  # the next try counts what is there
                raise

    def _json(self, path: str, repository: str) -> Any:  # noqa: ANN401  JSON
        try:
            response = self._client.get(f"{self._address}{path}")
        except httpx2.TransportError as error:
            raise self._out_of_reach(error) from error
        self._check(response, repository)
        return response.json()

    def _check(self, response: httpx2.Response, what: str) -> None:
        if response.status_code in {401, 403, 404}:
            raise SetupError(
                f"{self._address} has no {what}, or does not show it to you ({response.status_code}). "
                "Check the name and the revision; private models need HF_TOKEN or MODELSCOPE_API_TOKEN."
            )
        if response.is_error:
            raise SetupError(f"{self._address} answered {response.status_code} for {what}. Try again later.")

    def _out_of_reach(self, error: Exception) -> SetupError:
        other = "modelscope" if self.name == "hf" else "hf"
        return SetupError(
            f"{self._address} cannot be reached ({type(error).__name__}). Try --from {other}, or fetch the folder "
            "on another machine and give its path wherever a model name is taken."
        )


def download(
    name: HubName,
    repository: str,
    folder: Path,
    *,
    revision: str | None = None,
    only: frozenset[str] | None = None,
    answer_seconds: float = ANSWER_SECONDS,
) -> Record:
    """Fetch a repository's model files into a folder, with a progress bar; what is there and right is kept.

    only: names of the files wanted, or None for all that belong to a model.
    answer_seconds: how long the hub may take to accept the connection.
    Raises SetupError.
    """
    with _opened(Hub(name, answer_seconds=answer_seconds)) as hub:
        revision, files = hub.list(repository, revision)
        if only is not None:
            files = [file for file in files if file.path in only]
        folder.mkdir(parents=True, exist_ok=True)
        with tqdm(
            total=sum(file.size for file in files),
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            desc=PurePosixPath(repository).name,
            disable=None,
        ) as bar:
            for file in files:
                hub.fetch(repository, revision, file, folder, bar)
    record = Record(name, repository, revision, {file.path: file.hash for file in files})
    (folder / RECORD).write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    return record


def verify(folder: Path) -> list[str] | None:
    """What is wrong with a fetched folder, in words; empty when all is right, None when it was not fetched here."""
    record = folder / RECORD
    if not record.is_file():
        return None
    wrong = []
    for name, expected in json.loads(record.read_text(encoding="utf-8"))["files"].items():
        file = folder / name
        if not file.is_file():
            wrong.append(f"{name} is missing")
        elif file_hash(file, expected) != expected:
            wrong.append(f"{name} is not the file that was fetched (its hash differs)")
    return wrong


def file_hash(file: Path, like: str) -> str:
    """The hash of a file, of the same kind as `like`."""
    kind = like.partition(":")[0]
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {file.stat().st_size}\0".encode())  # noqa: S324  git's own hash
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _hugging_face_file(entry: dict[str, Any]) -> RemoteFile:
    large = entry.get("lfs")
    return RemoteFile(entry["path"], int(entry["size"]), f"sha256:{large['oid']}" if large else f"git:{entry['oid']}")


@contextmanager
def _opened(hub: Hub) -> Iterator[Hub]:
    try:
        yield hub
    finally:
        hub.close()
