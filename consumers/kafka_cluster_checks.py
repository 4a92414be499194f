"""Whether the cluster has what a worker needs: addresses, topics, rights, limits, the time.

Every question is one that changes nothing, for the broker looks at the right first, and then refuses for a reason
of its own: a heartbeat of a member that isn't there, the end of a transaction that nobody began.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import kafka.errors as errors
from kafka.protocol.admin.cluster import DescribeQuorumRequest
from kafka.protocol.admin.configs import DescribeConfigsRequest
from kafka.protocol.consumer.group import HeartbeatRequest
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.producer.transaction import EndTxnRequest

from consumers.checks import Check, Checklist, Found, Trouble, Untold, ok
from consumers.kafka_commands import cleanup_command, creation_command
from consumers.kafka_connection import KafkaConnection
from consumers.kafka_talk import HungUp, NoKafka, Talk, trust_of
from consumers.network_checks import Server, resolve, shake_hands, take_connection

READ, WRITE, DESCRIBE = 3, 4, 8
"""Numbers of the protocol's AclOperation."""
TOPIC, BROKER = 2, 4
"""The protocol's numbers of resources with a configuration."""
NOBODYS_PRODUCER = 2**62
CLOCK_SECONDS = 3.0
LOOK = "look at the brokers' logs"
ENTITIES_POLICY = "compact,delete"

LIMITS = ("group.min.session.timeout.ms", "group.max.session.timeout.ms", "transaction.max.timeout.ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaNeeds:
    """What a worker asks of the cluster. `transactional_id`: None where it uses no transactions."""

    posts_topic: str = "posts"
    entities_topic: str = "entities"
    dead_letters_topic: str = "dead-letters"
    group_id: str = "nametag"
    transactional_id: str | None = None
    session_timeout_ms: int = 45_000
    transaction_timeout_ms: int = 15_000

    @property
    def topics(self) -> dict[str, tuple[str, int, str]]:
        """The setting of each topic, the operation that a worker does there, and its name."""
        return {
            self.posts_topic: ("kafka.posts_topic", READ, "Read"),
            self.entities_topic: ("kafka.entities_topic", WRITE, "Write"),
            self.dead_letters_topic: ("kafka.dead_letters_topic", WRITE, "Write"),
        }


def check_cluster(connection: KafkaConnection, server: Server, needs: KafkaNeeds, checklist: Checklist) -> None:
    """Do the checks through `server`, which can be had."""
    answers: list[Any] = []

    def metadata() -> Found:
        answers.append(_metadata(connection, server, needs))
        return ok(f"the brokers in the cluster: {len(answers[0].brokers)}")

    brokers = checklist.do("kafka.brokers", metadata, late=LOOK)
    if not answers:
        checklist.skip("kafka.topics", f"not tried, for {brokers.name} failed")
        return
    advertised = _check_advertised(connection, answers[0], checklist)
    for topic in needs.topics:
        creation = creation_command(connection, server, topic)
        if topic == needs.entities_topic:
            creation += f" && {cleanup_command(connection, server, topic, ENTITIES_POLICY)}"
        there = _check_topic(topic, needs, answers[0], checklist, creation)
        if topic == needs.entities_topic:
            checklist.do(
                "kafka.cleanup", lambda: _cleanup(connection, server, needs.entities_topic), needs=(there,), late=LOOK
            )
    checklist.do("kafka.group", lambda: _group(connection, server, needs), late=LOOK)
    if needs.transactional_id is not None:
        checklist.do("kafka.transactions", lambda: _transactions(connection, server, needs), late=LOOK)
    else:
        checklist.skip("kafka.transactions", "kafka.delivery is at_least_once")
    checklist.do("kafka.limits", lambda: _limits(connection, answers[0], needs), needs=advertised[:1], late=LOOK)
    checklist.do("kafka.clock", lambda: _clock(connection, server), late=LOOK)


def ask(connection: KafkaConnection, server: Server, request: Any) -> Any:
    """One question over a connection of its own. Raises `Trouble` and TimeoutError."""
    with Talk(connection, server) as talk:
        talk.introduce()
        if connection.security_protocol.startswith("SASL"):
            talk.log_in()
        try:
            return talk.ask(request)
        except errors.IncompatibleBrokerVersion:
            raise Untold("the brokers are too old to tell") from None
        except (HungUp, NoKafka):
            raise Trouble(f"{server} does not answer {request.name}", LOOK) from None


def _metadata(connection: KafkaConnection, server: Server, needs: KafkaNeeds) -> Any:
    topics = [MetadataRequest.MetadataRequestTopic(name=name) for name in needs.topics]
    request = MetadataRequest(topics=topics, allow_auto_topic_creation=False, include_topic_authorized_operations=True)
    return ask(connection, server, request)


def _check_advertised(connection: KafkaConnection, metadata: Any, checklist: Checklist) -> tuple[Check, ...]:
    """The client leaves the addresses that it was told, and goes on at those that the brokers name."""
    with ThreadPoolExecutor(min(max(1, len(metadata.brokers)), 32)) as pool:
        found = pool.map(lambda broker: _advertised(connection, broker), metadata.brokers)
        return tuple(checklist.add(check) for check in found)


def _advertised(connection: KafkaConnection, broker: Any) -> Check:
    server = Server(broker.host, broker.port, "the broker's advertised.listeners")
    fix = (
        f"set advertised.listeners of broker {broker.node_id} to an address that this machine reaches "
        "(KAFKA_ADVERTISED_LISTENERS in Docker)"
    )

    def act() -> Found:
        try:
            resolve(server)
            take_connection(server)
            if connection.security_protocol.endswith("SSL"):
                shake_hands(server, trust_of(connection))
        except Trouble as trouble:
            raise Trouble(f"broker {broker.node_id} says that it is at {server}, but {trouble}", fix) from None
        return ok(f"broker {broker.node_id} says that it is at {server}, and is")

    return Checklist(10.0).do("kafka.advertised", act, late=fix)


def _check_topic(topic: str, needs: KafkaNeeds, metadata: Any, checklist: Checklist, creation: str) -> Check:
    described = next((each for each in metadata.topics if each.name == topic), None)
    there = checklist.do("kafka.topics", lambda: _topic(topic, needs, described, creation), late=LOOK)
    checklist.do("kafka.rights", lambda: _rights(topic, needs, described), needs=(there,), late=LOOK)
    return there


def _topic(topic: str, needs: KafkaNeeds, described: Any, creation: str) -> Found:
    setting, _, operation = needs.topics[topic]
    code = errors.UnknownTopicOrPartitionError.errno if described is None else described.error_code
    if code == errors.TopicAuthorizationFailedError.errno:
        # A topic that may not be described, and one that isn't there, are the same to this user.
        raise Trouble(f"the topic {topic} may not be seen by this user", _grant(f"topic {topic}", operation))
    if code == errors.InvalidTopicError.errno:
        raise Trouble(f"{topic} can't be a topic's name", f"correct {setting}")
    if code == errors.UnknownTopicOrPartitionError.errno:
        raise Trouble(f"there is no topic {topic}", f"create it with `{creation}`, or set {setting} to another")
    if code != 0:
        raise Trouble(f"the topic {topic} can't be had ({errors.for_code(code).__name__})", LOOK)
    headless = sum(partition.leader_id < 0 for partition in described.partitions)
    if headless:
        seen = f"{headless} of the {len(described.partitions)} partitions of {topic} have no leader"
        raise Trouble(seen, f"start the brokers that hold the partitions of {topic}")
    return ok(f"{topic} has {len(described.partitions)} partitions")


def _cleanup(connection: KafkaConnection, server: Server, topic: str) -> Found:
    """Without `compact` a tombstone takes no event away; without `delete` nothing ever gets too old."""
    resource = DescribeConfigsRequest.DescribeConfigsResource(
        resource_type=TOPIC, resource_name=topic, configuration_keys=["cleanup.policy"]
    )
    (result,) = ask(connection, server, DescribeConfigsRequest(resources=[resource])).results
    told = next((each.value for each in result.configs or () if each.name == "cleanup.policy"), None)
    if result.error_code != 0 or told is None:
        raise Untold(f"the broker does not tell this user the cleanup.policy of {topic}")
    missing = {"compact", "delete"} - set(told.replace(" ", "").split(","))
    if not missing:
        return ok(f"{topic} has cleanup.policy={told}: deletes take events away")
    stays = "the events of deleted posts stay on it" if "compact" in missing else "its events stay for ever"
    fix = f"set it with `{cleanup_command(connection, server, topic, ENTITIES_POLICY)}`"
    return Found("warn", f"{topic} has cleanup.policy={told}: {stays}", fix)


def _rights(topic: str, needs: KafkaNeeds, described: Any) -> Found:
    _, number, operation = needs.topics[topic]
    allowed = described.authorized_operations
    # Of a broker that doesn't tell comes a number without one of these.
    if not isinstance(allowed, set | frozenset) or not allowed & {READ, WRITE, DESCRIBE}:
        raise Untold(f"the broker does not tell what may be done with {topic}")
    if number not in allowed:
        raise Trouble(f"this user may not {operation.lower()} the topic {topic}", _grant(f"topic {topic}", operation))
    return ok(f"{topic}: {operation.lower()} is allowed")


def _grant(what: str, operation: str) -> str:
    return f"allow this user {operation} on the {what} (kafka-acls --add --operation {operation} --{what})"


def _group(connection: KafkaConnection, server: Server, needs: KafkaNeeds) -> Found:
    request = HeartbeatRequest(group_id=needs.group_id, generation_id=-1, member_id="nametag-doctor")
    code = ask(connection, server, request).error_code
    if code == errors.GroupAuthorizationFailedError.errno:
        raise Trouble(f"this user may not join the group {needs.group_id}", _grant(f"group {needs.group_id}", "Read"))
    if code == errors.InvalidGroupIdError.errno:
        raise Trouble(f"{needs.group_id} can't be a group's name", "correct kafka.group_id")
    return ok(f"the group {needs.group_id} may be joined")


def _transactions(connection: KafkaConnection, server: Server, needs: KafkaNeeds) -> Found:
    name = needs.transactional_id
    request = EndTxnRequest(transactional_id=name, producer_id=NOBODYS_PRODUCER, producer_epoch=0, committed=False)
    code = ask(connection, server, request).error_code
    if code == errors.TransactionalIdAuthorizationFailedError.errno:
        raise Trouble(
            f"this user may not use transactions as {name}",
            f"allow this user Write on the transactional id {name} (or its prefix), or set kafka.delivery "
            "to at_least_once",
        )
    return ok(f"transactions are allowed, such as {name}")


def _limits(connection: KafkaConnection, metadata: Any, needs: KafkaNeeds) -> Found:
    """A broker tells its own configuration only, so it is asked where it says that it is."""
    broker = metadata.brokers[0]
    resource = DescribeConfigsRequest.DescribeConfigsResource(
        resource_type=BROKER, resource_name=str(broker.node_id), configuration_keys=list(LIMITS)
    )
    server = Server(broker.host, broker.port, "the broker's advertised.listeners")
    (result,) = ask(connection, server, DescribeConfigsRequest(resources=[resource])).results
    if result.error_code != 0:
        raise Untold("the broker does not tell this user its configuration")
    told = {each.name: int(each.value) for each in result.configs if each.name in LIMITS and each.value}
    least, most, longest = (told.get(name) for name in LIMITS)
    if (least is not None and needs.session_timeout_ms < least) or (
        most is not None and needs.session_timeout_ms > most
    ):
        raise Trouble(
            f"kafka.session_timeout_seconds is {needs.session_timeout_ms / 1000:g}, and the broker allows "
            f"{(least or 0) / 1000:g} to {(most or 0) / 1000:g}",
            "set kafka.session_timeout_seconds within that",
        )
    if needs.transactional_id is not None and longest is not None and needs.transaction_timeout_ms > longest:
        raise Trouble(
            f"kafka.transaction_seconds is {needs.transaction_timeout_ms / 1000:g}, and the broker allows "
            f"{longest / 1000:g}",
            f"set kafka.transaction_seconds to {longest / 1000:g} or less",
        )
    return ok("the timeouts are within what the broker allows")


def _clock(connection: KafkaConnection, server: Server) -> Found:
    """The leader of a KRaft quorum is its own follower, and tells when it last heard of itself: now."""
    topic = DescribeQuorumRequest.TopicData(
        topic_name="__cluster_metadata",
        partitions=[DescribeQuorumRequest.TopicData.PartitionData(partition_index=0)],
    )
    before = time.time()
    answer = ask(connection, server, DescribeQuorumRequest(topics=[topic]))
    after = time.time()
    if answer.error_code != 0 or not answer.topics or answer.topics[0].partitions[0].error_code != 0:
        raise Untold("the brokers do not tell this user the time")
    quorum = answer.topics[0].partitions[0]
    moments = [each.last_fetch_timestamp for each in quorum.current_voters if each.replica_id == quorum.leader_id]
    if not moments or moments[0] is None or moments[0] <= 0:
        raise Untold("the brokers do not tell the time")
    return compare_clocks(moments[0] / 1000, before, after, "the brokers'")


def compare_clocks(theirs: float, before: float, after: float, whose: str) -> Found:
    """Whether their clock is within what passed here between question and answer, and a little."""
    apart = max(before - theirs, theirs - after, 0.0)
    if apart > CLOCK_SECONDS:
        way = "behind" if theirs > after else "ahead of"
        return Found(
            "warn",
            f"this machine's clock is {apart:.0f} s {way} {whose}",
            "have both machines set their clocks by NTP",
        )
    return ok(f"this machine's clock and {whose} are within {max(apart, 1.0):.0f} s")
