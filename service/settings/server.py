"""All settings of the server, their defaults, and what they demand of each other."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.settings.addresses import host_name, web_origin
from service.settings.backup import BackupSetting
from service.settings.keys import KeySetting
from service.settings.personalizer import PersonalizerSetting


class Settings(BaseModel):
    """Every setting of the server; `load_settings` reads them."""

    # Without the input in errors, a key pasted in the wrong place stays out of the log.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        Path("bandexa-data"), description="Directory of everything that is stored."
    )
    store: str | None = Field(
        None,
        pattern=r"^postgres(ql)?://\S+$",
        description="URL of a PostgreSQL database that holds log, decisions and rewards, such as"
        " postgresql://bandexa@db.example/bandexa; a file in data_dir when not given. Models and"
        " replays stay in data_dir. It needs the extra `postgres`; a password is best given as"
        " PGPASSWORD or in ~/.pgpass. See [postgres](postgres.md).",
    )
    snapshot_store: str | None = Field(
        None,
        pattern=r"^(directory|postgresql|file:///\S+|(s3|gs|az)://\S+)$",
        description="With `store`: where the models (snapshots) are that several servers and"
        " trainers share: postgresql (in the database), s3://BUCKET/PREFIX (or gs://, az://; needs"
        " the extra `blobs`), or file:///DIRECTORY, which all machines have mounted; directory: in"
        " data_dir alone. When not given, what the database says. See"
        " [scaling](scaling.md#snapshots-and-trainers).",
    )
    standby: bool = Field(
        False,
        description="With `store`: where another server has the database, wait until it ends, and"
        " serve then. Meanwhile /healthz answers 200 and all else 503. It needs `snapshot_store`,"
        " the same for all. See [postgres](postgres.md#a-second-server-that-stands-by).",
    )
    trainer: Literal["child", "elsewhere"] = Field(
        "child",
        description="child: the server starts its trainer; elsewhere: it starts none, and"
        " `bandexa trainer` trains, on any machine. That needs `store`, and snapshots that are"
        " shared.",
    )
    trainer_lease_s: float = Field(
        15.0,
        ge=1.0,
        le=3600.0,
        description="Time after which another trainer takes over the round of one that has ended,"
        " of `bandexa trainer`.",
    )
    replay_dir: Path | None = Field(
        None, description="Directory of the disk replays; inside data_dir when not given."
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that answer selects and rewards. More than one share one store,"
        " which a further process writes; see [scaling](scaling.md).",
    )
    servers: int = Field(
        1,
        ge=1,
        le=64,
        description="How many servers may share the database of `store`. With more than one, each"
        " answers selects and rewards, and one, the keeper, does what must happen once. It needs"
        " `snapshot_store`, the same for all. See"
        " [scaling](scaling.md#servers-that-share-a-database).",
    )
    server_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="Where the other servers reach this one, such as http://10.0.0.7:8080; its"
        " address and port when not given.",
    )
    lease_s: float = Field(
        10.0,
        ge=1.0,
        le=300.0,
        description="With several servers: how long the keeper may be away before another server"
        " takes its place.",
    )
    process_timeout_s: float = Field(
        30.0,
        ge=1.0,
        le=3600.0,
        description="With several workers: a process whose event loop has not turned for so many"
        " seconds is killed and started again.",
    )
    durability: Literal["commit", "barrier", "os"] = Field(
        "commit",
        description="commit: answers wait for the disk and survive power loss; barrier: the same"
        " with `store`, where groups commit at once and their answers wait for one commit that all"
        " of them share; os: answers survive a killed process.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device that trains encoders; auto uses CUDA when there is a GPU."
    )
    service_threads: int = Field(1, ge=1, description="Torch threads of the serving process.")
    trainer_threads: int = Field(1, ge=1, description="Threads of the trainer process.")
    trainer_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share a training round: each takes its part of the rows, on a"
        " GPU of its own where there are GPUs; see [scaling](scaling.md).",
    )
    trainer_niceness: int = Field(
        10,
        ge=0,
        le=19,
        description="Niceness of the trainer process; a higher one yields more to others.",
    )
    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest request body.")
    max_snapshot_bytes: int = Field(1 << 30, ge=1024, description="Largest imported snapshot.")
    max_elements: int = Field(
        4_000_000,
        ge=1024,
        description="Most values (numbers, texts, lists and maps) in a body.",
    )
    max_nesting: int = Field(
        32, ge=16, le=512, description="Deepest nesting of lists and maps in a body."
    )
    max_in_flight: int = Field(
        1024, ge=1, description="Most requests under way at once; others get 503."
    )
    max_bytes_in_flight: int = Field(
        256 << 20,
        ge=1024,
        description="Most bytes of all bodies under way at once; further ones get 503. Bodies up to"
        " 64 KiB, of which `max_in_flight` bounds the number, and imported snapshots do not count:"
        " those share `max_snapshot_bytes`. One body of `max_body_bytes` always fits.",
    )
    body_timeout_s: float = Field(
        60.0,
        gt=0.0,
        le=3600.0,
        description="Time that a body may take to arrive; ten times as much for a snapshot.",
    )
    keep_alive_s: float = Field(
        75.0,
        ge=1.0,
        le=3600.0,
        description="Time after which a connection without requests is closed. It should be longer"
        " than that of a proxy in front, which would send a request into the closing connection.",
    )
    head_timeout_s: float = Field(
        20.0,
        ge=1.0,
        le=3600.0,
        description="Time that the line and headers of a request may take to arrive, from the"
        " connection or, on one that was used before, from their first byte.",
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        description="Most connections; beyond them those that wait for their client are closed."
        " When not given, what the limit of open files leaves (all but 128, but at least half), and"
        " at most max_in_flight or 256, whichever is more.",
    )
    drain_s: float = Field(
        0.0,
        ge=0.0,
        le=3600.0,
        description="Time after SIGTERM in which /readyz answers 503 while requests are served as"
        " before, so that load balancers notice.",
    )
    grace_s: float = Field(
        10.0,
        ge=0.0,
        le=3600.0,
        description="Time that requests under way have to end, after SIGTERM and drain_s.",
    )
    keys: tuple[KeySetting, ...] | None = Field(
        None, min_length=1, description="API keys: tables of name, sha256 and scopes."
    )
    keys_file: Path | None = Field(None, description="TOML file with more `keys`.")
    allow_anonymous: bool = Field(
        False, description="Listen on any address without keys: every caller may do everything."
    )
    tls_certificate: Path | None = Field(
        None,
        description="PEM file of a certificate, its chain behind it: the server speaks TLS alone."
        " It is read anew within seconds of a change.",
    )
    tls_key: Path | None = Field(
        None, description="PEM file of the key of `tls_certificate`, without a password."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Names that the server answers to beside localhost, such as bandexa.example:"
        " those under which a proxy in front passes requests on. Where it is empty, a server with"
        " keys on a network address answers to any name. A JSON list in the environment.",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Origins, such as https://shop.example, whose web pages may call this server"
        " beside its own: where a proxy in front changes the Host. A JSON list in the environment.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        ("127.0.0.1", "::1"),
        description="Addresses and networks of proxies, such as 10.0.0.0/8, whose"
        " `X-Forwarded-For` names the client in the audit log. A JSON list in the environment; []:"
        " none is believed.",
    )
    max_inline_bytes: int = Field(
        1 << 16,
        ge=0,
        description="Features of inline candidates are stored with a decision up to this size;"
        " without them it cannot be explained.",
    )
    max_challengers: int = Field(
        3, ge=0, le=16, description="Most challengers of a bandit, which share an error of 5 %."
    )
    max_rewards_per_decision: int = Field(
        10_000,
        ge=1,
        description="Rewards that a decision takes, whatever their status; further ones get 422.",
    )
    encode_batch: int = Field(
        16, ge=1, description="Most contexts that a slow encoder (a ResNet) encodes together."
    )
    encode_wait_ms: float = Field(
        2.0, ge=0.0, le=1000.0, description="Time that such a batch waits to be filled."
    )
    encode_queue: int = Field(
        256, ge=1, description="Most contexts that wait for slow encoders; others get 503."
    )
    keep_snapshots: int = Field(
        3, ge=2, description="Newest snapshots stored per bandit, however old or large they are."
    )
    keep_snapshots_h: float = Field(
        24.0,
        ge=0.0,
        description="Snapshots that decisions of the last so many hours refer to are stored as"
        " well, so that these decisions can be explained.",
    )
    keep_snapshots_bytes: int = Field(
        512 << 20,
        ge=0,
        description="While the snapshots of a bandit have more bytes than this, only the newest"
        " `keep_snapshots` and the imported ones are safe: the oldest of the others are removed.",
    )
    max_store_bytes: int | None = Field(
        None,
        ge=1 << 20,
        description="Above this size of the database, the oldest decisions are removed.",
    )
    max_age_days: float | None = Field(
        None, gt=0.0, description="Decisions older than this are removed."
    )
    learn_stale_s: float = Field(
        900.0,
        gt=0.0,
        description="Time without progress in training after which /learnz raises an alarm.",
    )
    trainer_hung_s: float = Field(
        600.0,
        ge=1.0,
        description="Time without a sign of work, in a round or as it starts, after which the"
        " trainer process is ended and started anew.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="json: lines for machines; text: for people."
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="Address of an OpenTelemetry receiver (OTLP over HTTP), such as"
        " http://127.0.0.1:4318, which gets traces. Needs the extra `otel`.",
    )
    trace_ratio: float = Field(
        1.0,
        ge=0.0,
        le=1.0,
        description="Share of the requests that are traced, of those whose `traceparent` does not"
        " say whether they are.",
    )
    encoders: dict[str, str] = Field(
        default_factory=dict,
        description='Own encoders by name: "package.module:Class" of an EncoderModule.',
    )
    weights: dict[str, Path] = Field(
        default_factory=dict,
        description="Weight files by name, safetensors or torchvision .pth, for the parameter"
        " `weights` of an encoder.",
    )
    bandits: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Bandits that the start creates if they are missing: tables as `bandexa"
        " schema` describes them.",
    )

    personalizer: PersonalizerSetting = Field(
        default_factory=PersonalizerSetting,
        description="Calls for clients of Azure Personalizer: a table of `enabled`, `create`,"
        " `bandit` and `keys`; see [personalizer](personalizer.md).",
    )

    backup: BackupSetting = Field(
        default_factory=BackupSetting,
        description="Scheduled backups: a table of `folder`, `every_h` or `at`, `keep`, `verify`;"
        " see [backup](backup.md#scheduled-backups).",
    )

    @model_validator(mode="after")
    def _backups_elsewhere(self) -> Self:
        folder = self.backup.folder
        if folder is not None and folder.resolve().is_relative_to(self.data_dir.resolve()):
            raise ValueError("backup.folder: must not be inside of data_dir")
        return self

    @model_validator(mode="after")
    def _shared_by_a_database(self) -> Self:
        if self.store is None and self.snapshot_store not in (None, "directory"):
            raise ValueError("snapshot_store: needs `store`, whose database has the register")
        if self.trainer == "elsewhere" and self.store is None:
            raise ValueError("trainer: elsewhere needs `store`, a database that trainers read")
        if self.trainer == "elsewhere" and self.snapshot_store == "directory":
            raise ValueError(
                "trainer: elsewhere needs a `snapshot_store` that is shared, such as postgresql"
            )
        return self

    @model_validator(mode="after")
    def _standby_finds_snapshots(self) -> Self:
        if self.standby and self.store is None:
            raise ValueError("standby: needs `store`; a file has one server")
        if self.standby and self.snapshot_store in (None, "directory"):
            raise ValueError(
                "standby: needs `snapshot_store` other than directory, where each server finds the"
                " snapshots of the other"
            )
        return self

    @model_validator(mode="after")
    def _barrier_is_of_a_database(self) -> Self:
        if self.durability == "barrier" and self.store is None:
            raise ValueError(
                "durability: barrier needs `store`; a file commits one group at a time"
            )
        return self

    @model_validator(mode="after")
    def _servers_find_each_other(self) -> Self:
        if self.servers == 1:
            return self
        if self.store is None:
            raise ValueError("servers: more than one share a database: set `store` to its URL")
        if self.workers > 1:
            raise ValueError(
                "servers: a server that shares its database has one worker: start several servers"
                " instead, each at its port"
            )
        if self.standby:
            raise ValueError("servers: one of several takes over by itself, without `standby`")
        if self.snapshot_store in (None, "directory"):
            raise ValueError(
                "servers: needs `snapshot_store` other than directory, where each server finds the"
                " snapshots of the keeper"
            )
        return self

    @model_validator(mode="after")
    def _size_of_a_file(self) -> Self:
        if self.store is not None and self.max_store_bytes is not None:
            raise ValueError(
                "max_store_bytes: it bounds a file, and `store` is a database, whose tables do not"
                " shrink by what is removed: use max_age_days"
            )
        return self

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise ValueError(f"{missing}: tls_certificate and tls_key belong together")
        return self

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(host_name, names))

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"{proxy!r} is no address and no network: {error}") from None
        return proxies

    @field_validator("allowed_origins")
    @classmethod
    def _web_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(web_origin, origins))

    @property
    def aggregates(self) -> Path:
        """The file of the dashboard's aggregates: derived, and rebuilt where it is missing."""
        return self.data_dir / "dashboard.db"

    @property
    def database(self) -> Path:
        """The database file."""
        return self.data_dir / "bandexa.db"

    @property
    def snapshots(self) -> Path:
        """The directory of all snapshots, one directory per bandit uid."""
        return self.data_dir / "snapshots"

    @property
    def replays(self) -> Path:
        """The directory of all disk replays, one directory per bandit uid."""
        return self.replay_dir or self.data_dir / "replay"
