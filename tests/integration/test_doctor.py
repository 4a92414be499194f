"""`nametag doctor` against a real Kafka with TLS, logins and rights."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaConsumer, KafkaProducer

from consumers.checks import Check
from consumers.kafka_checks import check_kafka
from consumers.kafka_cluster_checks import KafkaNeeds
from consumers.kafka_commands import cleanup_command
from consumers.kafka_connection import KafkaConnection
from consumers.network_checks import Server
from tests.certificates import Authority, Pair
from tests.integration.guarded_broker import Guarded
from worker.cli import main

NEEDS = KafkaNeeds(transactional_id="nametag-doctor")
GOOD = {"kafka.dns", "kafka.tcp", "kafka.version", "kafka.login", "kafka.brokers", "kafka.advertised", "kafka.topics",
        "kafka.rights", "kafka.group", "kafka.transactions"}  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority for the certificates of this module."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(authority: Authority) -> Iterator[Guarded]:
    """One broker with all kinds of listeners."""
    broker = Guarded(authority)
    try:
        yield broker
    finally:
        broker.stop()


def login(user: str, password: str = "", mechanism: str = "PLAIN") -> dict[str, str]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": mechanism,
        "sasl_username": user,
        "sasl_password": password or f"right-{user}",
    }


def examine(connection: KafkaConnection, needs: KafkaNeeds = NEEDS) -> list[Check]:
    began = time.monotonic()
    checks = check_kafka(connection, needs, seconds=25)
    assert time.monotonic() - began < 27
    return checks


def failed(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.state == "fail"]


def only_failure(checks: list[Check]) -> Check:
    (check,) = failed(checks)
    return check


def test_all_is_well_where_all_is_there(
    kafka_bootstrap: str,
    redis_url: str,
    topics: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command on the services of the tests: nothing fails, and it exits 0."""
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("NAMETAG_KAFKA__POSTS_TOPIC", topics.posts)
    monkeypatch.setenv("NAMETAG_KAFKA__ENTITIES_TOPIC", topics.entities)
    monkeypatch.setenv("NAMETAG_KAFKA__DEAD_LETTERS_TOPIC", topics.dead_letters)
    monkeypatch.setenv("NAMETAG_REDIS__URL", redis_url)
    monkeypatch.setenv("NAMETAG_THREADS", "1")
    monkeypatch.setenv("NAMETAG_SERVER__PORT", "0")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"{topics.posts} has 4 partitions" in told
    assert told.splitlines()[-1].startswith("ready")


def test_a_user_with_the_rights_of_a_worker_is_well(guarded: Guarded) -> None:
    """No more than those is asked for; what it may not be told is skipped, not failed."""
    checks = examine(guarded.connection("LOGIN", **login("tagger")))
    assert not failed(checks)
    assert {check.name for check in checks if check.state == "ok"} >= GOOD
    assert {check.name for check in checks if check.state == "skipped"} == {
        "kafka.tls", "kafka.cleanup", "kafka.limits", "kafka.clock",
    }  # fmt: skip


def test_an_administrator_is_told_limits_and_time(guarded: Guarded) -> None:
    """Who may ask is told more; timeouts beyond what the broker allows are found."""
    checks = {check.name: check for check in examine(guarded.connection("PLAINTEXT"))}
    assert checks["kafka.limits"].state == checks["kafka.clock"].state == "ok"
    short = only_failure(examine(guarded.connection("PLAINTEXT"), replace(NEEDS, session_timeout_ms=10)))
    assert (short.name, short.fix) == ("kafka.limits", "set kafka.session_timeout_seconds within that")
    long = only_failure(examine(guarded.connection("PLAINTEXT"), replace(NEEDS, transaction_timeout_ms=10**9)))
    assert long.fix == "set kafka.transaction_seconds to 900 or less"


def test_each_missing_right_is_told_with_what_grants_it(guarded: Guarded) -> None:
    """Seeing a topic isn't reading it; a topic that may not be seen, the group and transactions are told, too."""
    checks = failed(examine(guarded.connection("LOGIN", **login("weak"))))
    assert [(check.name, check.seen.split(" may not ")[1], check.fix.split(" (")[0]) for check in checks] == [
        ("kafka.rights", "read the topic posts", "allow this user Read on the topic posts"),
        ("kafka.rights", "write the topic entities", "allow this user Write on the topic entities"),
        ("kafka.topics", "be seen by this user", "allow this user Write on the topic dead-letters"),
        ("kafka.group", "join the group nametag", "allow this user Read on the group nametag"),
        (
            "kafka.transactions",
            "use transactions as nametag-doctor",
            "allow this user Write on the transactional id nametag-doctor",
        ),
    ]


def test_a_missing_topic_is_told(guarded: Guarded) -> None:
    """Each by its setting; it is not created by the question."""
    needs = replace(NEEDS, posts_topic="tweets", entities_topic="no topic")
    for _ in range(2):
        missing, wrong = failed(examine(guarded.connection("PLAINTEXT"), needs))
        assert (missing.name, missing.seen) == ("kafka.topics", "there is no topic tweets")
        assert re.fullmatch("create it with `.+`, or set kafka.posts_topic to another", missing.fix)
        assert wrong.fix == "correct kafka.entities_topic"


@pytest.mark.parametrize("listener", ["PLAINTEXT", "SECURELOGIN"])
def test_the_command_that_creates_a_topic_does(guarded: Guarded, listener: str) -> None:
    """In a shell, as it is told, in plain text and with TLS and a login, whose password isn't in it."""
    kind: dict[str, str] = {}
    if listener == "SECURELOGIN":
        kind = {**login("tagger"), "security_protocol": "SASL_SSL", "ssl_cafile": str(guarded.authority.certificate)}
    connection = guarded.connection(listener, **kind)
    # The user may write what begins so; to create it, too, is what this test gives him.
    topic = f"posts-{uuid4().hex[:8]}"
    guarded.allow_creation("tagger", "posts")
    missing = only_failure(examine(connection, replace(NEEDS, posts_topic=topic)))
    command = missing.fix.split("`")[1]
    assert "right-tagger" not in command
    environment = {**os.environ, "NAMETAG_KAFKA__SASL_PASSWORD": "right-tagger"}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not failed(examine(connection, replace(NEEDS, posts_topic=topic)))


def test_a_topic_that_keeps_the_events_of_deleted_posts_is_told(guarded: Guarded) -> None:
    """The command for a missing topic of events makes one that forgets them; a wrong policy is told, and mended."""
    connection = guarded.connection("PLAINTEXT")
    needs = replace(NEEDS, entities_topic=f"entities-{uuid4().hex[:8]}")

    def cleanup() -> Check:
        return next(check for check in examine(connection, needs) if check.name == "kafka.cleanup")

    def run(command: str) -> None:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    assert cleanup().seen == "not tried, for kafka.topics failed"
    run(only_failure(examine(connection, needs)).fix.split("`")[1])
    assert cleanup().state == "ok"
    server = Server("127.0.0.1", guarded.ports["PLAINTEXT"], "kafka.bootstrap_servers")
    for policy, told in (("delete", "the events of deleted posts stay"), ("compact", "its events stay for ever")):
        run(cleanup_command(connection, server, needs.entities_topic, policy))
        wrong = cleanup()
        assert wrong.state == "warn" and told in wrong.seen
        run(wrong.fix.split("`")[1])
        assert cleanup().state == "ok"


def test_a_transaction_under_way_is_left_alone(guarded: Guarded) -> None:
    """The questions about transactions and the group are refused before they do anything, whoever is at work."""
    address = f"127.0.0.1:{guarded.ports['PLAINTEXT']}"
    producer = KafkaProducer(bootstrap_servers=address, transactional_id=NEEDS.transactional_id)
    member = KafkaConsumer("posts", bootstrap_servers=address, group_id=NEEDS.group_id)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("entities", b"before").get(timeout=20)
        member.poll(timeout_ms=5000)
        before = member._coordinator.generation()
        assert before is not None
        assert not failed(examine(guarded.connection("PLAINTEXT")))
        producer.send("entities", b"after").get(timeout=20)
        producer.commit_transaction()
        member.poll(timeout_ms=500)
        assert member._coordinator.generation() == before
    finally:
        producer.close(timeout=5)
        member.close(autocommit=False)


def test_a_wrong_login_is_told(guarded: Guarded) -> None:
    """A password, a mechanism that isn't offered, one that nobody has, none at all, and one too many."""
    wrong = only_failure(examine(guarded.connection("LOGIN", **login("tagger", "hush"))))
    assert (wrong.name, wrong.fix) == ("kafka.login", "correct kafka.sasl_username and kafka.sasl_password")
    assert "hush" not in str(wrong)
    other = only_failure(examine(guarded.connection("LOGIN", **login("tagger", mechanism="SCRAM-SHA-512"))))
    assert other.seen.endswith("offers PLAIN, SCRAM-SHA-256, and not SCRAM-SHA-512")
    assert other.fix == "set kafka.sasl_mechanism to PLAIN or SCRAM-SHA-256"
    for user, password in (("tagger", "hush"), ("nobody", "right-tagger")):
        scram = login(user, password, mechanism="SCRAM-SHA-256")
        refused = only_failure(examine(guarded.connection("LOGIN", **scram)))
        assert refused.seen.endswith(f"refuses the login of {user} by SCRAM-SHA-256")
    assert not failed(examine(guarded.connection("LOGIN", **login("tagger", mechanism="SCRAM-SHA-256"))))
    unknown = only_failure(examine(guarded.connection("LOGIN", **login("tagger", mechanism="MAGIC"))))
    assert unknown.fix.startswith("set kafka.sasl_mechanism to one of AWS_MSK_IAM")
    none = only_failure(examine(guarded.connection("LOGIN")))
    assert none.seen.endswith("wants a login by PLAIN or SCRAM-SHA-256")
    assert none.fix.startswith("set kafka.security_protocol to SASL_PLAINTEXT, kafka.sasl_mechanism to PLAIN")
    needless = only_failure(examine(guarded.connection("PLAINTEXT", **login("tagger"))))
    assert (needless.name, needless.fix) == ("kafka.login", "set kafka.security_protocol to PLAINTEXT")
    nameless = {**login("tagger"), "sasl_username": None}
    assert "kafka.sasl_username" in only_failure(examine(guarded.connection("LOGIN", **nameless))).fix


def test_tls_and_plain_text_are_told_apart(guarded: Guarded) -> None:
    """In both directions, and with a login on top."""
    plain = only_failure(examine(guarded.connection("SECURE")))
    assert (plain.name, plain.fix) == ("kafka.version", "set kafka.security_protocol to SSL")
    with_login = only_failure(examine(guarded.connection("SECURELOGIN", **login("tagger"))))
    assert with_login.fix == "set kafka.security_protocol to SASL_SSL"
    secure = only_failure(examine(guarded.connection("PLAINTEXT", security_protocol="SSL")))
    assert secure.name == "kafka.tls"
    assert secure.seen.endswith("speaks Kafka without TLS")
    assert secure.fix.endswith("or set kafka.security_protocol to PLAINTEXT")


def test_tls_with_a_trusted_authority_is_well(guarded: Guarded) -> None:
    """With a login, and without one; without the authority it is refused, with the setting that names it."""
    trusted = {"ssl_cafile": str(guarded.authority.certificate)}
    secured = {**login("tagger"), **trusted, "security_protocol": "SASL_SSL"}
    checks = examine(guarded.connection("SECURELOGIN", **secured))
    assert not failed(checks)
    assert {check.name for check in checks if check.state == "ok"} >= GOOD | {"kafka.tls"}
    anonymous = examine(guarded.connection("SECURE", security_protocol="SSL", **trusted))
    assert not failed(anonymous)
    unknown = only_failure(examine(guarded.connection("SECURE", security_protocol="SSL")))
    assert "authority that isn't trusted" in unknown.seen
    assert unknown.fix.startswith("set kafka.ssl_cafile")


def test_a_broker_that_wants_our_certificate_is_told(guarded: Guarded, tmp_path: Path) -> None:
    """None, one of a stranger, and one that its authority signed."""
    trusted = {"security_protocol": "SSL", "ssl_cafile": str(guarded.authority.certificate)}

    def ours(pair: Pair) -> list[Check]:
        files = {"ssl_certfile": str(pair.certificate), "ssl_keyfile": str(pair.key)}
        return examine(guarded.connection("MUTUAL", **trusted, **files))

    none = only_failure(examine(guarded.connection("MUTUAL", **trusted)))
    stranger = only_failure(ours(Authority(tmp_path / "stranger").sign("worker")))
    for check in (none, stranger):
        assert "wants a certificate of ours" in check.seen
        assert check.fix.startswith("set kafka.ssl_certfile")
    # Whoever has a certificate is somebody, of whom this broker knows nothing.
    assert {check.name for check in failed(ours(guarded.authority.sign("worker")))} == {
        "kafka.topics", "kafka.group", "kafka.transactions",
    }  # fmt: skip


def test_an_advertised_address_that_is_of_no_use_is_told(guarded: Guarded) -> None:
    """The mistake of most who run Kafka in Docker: the first connection is well, and none after it."""
    checks = examine(guarded.connection("LOST"))
    check = only_failure(checks)
    assert check.name == "kafka.advertised"
    # Without a name server the look-up may take longer than there is patience for.
    assert "it is at kafka.invalid:29092, but" in check.seen or "no answer" in check.seen
    assert "advertised.listeners of broker 1" in check.fix
    assert {each.name for each in checks if each.state == "ok"} >= GOOD - {"kafka.advertised"}


def test_one_broker_of_several_that_is_away_is_a_warning(guarded: Guarded) -> None:
    """The client takes the others."""
    port = guarded.ports["PLAINTEXT"]
    connection = KafkaConnection(bootstrap_servers=("nobody.invalid:9092", "127.0.0.1:1", f"127.0.0.1:{port}"))
    checks = examine(connection)
    assert not failed(checks)
    assert [check.name for check in checks if check.state == "warn"] == ["kafka.dns", "kafka.tcp", "kafka.cleanup"]
    assert {check.name for check in checks if check.state == "ok"} >= GOOD
