"""Precedence, and that what is unknown or wrong is said by name."""

import pytest

from tingdao import checkup, origins, settings
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


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """What is said about a file and variables."""

    def load(file="", **environment):
        (tmp_path / "tingdao.toml").write_text(file)
        for name, value in environment.items():
            monkeypatch.setenv(f"TINGDAO_{name}", value)
        with pytest.raises(SetupError) as caught:
            settings.load()
        return str(caught.value)

    return load


class TestRefusals:
    """Name, value, where it came from, and what is allowed."""

    def test_a_wrong_value_in_the_file(self, refusal):
        assert (
            "  server.port = 70000  (tingdao.toml): Input should be less than or equal to 65535\n"
            "      Allowed: a whole number, at least 0 and at most 65535. Port to listen on; 0 picks a free one.\n"
        ) in refusal("[server]\nport = 70000")

    def test_the_source_that_counts_is_named_and_the_one_it_hides(self, refusal):
        said = refusal("[server]\nport = 1", SERVER_PORT="many")
        assert '  server.port = "many"  (environment TINGDAO_SERVER_PORT, over tingdao.toml): ' in said

    def test_flags_are_named(self):
        with pytest.raises(SetupError, match=r"server\.port = -1  \(flag --port\): "):
            settings.load(server={"port": -1})

    def test_everything_that_is_wrong_is_said_at_once(self, refusal):
        said = refusal("[log]\nlevel = 'loud'\n[server]\nport = -1", AUDIO_DECODERS="0")
        assert all(name in said for name in ("log.level", "server.port", "audio.decoders"))
        assert "one of debug, info, warning, error" in said

    def test_an_entry_of_a_list_is_pointed_at(self, refusal):
        said = refusal('[server]\ntrusted_proxies = ["10.0.0.1", "nonsense"]')
        assert "[1] value is not a valid IPv4 or IPv6 network" in said
        assert "Allowed: a list. Addresses" in said

    def test_settings_that_do_not_go_together_are_all_shown(self, refusal):
        said = refusal("[cors]\norigins = ['*']", CORS_CREDENTIALS="true")
        assert 'cors.origins = ["*"]  (tingdao.toml)' in said
        assert 'cors.credentials = "true"  (environment TINGDAO_CORS_CREDENTIALS)' in said

    @pytest.mark.parametrize("text", ["10.0.0.1", "[10.0.0.1", "a,b"])
    def test_a_list_that_is_not_json(self, refusal, text):
        said = refusal(SERVER_TRUSTED_PROXIES=text)
        assert f"server.trusted_proxies = {text}  (environment TINGDAO_SERVER_TRUSTED_PROXIES): it is not JSON" in said
        assert "Allowed: a list" in said

    def test_unknown_names_are_guessed_and_their_values_kept_back(self, refusal, monkeypatch):
        said = refusal("[keys]\ndatabse = 'postgresql://u:hunter22@h/d'")
        assert "keys.databse  (tingdao.toml): there is no such setting. Is it keys.database" in said
        assert "hunter22" not in said
        monkeypatch.setenv("TINGDAO_KEYS_DATABSE", "postgresql://u:hunter22@h/d")
        with pytest.raises(SetupError, match=r"TINGDAO_KEYS_DATABSE \(is it TINGDAO_KEYS_DATABASE\?\)") as caught:
            settings.load()
        assert "hunter22" not in str(caught.value)

    def test_secrets_and_passwords_are_blanked(self, refusal):
        said = refusal("[keys]\ndatabase = ['postgresql://u:hunter22@h/d']\n[server]\nhost = ['http://u:hunter22@h']")
        assert "keys.database = …" in said
        assert 'server.host = ["http://…@h"]' in said
        assert "hunter22" not in said


def test_where_settings_come_from(monkeypatch, tmp_path):
    assert settings.where_from() == []
    (tmp_path / "tingdao.toml").write_text("model = 'file'\n[server]\nport = 1\n[keys]\ndatabase = 'postgresql://x'\n")
    monkeypatch.setenv("TINGDAO_SERVER_PORT", "2")
    monkeypatch.setenv("TINGDAO_CORS_ORIGINS", '["https://a.example"]')
    assert [str(origin) for origin in settings.where_from(model="flag")] == [
        'model = "flag"  (flag --model, over tingdao.toml)',
        'server.port = "2"  (environment TINGDAO_SERVER_PORT, over tingdao.toml)',
        "keys.database = …  (tingdao.toml)",
        'cors.origins = ["https://a.example"]  (environment TINGDAO_CORS_ORIGINS)',
    ]


def test_every_setting_says_what_it_may_be():
    for trail, field in origins.fields(settings.Settings):
        assert len(origins.allowed(field)) > 15, trail


def test_check_shows_where_settings_come_from(monkeypatch, tmp_path):
    monkeypatch.setenv("TINGDAO_STATE_DIR", str(tmp_path))
    shown = [finding.what for finding in checkup.examine(settings.load())]
    assert f'state_dir = "{tmp_path}"  (environment TINGDAO_STATE_DIR)' in shown
