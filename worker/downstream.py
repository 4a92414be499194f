"""How the commands of `worker/cli_downstream.py` reach the entities topic."""

import argparse
import logging

from consumers.entity_events import BlockingEntityEvents
from consumers.event_places import Start
from worker.errors import SettingsError
from worker.kafka_settings import connection_of
from worker.logs import configure_logs
from worker.settings import KafkaTable
from worker.settings_loading import load_settings


def kafka_of(options: argparse.Namespace, *, tells_skipped: bool) -> KafkaTable:
    """The settings of Kafka, with logs for a person, of each record that is skipped or not. Raises `SettingsError`."""
    kafka = load_settings(options.config).kafka
    configure_logs("text", logging.WARNING)
    # What the client has to say about trouble is said in one sentence.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("nametag.events").setLevel(logging.WARNING if tells_skipped else logging.ERROR)
    return kafka


def events_of(kafka: KafkaTable, *, start: Start, follow: bool = False) -> BlockingEntityEvents:
    """A reader of the entities topic. Raises `SettingsError`."""
    try:
        connection = connection_of(kafka)
    except ValueError as error:
        raise SettingsError(f"the settings are wrong: {error}") from error
    return BlockingEntityEvents(connection, topic=kafka.entities_topic, start=start, follow=follow, on_bad="skip")
