"""The model card: what a checkpoint reads and finds, how it was made, and how good it is."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.captions import harmless
from model.checkpoint import FORMAT_VERSION, Checkpoint, load
from model.mentions import Mentions

_WIDTH = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A checkpoint in figures; `notes` is what its trainer told, the mentions' hashes left out."""

    file: str
    checkpoint_id: str
    format_version: int
    num_bytes: int
    config: dict[str, Any]
    num_parameters: int
    weights: dict[str, int]
    """Parameters by the type they are stored in."""
    num_words: int
    num_characters: int
    labels: tuple[str, ...]
    scheme: str
    tower: str | None
    tower_digest: str | None
    temperature: float
    num_mentions: int | None
    """Distinct mentions of the training data, None where the checkpoint doesn't hold their hashes."""
    versions: dict[str, str]
    notes: dict[str, Any]


def read_card(path: Path) -> Card:
    """The card of the checkpoint in `path`. Raises `CheckpointError` as `load` does."""
    checkpoint, identity = load(path)
    config, vocabulary = checkpoint.config, checkpoint.vocabulary
    return Card(
        file=path.name,
        checkpoint_id=identity,
        format_version=FORMAT_VERSION,
        num_bytes=path.stat().st_size,
        config=asdict(config),
        num_parameters=sum(tensor.numel() for tensor in checkpoint.state.values()),
        weights=_weights(checkpoint),
        num_words=len(vocabulary.words),
        num_characters=len(vocabulary.characters),
        labels=checkpoint.labels.tags,
        scheme=str(checkpoint.scheme),
        tower=checkpoint.tower if config.uses_image else None,
        tower_digest=checkpoint.tower_digest if config.uses_image else None,
        temperature=checkpoint.temperature,
        num_mentions=_num_mentions(checkpoint.notes),
        versions=checkpoint.versions,
        notes={name: told for name, told in checkpoint.notes.items() if name != "mentions"},
    )


def _weights(checkpoint: Checkpoint) -> dict[str, int]:
    weights: dict[str, int] = {}
    for tensor in checkpoint.state.values():
        name = str(tensor.dtype).removeprefix("torch.")
        weights[name] = weights.get(name, 0) + tensor.numel()
    return weights


def _num_mentions(notes: Mapping[str, Any]) -> int | None:
    mentions = notes.get("mentions")
    return None if mentions is None else len(Mentions(mentions))


def render(card: Card) -> str:
    """The card for people."""
    types = [tag.removeprefix("B-") for tag in card.labels if tag.startswith("B-")]
    stored = ", ".join(f"{count:,} in {kind}" for kind, count in card.weights.items())
    sections: list[tuple[str, Mapping[str, object]]] = [
        (
            f"{card.file}  checkpoint {card.checkpoint_id}",
            {
                "finds": ", ".join(types),
                "looks at pictures": "no" if card.tower is None else f"with {card.tower} ({card.tower_digest})",
                "tokens": card.scheme,
                "vocabulary": f"{card.num_words:,} words, {card.num_characters:,} characters",
                "weights": stored,
                "size": f"{card.num_bytes / 1e6:.1f} MB, format {card.format_version}",
                "temperature": f"{card.temperature:.3f}",
                "training mentions": "not kept" if card.num_mentions is None else f"{card.num_mentions:,}",
            },
        ),
        ("network", card.config),
        *_noted(card.notes),
        ("versions", card.versions or {"": "not kept"}),
    ]
    return "\n\n".join(
        "\n".join(
            [harmless(title), *(f"  {harmless(name):{_WIDTH}}{harmless(str(told))}" for name, told in lines.items())]
        )
        for title, lines in sections
    )


def _noted(notes: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """A section for the plain notes, and one for each that has parts; whatever a trainer has told."""
    plain = {name: _plain(told) for name, told in notes.items() if not isinstance(told, dict | list)}
    if plain:
        yield "how it was made", plain
    for name, told in notes.items():
        if isinstance(told, dict):
            yield name, {part: _plain(value) for part, value in told.items()}
        elif isinstance(told, list):
            for number, one in enumerate(told, 1):
                parts = one if isinstance(one, dict) else {"": one}
                yield f"{name} {number}", {part: _plain(value) for part, value in parts.items()}


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def to_json(card: Card) -> str:
    """The card for programs."""
    return json.dumps(asdict(card), indent=2, ensure_ascii=False)
