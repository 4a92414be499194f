"""Kafka and Redis for a person without containers: what the script prints works as it stands."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "deploy" / "native" / "services.py"


def test_what_is_printed_can_be_exported_and_tried() -> None:
    """The topics are there, the lines make variables, and a post that was sent is on its topic."""
    with subprocess.Popen([sys.executable, str(SERVICES)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as services:
        try:
            assert services.stdout is not None
            assert services.stderr is not None
            lines: list[str] = []
            while not any("Ctrl-C here" in line for line in lines):
                lines.append(services.stdout.readline().decode())
                if not lines[-1]:
                    pytest.skip(" ".join(services.stderr.read().decode().split())[:400])
            (send,) = (line.strip("# \n") for line in lines if "kafka.producer" in line)
            subprocess.run(["bash", "-c", send], check=True, timeout=30)
            exports = "".join(line for line in lines if line.startswith("export "))
            count = (
                "import os; from kafka import KafkaConsumer as C, TopicPartition as T\n"
                "c = C(bootstrap_servers=os.environ['NAMETAG_KAFKA__BOOTSTRAP_SERVERS'])\n"
                "topics = ('posts', 'entities', 'dead-letters')\n"
                "print([len(c.partitions_for_topic(t)) for t in topics],"
                " sum(c.end_offsets([T('posts', n) for n in range(4)]).values()))"
            )
            told = subprocess.run(
                ["bash", "-c", f'{exports}"$0" -c "$1"', sys.executable, count],
                check=True, capture_output=True, text=True, timeout=30,
            )  # fmt: skip
            assert told.stdout == "[4, 4, 4] 1\n"
        finally:
            services.send_signal(signal.SIGTERM)
    assert services.returncode == 0
