"""Every setting, with its meaning, its default and what it may be. How they are read: worker/settings_loading.py."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

STARTER_CHECKPOINT = Path(__file__).parent.parent / "model" / "starter" / "nametag-starter.safetensors"

PREFIX = "NAMETAG_"
BETWEEN = "__"


class Table(BaseModel):
    """A table of the TOML file. An unknown key is an error, a typing mistake; who has no default has an example."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _is_origin(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


class KafkaTable(Table):
    """The brokers, the topics and the consumer group."""

    bootstrap_servers: str = Field("localhost:9092", description="The brokers as host:port, separated by commas.")
    posts_topic: str = Field("posts", description="The topic that posts are read from.")
    entities_topic: str = Field("entities", description="The topic that entity events are written to.")
    dead_letters_topic: str = Field("dead-letters", description="The topic for messages that can't be tagged.")
    group_id: str = Field("nametag", description="The consumer group; workers of one group share the partitions.")
    group_instance_id: str | None = Field(
        None,
        examples=["worker-1"],
        min_length=1,
        description="A name that outlives a restart, unlike any other worker's: then no rebalance follows one.",
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once", description="Whether events and offsets are committed in one transaction, or one after another."
    )
    transaction_seconds: float = Field(
        15.0,
        gt=0,
        description="For how many seconds a dead worker's transaction may hold up the readers of its events.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Whether the brokers are spoken to over TLS (SSL), with a login (SASL), or both."
    )
    sasl_mechanism: str | None = Field(None, examples=["SCRAM-SHA-512"], description="How to log in, such as PLAIN.")
    sasl_username: str | None = Field(None, examples=["tagger"], description="The login's name.")
    sasl_password: SecretStr | None = Field(None, examples=[""], description="The login's password.")
    ssl_cafile: str | None = Field(
        None, examples=["ca.pem"], description="A PEM file of the authorities to trust; without: the system's."
    )
    ssl_certfile: str | None = Field(None, examples=["worker.pem"], description="A PEM file with our own certificate.")
    ssl_keyfile: str | None = Field(None, examples=["worker.key"], description="A PEM file with that one's key.")
    session_timeout_seconds: float = Field(
        45.0, gt=0, description="After how many silent seconds the group gives a worker's partitions to others."
    )
    stall_seconds: float = Field(
        60.0,
        gt=0,
        description="After how many seconds without reading, though there are posts, to start the client anew.",
    )


class RedisTable(Table):
    """The image cache. Without a URL it is kept in memory."""

    url: SecretStr | None = Field(
        None, examples=["redis://localhost:6379/0"], description="Where Redis is: redis://, rediss:// or unix://."
    )
    deletes_url: SecretStr | None = Field(
        None,
        examples=["redis://localhost:6380/0"],
        description="Another Redis, one server that evicts nothing, for the marks of deletes; without: that of url.",
    )
    timeout_seconds: float = Field(
        0.25, gt=0, description="How many seconds an answer may take, before a picture is fetched without the cache."
    )
    cluster: bool = Field(False, description="Whether url names a server of a Redis Cluster; then without sentinels.")
    sentinels: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Sentinels as host:port, a list or separated by commas; the URL's host is then their service."
    )
    max_value_bytes: int = Field(
        2 * 1024 * 1024, gt=0, description="The largest picture to keep, in bytes; what is seen in it is kept anyway."
    )

    @field_validator("sentinels", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_list(value, "hosts", '["host1:26379"]')

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.cluster and self.sentinels:
            raise ValueError("is either a cluster or watched by sentinels, not both")
        if (self.cluster or self.sentinels) and self.url is None:
            raise ValueError("needs its url, too: where the cluster is, or the name of the sentinels' service")
        return self


class ImagesTable(Table):
    """How pictures are fetched."""

    choice: Literal["first", "random"] = Field("first", description="Which picture, where a post has several.")
    allow_origins: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(),
        description="Origins exempt from the address guard, such as your own CDN's: a list, or separated by commas.",
    )
    directory: Path | None = Field(
        None,
        examples=["media"],
        description="A directory with pictures named by their media id or as in their URL, looked for there first.",
    )
    fetch: bool = Field(True, description="Whether pictures that aren't in the directory are fetched.")
    wait_seconds: float = Field(
        6.0,
        gt=0,
        description="How many seconds a post waits for its picture, whatever holds it up, before it goes on without.",
    )
    total_seconds: float = Field(5.0, gt=0, description="How many seconds a fetch may take, redirects included.")
    least_rate: float = Field(
        1024.0, gt=0, description="The slowest average at which a picture may come, in bytes a second."
    )
    per_host: int = Field(8, gt=0, description="The most requests to one host at a time.")
    overall: int = Field(64, gt=0, description="The most requests at a time; well above those to one host.")
    contact: str | None = Field(
        None,
        examples=["ops@example.org"],
        description="Whom hosts may complain to, a URL or a mail address; it goes into the User-Agent.",
    )
    proxy: SecretStr | None = Field(
        None,
        examples=["http://proxy:3128"],
        description="Where all requests go through: http://host:port, or http://user:password@host:port.",
    )
    max_image_bytes: int = Field(10 * 1024 * 1024, gt=0, description="The largest picture to fetch, in bytes.")
    decode_processes: int = Field(
        2,
        gt=0,
        le=64,
        description="How many processes decode pictures, about a hundred a second each; never more than cores.",
    )
    memory_cache_bytes: int = Field(
        256 * 1024 * 1024, gt=0, description="The size of the cache in memory in bytes, where there is no Redis."
    )

    @field_validator("allow_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_list(value, "origins", '["http://127.0.0.1:8000"]')

    @field_validator("directory")
    @classmethod
    def _is_there(cls, directory: Path | None) -> Path | None:
        if directory is not None and not directory.is_dir():
            raise ValueError("must be a directory that is there")
        return directory

    @field_validator("allow_origins")
    @classmethod
    def _are_origins(cls, origins: frozenset[str]) -> frozenset[str]:
        if not all(map(_is_origin, origins)):
            raise ValueError("must be origins such as http://127.0.0.1:8000, each with http:// or https://")
        return origins


def _split_list(value: object, what: str, example: str) -> object:
    """A list as it is; a text as the parts between its commas, or as JSON."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"must be {what} separated by commas, or a JSON list such as {example}") from error
    return [part.strip() for part in value.split(",") if part.strip()]


class BatchTable(Table):
    """The limits of a batch on the device."""

    max_posts: int = Field(32, gt=0, description="The most posts in a batch.")
    max_padded_tokens: int = Field(4096, gt=0, description="The most tokens in a batch, padding included.")
    max_images: int = Field(16, gt=0, description="The most pictures in a batch whose features aren't cached.")


class CheckpointsTable(Table):
    """Where another checkpoint may be named while the worker runs, and what it has to stand before it is used."""

    watch: Path | None = Field(
        None,
        examples=["current.safetensors"],
        description="A file to look at: a checkpoint that is put there, or that it links to, takes over. "
        "Either this or watch_key.",
    )
    watch_key: str | None = Field(
        None,
        examples=["nametag:checkpoint"],
        min_length=1,
        description="A key of Redis that holds the path of the checkpoint to use. Either this or watch.",
    )
    poll_seconds: float = Field(5.0, gt=0, description="How many seconds between two looks.")
    trial_seconds: float = Field(
        300.0, gt=0, description="For how many seconds the checkpoint before is kept, to fall back on if errors rise."
    )
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="The share of the posts that a new checkpoint tags beside the old one, before it."
    )
    shadow_posts: int = Field(500, gt=0, description="How many posts are compared, where there is a shadow_share.")
    least_agreement: float = Field(
        0.5, ge=0, le=1, description="How many of the names must be the same (F1), for the new one to take over."
    )
    least_agreement_on_sample: float = Field(
        0.2,
        ge=0,
        le=1,
        description="How far both must agree on a built-in English sample, beyond chance; 0 asks nothing.",
    )

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if self.watch is not None and self.watch_key is not None:
            raise ValueError("is told by either watch or watch_key, not both")
        return self


class ServerTable(Table):
    """The worker's own HTTP server: /metrics, /healthz, /readyz, /live and /tag."""

    host: str = Field("127.0.0.1", description="The address to listen on; 0.0.0.0 is every one.")
    port: int = Field(9464, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    token: SecretStr | None = Field(
        None,
        examples=[""],
        description="Needed for all but health and metrics, as a bearer token, or by the page's form; 16 or more.",
    )

    @field_validator("token")
    @classmethod
    def _is_token(cls, token: SecretStr | None) -> SecretStr | None:
        # What a header can hold, and nobody guesses.
        if token is not None and not re.fullmatch(r"[!-~]{16,}", token.get_secret_value()):
            raise ValueError("must be 16 or more of ASCII's characters, without spaces")
        return token


class Settings(BaseSettings):
    """All that a worker can be told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=BETWEEN, extra="forbid", frozen=True, allow_inf_nan=False
    )

    checkpoint: Path = Field(STARTER_CHECKPOINT, description="The tagger's file, as `nametag train` makes it.")
    device: str = Field("cpu", description="Where the tagger runs: cpu, cuda or cuda:N.")
    tower_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="What the tower computes in; bf16 is for CUDA devices, faster, and changes a few tags."
    )
    threads: int = Field(0, ge=0, description="The tagger's CPU threads; 0: one fewer than cores, 1 on CUDA.")
    tagger_process: bool = Field(
        True, description="Whether the tagger has a process of its own, which is faster; on a CUDA device it never has."
    )
    include_text: bool = Field(True, description="Whether events carry the post's text.")
    include_attention: bool = Field(False, description="Whether events carry the 7×7 attention.")
    max_post_bytes: int = Field(256 * 1024, gt=0, description="The largest message to read as a post, in bytes.")
    max_post_tokens: int = Field(5000, gt=0, description="The longest post to tag, in tokens.")
    max_in_flight_posts: int = Field(
        1024, gt=0, description="How many posts may be under way, from being read to being acknowledged."
    )
    max_in_flight_bytes: int = Field(
        64 * 1024 * 1024, gt=0, description="How many bytes the posts under way may have together."
    )
    shutdown_seconds: float = Field(
        20.0,
        gt=0,
        description="How many seconds a shutdown may take: what is under way, the last commit, the goodbyes.",
    )
    flush_seconds: float = Field(
        0.25,
        ge=0,
        description="The least seconds between two publications, under load; more is cheaper, and later.",
    )
    trace: bool = Field(
        False, description="Whether posts with a traceparent get spans, sent by OTLP; OTEL_… variables say where."
    )
    log_format: Literal["text", "json"] = Field("text", description="Whether logs are lines of text or of JSON.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least that is logged; each publication is a line of info."
    )
    kafka: KafkaTable = Field(KafkaTable(), description="The brokers, the topics and the consumer group.")
    redis: RedisTable = Field(RedisTable(), description="The image cache.")
    images: ImagesTable = Field(ImagesTable(), description="How pictures are fetched.")
    batch: BatchTable = Field(BatchTable(), description="The limits of a batch on the device.")
    checkpoints: CheckpointsTable = Field(
        CheckpointsTable(), description="Where another checkpoint may be named while the worker runs."
    )
    server: ServerTable = Field(ServerTable(), description="The worker's own HTTP server.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables first, so that they win over the file, which comes in as arguments."""
        return env_settings, init_settings
