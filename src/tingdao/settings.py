"""Every option of the service, once: name, type, default and help text.

Values come from, strongest first: command-line flags, environment variables (`TINGDAO_<SECTION>_<OPTION>`, such as
`TINGDAO_SERVER_PORT`), the file `tingdao.toml` (in the working folder, or where `TINGDAO_CONFIG` points), and the
defaults below. Unknown names are errors. Only `app` and `cli` build `Settings`; every other part is handed its section.
"""

from __future__ import annotations

import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from tingdao import cores
from tingdao.destinations import AllowedHost
from tingdao.errors import SetupError
from tingdao.origins import Origin, Source, Trail, allowed, explain, fields, is_table, origins
from tingdao.rates import Rate

ENV_PREFIX = "TINGDAO_"
CONFIG_VARIABLE = "TINGDAO_CONFIG"
KEY_VARIABLE = "TINGDAO_KEY"
"""Not a setting: the key that the command line shows a running service."""
MIB = 1024 * 1024


Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (a GPU where there is one), cpu, cuda, or cuda:1 for the second GPU.",
    ),
]
Dtype = Annotated[
    str,
    Field(
        pattern="^(auto|bfloat16|float16|float32)$",
        description="Type of the numbers: auto, bfloat16, float16 or float32. auto is bfloat16 where the hardware "
        "computes in it, else float16 on a GPU and float32 on a CPU.",
    ),
]

Allowed = Annotated[AllowedHost, BeforeValidator(lambda entry: AllowedHost.parse(str(entry)))]

Upstream = Annotated[str, BeforeValidator(lambda text: server_url(str(text)))]

Requests = Annotated[Rate | None, BeforeValidator(lambda text: text and Rate.requests(text))]
Audio = Annotated[Rate | None, BeforeValidator(lambda text: text and Rate.audio(text))]
Quota = Annotated[Rate | None, BeforeValidator(lambda text: text and Rate.quota(text))]


def server_url(text: str) -> str:
    """A vLLM server's URL without what follows the port or folder. Raises ValueError."""
    parts = urlsplit(text)
    plain = not (parts.query or parts.fragment or parts.username or re.search(r"\s", text))
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError(f"{text!r} is not the URL of a server, such as http://gpu1:8000")
    if parts.port == 0:
        raise ValueError(f"{text!r} has no port that a server can have")
    return text.rstrip("/").removesuffix("/v1")


class Section(BaseModel):
    """One table of `tingdao.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """`[server]`: the HTTP side."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Without keys, only loopback: see `keyless` and docs/operations.md.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    keyless: bool = Field(
        default=False,
        description="Whether to serve other machines while there are no keys: for a gateway in front that has them. "
        "Where there are keys, they are always needed.",
    )
    open_metrics: bool = Field(
        default=False, description="Whether `/metrics` needs no key; else it takes an admin key."
    )
    trusted_proxies: list[IPvAnyNetwork] = Field(
        [],
        description='Addresses or networks of reverse proxies, such as `["127.0.0.1", "10.0.0.0/8"]`, whose '
        "`X-Forwarded-For` says who is calling. It is believed from nobody else.",
    )
    allowed_hosts: list[str] = Field(
        [],
        description='Host names under which the service is reached, such as `["speech.example.com"]`; `*.example.com` '
        "is every name below. Empty: any, but without keys on loopback only addresses and names without a dot, since "
        "a page elsewhere could lead any other name here.",
    )
    max_upload_mib: int = Field(1024, ge=1, description="Largest request body, in MiB.")
    max_in_flight: int = Field(
        64, ge=1, description="Requests worked on, waiting or being received at once; more get 503."
    )
    max_wait_s: float = Field(
        60.0, gt=0, description="Longest that a newcomer may have to wait before work on it begins; else it gets 503."
    )
    max_audio_hours: float = Field(
        48.0, gt=0, description="Hours of audio that may be in work; while there are more, newcomers get 503."
    )
    deadline_s: float = Field(
        0.0,
        ge=0,
        description="Longest that a request may take from its head on, in seconds; then it is cancelled with 504. 0: "
        "any time. A request may ask for less with `X-Timeout: seconds`.",
    )
    receive_timeout_s: float = Field(
        30.0, gt=0, description="Longest wait for the next bytes of an upload, in seconds."
    )
    min_upload_kib_s: float = Field(
        1.0,
        ge=0,
        description="Slowest upload, in KiB per second, beside `receive_timeout_s` in all; slower ones get 408. 0: any "
        "speed.",
    )
    header_timeout_s: float = Field(
        10.0, gt=0, description="Longest that a connection may take over the head of its next request, in seconds."
    )
    max_connections: int = Field(
        1000, ge=10, description="Open connections; past this, the one that has been idle longest is closed."
    )
    drain_timeout_s: float = Field(
        25.0, gt=0, description="How long running requests may finish after a stop signal, in seconds."
    )


class AudioSettings(Section):
    """`[audio]`: decoding and cutting into clips."""

    max_duration_s: float = Field(43_200.0, gt=0, description="Longest recording accepted, in seconds.")
    decoders: int = Field(
        default_factory=lambda: max(2, cores.COUNT),
        ge=1,
        description="Recordings decoded at once, each in its own process. Default: the number of cores, at least 2.",
    )
    decode_timeout_s: float = Field(
        900.0, gt=0, description="Longest that decoding one recording may take, in seconds of wall clock."
    )
    decode_stall_s: float = Field(
        10.0, gt=0, description="A decoder that gives no audio for this long is ended, in seconds."
    )
    decode_memory_mib: int = Field(512, ge=64, description="Memory that one decoder may use beyond its start, in MiB.")
    reserve_mib: int = Field(512, ge=0, description="Disk space always left free for others, in MiB.")
    speech_threshold: float = Field(
        0.4, gt=0, lt=1, description="Speech probability from which on a moment counts as speech."
    )
    clip_limit_s: float = Field(
        30.0, ge=5, le=1200, description="Longest clip, in seconds, where the model allows that much."
    )


class TermSettings(Section):
    """One expected word, with how it may be heard."""

    word: str
    sounds_like: list[str] = []
    weight: float = 1.0


class VocabularySettings(Section):
    """`[vocabulary]`: expected words."""

    lists: dict[str, list[str | TermSettings]] = Field(
        default_factory=dict,
        description="Word lists by name, which requests refer to. A word is a string, or a table with `word`, "
        "`sounds_like` (pinyin without tones, or respelling) and `weight`.",
    )
    always: list[str] = Field(default_factory=list, description="Names of the lists that every request expects.")
    fuzzy: bool = Field(
        default=False,
        description="Take sounds that many speakers do not tell apart (zh and z, n and l, in and ing) as the same.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.always:
            if name not in self.lists:
                raise ValueError(f"always names the list {name!r}, which lists lacks")
        return self


class FetchSettings(Section):
    """`[fetch]`: recordings given as a URL, and every other outgoing request."""

    enabled: bool = Field(True, description="Whether recordings may be given as a URL.")  # noqa: FBT003  the default
    allow: tuple[Allowed, ...] = Field(
        (),
        description='Private hosts that may be reached, such as `["files.internal", "10.0.0.7:9000", '
        '"192.168.0.0/16"]`; without a port: on those of `ports`. An address is opened by whatever name it is reached; '
        "a name is trusted wherever it leads, so name only hosts of zones that are yours.",
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        (80, 443), description="Ports that may be reached on public hosts."
    )
    max_mib: int = Field(1024, ge=1, description="Largest recording fetched, in MiB.")
    timeout_s: float = Field(
        300.0, gt=0, description="Longest that fetching one recording may take, with all tries, in seconds."
    )
    connect_timeout_s: float = Field(
        10.0, gt=0, description="Longest that looking a host up and connecting to it may take, in seconds."
    )
    idle_timeout_s: float = Field(30.0, gt=0, description="Longest wait for the next bytes, in seconds.")
    redirects: int = Field(3, ge=0, le=10, description="Redirects followed, each judged like the first URL.")
    retries: int = Field(
        2, ge=0, le=10, description="More tries after a failure that may pass: no connection, a cut body, 502 to 504."
    )


class LogSettings(Section):
    """`[log]`: what is written about requests, and where."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error.")
    file: Path | None = Field(
        None,
        description="File that takes the log in place of standard error. It is rotated by this service: one file for "
        "one instance, and no logrotate.",
    )
    max_mib: int = Field(64, ge=1, description="Size at which a new file is begun, in MiB.")
    keep: int = Field(9, ge=1, le=999, description="Older files kept; with 9 of 64 MiB a log takes 640 MiB at most.")
    transcripts: bool = Field(
        default=False, description="Whether the text of transcripts is logged: private, so only for finding faults."
    )


class KeysSettings(Section):
    """`[keys]`: who may call; `tingdao keys add NAME` makes a key."""

    database: SecretStr | None = Field(
        None,
        description="Postgres that instances share keys, use and limits in, such as `postgresql://user:password@host/"
        "tingdao` (needs the extra `postgres`). Default: `keys.sqlite` in the state folder, and limits in memory.",
    )
    ticket_s: float = Field(60.0, ge=1, le=3600, description="How long a ticket for a browser is good, in seconds.")


class LimitsSettings(Section):
    """`[limits]`: how much everybody may. A key made with limits of its own has those."""

    key_rate: Requests = Field(None, description="Requests per key, such as `60/minute`. Default: no limit.")
    key_audio_rate: Audio = Field(
        None, description="Audio per key and time, such as `30m/minute`, after which it has to wait. Default: no limit."
    )
    key_quota: Quota = Field(None, description="Audio per key and day (UTC), such as `10h/day`. Default: no limit.")
    address_rate: Requests = Field(
        None,
        description="Requests per client address (IPv6: per /64), such as `300/minute`. Default: no limit. Behind a "
        "proxy, set `server.trusted_proxies` too.",
    )
    address_audio_rate: Audio = Field(
        None, description="Audio per client address and time, such as `2h/hour`. Default: no limit."
    )


class CorsSettings(Section):
    """`[cors]`: pages of other sites that may call this service."""

    origins: list[str] = Field(
        [],
        description='Origins of those pages, such as `["https://app.example.com"]`; `*` is every page there is.',
    )
    credentials: bool = Field(
        default=False,
        description="Whether browsers may send cookies along, for a gateway that wants them; not with `*`. Keys are "
        "sent without.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.credentials and "*" in self.origins:
            raise ValueError("credentials cannot go with the origin '*': any page could act as its visitor; name them")
        for origin in self.origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]*|null", origin):
                raise ValueError(
                    f"{origin!r} is not an origin, such as https://app.example.com (no path, no '*' in it)"
                )
        return self


class EmbeddedSettings(Section):
    """`[embedded]`: Whisper base, the stand-in until Qwen3-ASR is set up."""

    path: Path | None = Field(None, description="Folder with the weights; first place looked at.")
    beam_size: int = Field(5, ge=1, le=10, description="Beams of the search: more is slower and a little better.")
    workers: int = Field(
        2, ge=1, le=64, description="Clips recognised side by side; the cores are shared between them."
    )


class QwenSettings(Section):
    """`[qwen]`: Qwen3-ASR in this process (needs the extra `cpu`, or `qwen` for GPUs)."""

    folders: dict[str, Path] = Field(
        default_factory=dict,
        description="Model names, and the folder of each: Qwen3-ASR in either published layout, as safetensors, or "
        "converted by `tingdao convert`. Its files are read while it serves: replace a folder, never change one.",
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="What computes: torch, openvino, or auto, which is openvino where there is no GPU.",
    )
    device: Device = "auto"
    dtype: str = Field(
        "auto",
        pattern="^(auto|int8|int4|bfloat16|float16|float32)$",
        description="Type of the numbers: int8 and int4 are for openvino, bfloat16 and float16 for torch, float32 for "
        "both. auto is int8 with openvino; with torch it is bfloat16 where the hardware computes in it, else float16 "
        "on a GPU and float32 on a CPU.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Cores that openvino computes on; 0 means all that the process may use."
    )
    width: int = Field(
        0, ge=0, le=1024, description="Clips recognised in one batch; 0 means 64 on a GPU and 16 on a CPU."
    )
    wait_ms: float = Field(
        20.0, ge=0, le=1000, description="How long an idle model waits for company after the first clip, in ms."
    )
    memory_tokens: int = Field(
        0, ge=0, description="Tokens that a batch may hold; 0 means as many as fit a share of the free memory."
    )
    context_tokens: int = Field(4096, ge=0, le=32_768, description="Longest context text, in tokens.")


class VllmSettings(Section):
    """`[vllm]`: Qwen3-ASR on vLLM servers (0.14 or newer), as one model of this service."""

    upstreams: tuple[Upstream, ...] = Field(
        (),
        description='Where the servers are, such as `["http://gpu1:8000", "http://gpu2:8000"]`. Each address behind a '
        'name is a server of its own. With any, `model = "auto"` means them.',
    )
    serve: str = Field(
        "",
        description="Model that this service serves with vLLM servers of its own, which it starts, watches and ends: "
        '`0.6b` or `1.7b` once downloaded, a folder, or the id of a repository on a hub. With any, `model = "auto"` '
        "means it. Default: none.",
    )
    command: str = Field(
        "vllm",
        min_length=1,
        description="Program that starts them; its path where vLLM has an environment of its own, such as "
        "`/opt/vllm/bin/vllm`.",
    )
    arguments: tuple[str, ...] = Field(
        (),
        description='Arguments of `vllm serve`, passed on as they are, such as `["--gpu-memory-utilization", "0.8"]`.',
    )
    devices: tuple[str, ...] = Field(
        (),
        description='GPUs, such as `["0", "1"]`: a server on each; `"0,1"` is one server on two. Default: one server '
        "that takes what vLLM takes.",
    )
    start_timeout_s: float = Field(
        1800.0, gt=0, description="Longest that a server may take to start, with what it downloads, in seconds."
    )
    name: str = Field("qwen3-asr", min_length=1, description="Name of the model in this service.")
    model: str = Field(
        "", description="Name under which the servers serve it (`--served-model-name`). Default: the only one they do."
    )
    key: SecretStr | None = Field(None, description="Key that the servers ask for (`--api-key`).")
    ca: Path | None = Field(
        None, description="File with the authorities that servers on https are signed by. Default: those of the system."
    )
    width: int = Field(64, ge=1, le=4096, description="Clips at each server at once; more wait here.")
    encoding: Literal["auto", "flac", "wav"] = Field(
        "auto",
        description="How clips travel: flac, or wav, which takes less work and 1.7 times the bytes. auto is wav while "
        "all servers that can be used are on this machine, else flac.",
    )
    pass_through_s: float = Field(
        0.0,
        ge=0,
        le=30,
        description="Recordings up to this long go to the servers as they came, in seconds: WAV or FLAC, mono, 16 kHz. "
        "That takes a fraction of the work here, and leaves out the speech detector. 0 is never.",
    )
    context_tokens: int = Field(4096, ge=0, le=32_768, description="Longest context text, in tokens.")
    connect_timeout_s: float = Field(3.0, gt=0, description="Longest that connecting to a server may take, in seconds.")
    idle_timeout_s: float = Field(
        30.0, gt=0, description="Longest wait for a server's next words, in seconds, while no other server is free."
    )
    timeout_s: float = Field(300.0, gt=0, description="Time after which a clip that failed is not tried again.")
    retries: int = Field(3, ge=0, le=20, description="More tries of a clip after servers failed on it.")
    wait_s: float = Field(
        10.0, ge=0, description="How long clips wait for a server to come back while none is up, in seconds."
    )
    canary_s: float = Field(
        15.0, gt=0, description="A server that has nothing to do recognises a known recording this often, in seconds."
    )
    canary_timeout_s: float = Field(20.0, gt=0, description="Longest that it may take over that, in seconds.")
    resolve_s: float = Field(10.0, gt=0, description="How often names of servers are looked up again, in seconds.")

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        if len(self.devices) > 1 and any(argument.partition("=")[0] == "--port" for argument in self.arguments):
            raise ValueError("several servers cannot listen on one --port: leave it out of the arguments")
        return self


class AlignerSettings(Section):
    """`[aligner]`: Qwen3-ForcedAligner, which times words (needs the extra `qwen`)."""

    path: Path | None = Field(
        None, description="Folder of Qwen3-ForcedAligner in either published layout, as safetensors."
    )
    device: Device = "auto"
    dtype: Dtype = "auto"


class ModelsSettings(Section):
    """`[models]`: when models are loaded, and when their memory is given back."""

    preload: tuple[str, ...] = Field(
        ("default",),
        description="Models loaded at the start and kept; the others are loaded by the first request for them. "
        "`default` is the default model and those of the routes.",
    )
    idle_unload_s: float = Field(
        0.0,
        ge=0,
        description="A model that is not in `preload` is unloaded when nobody used it for so long, in seconds; "
        "0 is never.",
    )


class Route(Section):
    """One of the ways that a request may go; it is taken when all its conditions hold.

    max_duration_s: the recording is at most this long. languages: the request names one of these (ISO codes).
    max_waiting: at most so many clips wait for the model.
    """

    model: str
    max_duration_s: float | None = Field(None, gt=0)
    languages: tuple[str, ...] = ()
    max_waiting: int | None = Field(None, ge=0)

    @property
    def conditional(self) -> bool:
        """Whether there are requests that it is not for."""
        return self.max_duration_s is not None or bool(self.languages) or self.max_waiting is not None


class RoutingSettings(Section):
    """`[routing]`: which model gets a request that names none, `auto` or `default`."""

    auto: tuple[Route, ...] = Field(
        (),
        description="Routes in order: tables with `model` and, as conditions, `max_duration_s`, `languages` (ISO "
        "codes, of requests that name one) and `max_waiting` (clips waiting for the model). The first that fits is "
        "taken, and the next ones when its model is down. The last must have no condition. Empty: the default model.",
    )

    @field_validator("auto")
    @classmethod
    def _ends_without_condition(cls, routes: tuple[Route, ...]) -> tuple[Route, ...]:
        if routes and routes[-1].conditional:
            raise ValueError("the last route must have no condition, so that every request has one")
        return routes


class TextSettings(Section):
    """`[text]`: what happens to recognised text. `numbers` and `script` need the extra `text`."""

    punctuation_model: Path | None = Field(
        None,
        description="Folder of a punctuation model: CT-Transformer as FunASR publishes it in ONNX form, such as "
        "iic/punc_ct-transformer_zh-cn-common-vocab272727-onnx. Without one, rules punctuate.",
    )
    numbers: bool = Field(
        default=False, description="Whether spoken numbers are written in figures where a request does not say."
    )
    script: Literal["simplified", "traditional"] | None = Field(
        None,
        description="Characters of Chinese where a request does not say: simplified or traditional. "
        "Default: as the model writes it.",
    )


class Settings(BaseSettings):
    """All sections. Build it with `load`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
    )
    config_file: ClassVar[Path] = Path("tingdao.toml")

    state_dir: Path = Field(
        Path(".tingdao"),
        description="The one folder for everything kept: models, jobs, keys, temporary files.",
    )
    model: str = Field(
        "auto",
        description="Model that serves by default: a name, a folder of Qwen3-ASR, or `auto` for the best one found.",
    )
    aliases: dict[str, str] = Field(
        default_factory=lambda: dict.fromkeys(
            (
                "whisper-1",
                "gpt-transcribe",
                "gpt-4o-transcribe",
                "gpt-4o-mini-transcribe",
                "qwen3-asr",
                "qwen3-asr-flash",
            ),
            "default",
        ),
        description="Model names of other services, and what they mean here; `default` is the default model.",
    )
    log: LogSettings = LogSettings()
    server: ServerSettings = ServerSettings()
    keys: KeysSettings = KeysSettings()
    limits: LimitsSettings = LimitsSettings()
    cors: CorsSettings = CorsSettings()
    audio: AudioSettings = AudioSettings()
    vocabulary: VocabularySettings = VocabularySettings()
    fetch: FetchSettings = FetchSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    qwen: QwenSettings = QwenSettings()
    vllm: VllmSettings = VllmSettings()
    aligner: AlignerSettings = AlignerSettings()
    text: TextSettings = TextSettings()
    models: ModelsSettings = ModelsSettings()
    routing: RoutingSettings = RoutingSettings()

    @property
    def temporary_dir(self) -> Path:
        """Where uploads and decoded audio live while they are worked on."""
        return self.state_dir / "tmp"

    @property
    def models_dir(self) -> Path:
        """Where downloaded and assembled models are kept."""
        return self.state_dir / "models"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, cls.config_file)


def load(**flags: Any) -> Settings:  # noqa: ANN401  flags of any type; pydantic checks them
    """Read flags, environment and file.

    flags: top-level options, and sections as dicts of the options that were given.
    Raises SetupError that names the option at fault, its value, where that came from, and what is allowed.
    """
    kind = _from_file()
    sources = _sources(kind, flags)
    try:
        settings = kind(**flags)
    except ValidationError as error:
        raise SetupError(
            f"These settings are wrong:\n{explain(error, Settings, sources)}\nSee docs/settings.md for all of them."
        ) from None
    return settings


def where_from(**flags: Any) -> list[Origin]:  # noqa: ANN401  as `load`
    """The settings that are not left at their defaults, and where they came from. Raises SetupError."""
    return origins(Settings, _sources(_from_file(), flags))


def variables() -> set[str]:
    """Names of all environment variables that mean something."""
    return {CONFIG_VARIABLE, KEY_VARIABLE, *(_variable(trail) for trail, _ in fields(Settings))}


def _from_file() -> type[Settings]:
    """The settings, from the file that is meant. Raises SetupError."""
    named = os.environ.get(CONFIG_VARIABLE)
    file = Path(named or "tingdao.toml")
    if named and not file.is_file():
        raise SetupError(f"{CONFIG_VARIABLE} points to {file}, which is not a file.")

    class FromFile(Settings):
        config_file = file

    return FromFile


def _sources(kind: type[Settings], flags: dict[str, Any]) -> list[Source]:
    """Everything that settings come from, the strongest first. Raises SetupError for what cannot be read."""
    unknown_names = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in variables())
    if unknown_names:
        close = [f"{name} ({_guess(name)})" for name in unknown_names]
        raise SetupError(f"Unknown setting in the environment: {', '.join(close)}. See docs/settings.md.")
    try:
        environment = EnvSettingsSource(kind)()
    except SettingsError:
        raise SetupError(f"These settings are wrong:\n{_not_json()}\nSee docs/settings.md for all of them.") from None
    try:
        file = TomlConfigSettingsSource(kind, kind.config_file)()
    except (OSError, ValueError) as error:  # the second: not TOML, not UTF-8
        raise SetupError(f"{kind.config_file} cannot be read: {error}") from None
    return [
        Source(lambda trail: f"flag --{trail[-1].replace('_', '-')}", flags),
        Source(lambda trail: f"environment {_variable(trail)}", environment),
        Source(lambda _: str(kind.config_file), file),
    ]


def _not_json() -> str:
    """The variables that are not the lists and tables that they should be."""
    lines = []
    for trail, field in fields(Settings):
        text = os.environ.get(_variable(trail), "")
        try:
            json.loads(text or "null") if is_table(field) else None
        except ValueError as error:
            lines.append(
                f"  {'.'.join(trail)} = {text[:100]}  (environment {_variable(trail)}): it is not JSON ({error})\n"
                f"      Allowed: {allowed(field)}"
            )
    return "\n".join(lines)


def _guess(name: str) -> str:
    close = get_close_matches(name, variables(), 1, 0.7)
    return f"is it {close[0]}?" if close else "there is no such setting"


def _variable(trail: Trail) -> str:
    return f"{ENV_PREFIX}{'_'.join(trail)}".upper()
