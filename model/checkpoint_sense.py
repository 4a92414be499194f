"""Whether a checkpoint makes sense: a file may be whole, and hold what no trainer of ours would have written.

H hidden states of one direction, E word vector, V visual vector, D tower width, K tags.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.labels import LabelSet
from model.setting_types import wrong_type
from model.tagger import TaggerConfig
from model.vocabulary import Vocabulary

MAX_DEPTH = 100
"""How deeply notes may be nested; a training that starts from a checkpoint notes what that one noted."""

_KINDS: dict[Any, str] = {str: "a text", dict: "an object", list: "a list of texts"}
_EXPECTED: dict[str, Any] = {
    "labels": list,
    "words": list,
    "characters": str,
    "scheme": str,
    "tower": str,
    "tower_digest": str,
    "notes": dict,
}


def check_description(told: Any) -> None:
    """Raise a ValueError that tells what of a checkpoint's description isn't of its type, or can't be written."""
    if not isinstance(told, dict):
        raise ValueError("its description, which is no object")
    for name, kind in _EXPECTED.items():
        value: Any = told[name]
        if not isinstance(value, kind) or (kind is list and not all(isinstance(one, str) for one in value)):
            raise ValueError(f"{name}, which must be {_KINDS[kind]}")
    if isinstance(told["temperature"], bool) or not isinstance(told["temperature"], int | float):
        raise ValueError("temperature, which must be a number")
    if not told["tower_digest"].isalnum() and told["tower_digest"]:
        raise ValueError("tower_digest, which names a file")
    versions = told.get("versions", {})
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise ValueError("versions, which must be texts")
    if _depth(told) > MAX_DEPTH:
        raise ValueError("notes, which are nested too deeply")
    try:
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text, which holds a lone surrogate") from error


def check_config(config: TaggerConfig) -> None:
    """Raise a ValueError that names the size which isn't of its type."""
    if sentence := wrong_type(config):
        raise ValueError(sentence)


def misfit(config: TaggerConfig, labels: LabelSet, vocabulary: Vocabulary, state: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the weights, None if nothing is.

    Each size is held against one tensor's, before a network of absurd sizes takes the memory; whether all
    tensors fit, the network tells.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "words.weight": (vocabulary.num_words, config.word_size),
        "characters.embedding.weight": (vocabulary.num_characters, config.char_embedding),
        "characters.lstm.weight_hh_l0": (4 * config.char_hidden, config.char_hidden),
        "blstm.weight_hh_l0": (4 * config.hidden, config.hidden),
        "emit.weight": (len(labels), 2 * config.hidden),
    }
    if config.uses_image:
        regions = "project.weight" if config.variant == "global_image" else "attend.value.weight"
        shapes[regions] = (config.visual_size, config.region_width)
    for name, shape in shapes.items():
        if name not in state:
            return f"{name} is missing"
        if tuple(state[name].shape) != shape:
            return f"{name} is of {_times(state[name].shape)}, not of {_times(shape)}"
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            return f"{name} holds {str(tensor.dtype).removeprefix('torch.')}"
        if not bool(torch.isfinite(tensor.float()).all()):
            return f"{name} holds numbers that aren't finite"
    return None


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _depth(told: object) -> int:
    """How deeply lists and objects are nested, counted without recursion."""
    depth, level = 0, [told]
    while level:
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        depth, level = depth + 1, [one for one in inner if isinstance(one, dict | list)]
    return depth
