"""Precedence, and that what is unknown or wrong is said by name."""

import pytest

from tingdao import settings
from tingdao.errors import SetupError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults():
    assert settings.load().server.port == 8000
    assert settings.load().model == "auto"


def test_flags_beat_environment_beats_file(monkeypatch, tmp_path):
    (tmp_path / "tingdao.toml").write_text("model = 'file'\n[server]\nport = 1\nhost = 'file'\nmax_in_flight = 3\n")
    assert settings.load().server.port == 1
    monkeypatch.setenv("TINGDAO_SERVER_PORT", "2")
    monkeypatch.setenv("TINGDAO_SERVER_HOST", "env")
    assert settings.load().server.port == 2
    loaded = settings.load(server={"port": 3})
    assert (loaded.server.port, loaded.server.host, loaded.server.max_in_flight) == (3, "env", 3)
    assert loaded.model == "file"


def test_options_with_underscores_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("TINGDAO_SERVER_MAX_UPLOAD_MIB", "7")
    monkeypatch.setenv("TINGDAO_STATE_DIR", "/elsewhere")
    assert settings.load().server.max_upload_mib == 7
    assert str(settings.load().state_dir) == "/elsewhere"


def test_the_file_can_be_elsewhere(monkeypatch, tmp_path):
    (tmp_path / "other.toml").write_text("model = 'other'")
    monkeypatch.setenv("TINGDAO_CONFIG", str(tmp_path / "other.toml"))
    assert settings.load().model == "other"
    monkeypatch.setenv("TINGDAO_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(SetupError, match="not a file"):
        settings.load()


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("colour = 'red'", "colour"),
        ("[server]\ncolour = 'red'", "server.colour"),
        ("[server]\nport = 'many'", "server.port"),
        ("[server]\nport = 70000", "server.port"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("this is not toml", "cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, file, named):
    (tmp_path / "tingdao.toml").write_text(file)
    with pytest.raises(SetupError, match=named):
        settings.load()


@pytest.mark.parametrize("name", ["COLOUR", "SERVER_COLOUR", "SERVER"])
def test_unknown_variables_are_named(monkeypatch, name):
    monkeypatch.setenv(f"TINGDAO_{name}", "red")
    with pytest.raises(SetupError, match=f"(?i){name.split('_')[-1]}"):
        settings.load()
