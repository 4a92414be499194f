"""The settings of a worker on real services."""

from typing import Any

import pytest


@pytest.fixture
def environment(kafka_bootstrap: str, redis_url: str, topics: Any) -> dict[str, str]:
    """The variables of a worker on fresh topics."""
    return {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "NAMETAG_KAFKA__POSTS_TOPIC": topics.posts,
        "NAMETAG_KAFKA__ENTITIES_TOPIC": topics.entities,
        "NAMETAG_KAFKA__DEAD_LETTERS_TOPIC": topics.dead_letters,
        "NAMETAG_KAFKA__GROUP_ID": f"group-{topics.posts}",
        "NAMETAG_REDIS__URL": redis_url,
    }
