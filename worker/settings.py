"""Settings: one TOML file and `NAMETAG_…` variables, read here and nowhere else.

A variable wins over the file, the file over the default. `NAMETAG_KAFKA__GROUP_ID` is
`group_id` in the file's table `[kafka]`.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.errors import SettingsError

STARTER_CHECKPOINT = Path(__file__).parent.parent / "model" / "starter" / "practice.safetensors"


class Table(BaseModel):
    """A table of the TOML file: an unknown key is an error, since it is a typing mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaTable(Table):
    """The brokers, the topics and the consumer group."""

    bootstrap_servers: str = Field("localhost:9092", description="Brokers, separated by commas.")
    posts_topic: str = "posts"
    entities_topic: str = "entities"
    dead_letters_topic: str = "dead-letters"
    group_id: str = "nametag"
    group_instance_id: str | None = Field(
        None, description="A name that outlives a restart, unlike any other worker's: then no rebalance follows one."
    )
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    transaction_seconds: float = Field(
        15.0, gt=0, description="How long a dead worker's transaction may hold up the readers of its events."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    session_timeout_seconds: float = Field(45.0, gt=0)


class RedisTable(Table):
    """The image cache. Without a URL it is kept in memory."""

    url: SecretStr | None = Field(None, description="redis://, rediss:// or unix://.")
    timeout_seconds: float = Field(0.25, gt=0)


class ImagesTable(Table):
    """How pictures are fetched."""

    choice: Literal["first", "random"] = Field("first", description="Which, where a post has several.")
    allow_origins: frozenset[str] = Field(
        frozenset(), description="Origins exempt from the address guard, such as your own CDN's."
    )
    total_seconds: float = Field(5.0, gt=0)
    max_image_bytes: int = Field(10 * 1024 * 1024, gt=0)
    memory_cache_bytes: int = Field(256 * 1024 * 1024, gt=0)


class BatchTable(Table):
    """The limits of a batch on the device."""

    max_posts: int = Field(32, gt=0)
    max_padded_tokens: int = Field(4096, gt=0)
    max_images: int = Field(16, gt=0)


class ServerTable(Table):
    """The worker's own HTTP server: /metrics, /healthz and /readyz."""

    host: str = "127.0.0.1"
    port: int = Field(9464, ge=0, le=65535, description="0 takes a free port.")


class Settings(BaseSettings):
    """All that a worker can be told."""

    model_config = SettingsConfigDict(env_prefix="NAMETAG_", env_nested_delimiter="__", extra="forbid", frozen=True)

    checkpoint: Path = Field(STARTER_CHECKPOINT, description="The tagger's file.")
    device: str = Field("cpu", description="cpu, cuda or cuda:N.")
    threads: int = Field(0, ge=0, description="The tagger's CPU threads; 0: one fewer than there are cores.")
    include_text: bool = Field(True, description="Whether events carry the post's text.")
    include_attention: bool = Field(False, description="Whether events carry the 7×7 attention.")
    max_post_bytes: int = Field(256 * 1024, gt=0)
    max_in_flight_posts: int = Field(512, gt=0)
    max_in_flight_bytes: int = Field(64 * 1024 * 1024, gt=0)
    shutdown_seconds: float = Field(20.0, gt=0, description="For finishing what is under way at SIGTERM.")
    flush_seconds: float = Field(
        0.1, ge=0, description="The least time between two publications, under load; more is cheaper, and later."
    )
    log_format: Literal["text", "json"] = "text"
    kafka: KafkaTable = KafkaTable()
    redis: RedisTable = RedisTable()
    images: ImagesTable = ImagesTable()
    batch: BatchTable = BatchTable()
    server: ServerTable = ServerTable()

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


def load_settings(path: Path | None = None) -> Settings:
    """The settings in force. Raises `SettingsError` with every field that is wrong, and how to set it."""
    values = _read_toml(path) if path is not None else {}
    _refuse_unknown_variables()
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        origin = f"{path} or NAMETAG_… variables" if path else "NAMETAG_… variables"
        raise SettingsError(f"the settings ({origin}) are wrong: {problems}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from error


def _refuse_unknown_variables() -> None:
    """pydantic-settings overlooks a misspelt top-level variable; a newcomer shouldn't have to find out."""
    known = {f"NAMETAG_{name.upper()}" for name in Settings.model_fields}
    unknown = [
        name
        for name in os.environ
        if name.startswith("NAMETAG_") and not name.startswith("NAMETAG_TEST_") and name.split("__")[0] not in known
    ]
    if unknown:
        raise SettingsError(
            f"no such setting: {', '.join(sorted(unknown))}; the settings are {', '.join(sorted(known))}"
        )
