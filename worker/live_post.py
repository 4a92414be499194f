"""A tagged post as the page takes it: pieces of harmless text, and what became of the picture, in words."""

from typing import Any

import numpy as np

from consumers import wire
from consumers.events import REGIONS_PER_SIDE, Entity, EntityEvent
from consumers.image_status import ImageStatus
from model.captions import harmless, pieces_of
from model.heatmap import scale_of

MAX_CHARACTERS = 2_000
MAX_NAME = 64
WORDS_ALONE = "blstm_crf"
"""The variant that looks at no picture."""

FATES = {
    ImageStatus.USED: "",
    ImageStatus.NONE: "no picture",
    ImageStatus.NOT_FOUND: "no such picture, or no such host",
    ImageStatus.GONE: "the picture was taken away",
    ImageStatus.FORBIDDEN: "its host won't give the picture out",
    ImageStatus.BLOCKED_ADDRESS: "the picture's address is one that must not be fetched",
    ImageStatus.TOO_LARGE: "the picture is too large",
    ImageStatus.TOO_SLOW: "the picture came too slowly",
    ImageStatus.BAD_IMAGE: "the picture is damaged, or none",
    ImageStatus.UNSUPPORTED: "the picture's format isn't read",
    ImageStatus.HOST_DOWN: "the picture's host is down",
    ImageStatus.LATE: "the picture was still on its way",
}
"""What became of a picture, for who watches."""


def post_json(event: EntityEvent, attention: tuple[float, ...] | None) -> bytes:
    """One line of JSON. `attention` (49) is told even where events are without it."""
    status = event.image.status
    return wire.dumps(
        {
            "id": event.id,
            "name": _short(event.id),
            "lang": event.lang,
            "tagged_at": event.tagged_at.isoformat(),
            "checkpoint": _short(event.checkpoint.id),
            "variant": _short(event.checkpoint.variant),
            "pieces": _pieces(event),
            "status": _short(status),
            "fate": _fate(event),
            "digest": event.image.digest,
            "heat": None if attention is None else heat_levels(attention),
            "gaze": None if attention is None else gaze(attention),
        }
    )


def _fate(event: EntityEvent) -> str:
    image = event.image
    if image.status != ImageStatus.NONE or image.url is None:
        return FATES.get(image.status, "what became of the picture is told by a newer nametag")
    # There is one, and the tagger had no use for it.
    reads_pictures = event.checkpoint.variant != WORDS_ALONE
    why = "the post has no words to tag" if reads_pictures else "this checkpoint reads words alone"
    return f"the picture wasn't looked at: {why}"


def heat_levels(attention: tuple[float, ...]) -> list[int]:
    """The weights (49) as heat from 0 to 255, by the ends that `model/heatmap.py` has."""
    low, high = scale_of(attention)
    heat = (np.asarray(attention, dtype=np.float64) - low) / (high - low)
    return [int(level) for level in (255 * heat.clip(0, 1)).round()]


def gaze(attention: tuple[float, ...]) -> str:
    """Where most of the attention (49) is, for who can't see it."""
    most = max(attention)
    if most * len(attention) < 1.5:
        return "evenly all over it"
    row, column = divmod(attention.index(most), REGIONS_PER_SIDE)
    height, side = _third(row, "top", "bottom"), _third(column, "left", "right")
    where = " ".join(filter(None, (height, side))) or "centre"
    return f"most at the {where}, {most:.0%} of it on one of 49 regions"


def _third(place: int, first: str, last: str) -> str:
    return first if place < 2 else last if place >= REGIONS_PER_SIDE - 2 else ""


def _pieces(event: EntityEvent) -> list[dict[str, Any]]:
    if event.text is None:
        # Where events carry no text the page has none either, and only the names.
        return [piece for entity in event.entities for piece in (_name(harmless(entity.text), entity), {"text": " "})]
    text = event.text[:MAX_CHARACTERS]
    entities = [entity for entity in event.entities if entity.end <= len(text)]
    names = iter(entities)
    pieces: list[dict[str, Any]] = [
        _name(piece.text, next(names)) if piece.type else {"text": piece.text} for piece in pieces_of(text, entities)
    ]
    return pieces if len(text) == len(event.text) else [*pieces, {"text": "…"}]


def _name(text: str, entity: Entity) -> dict[str, Any]:
    return {"text": text, "type": _short(entity.type), "confidence": round(entity.confidence, 3)}


def _short(text: str) -> str:
    text = harmless(text)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"
