"""Completes the starter's card with what its last training, that of the attention, couldn't know.

Run it from the repository, after `nametag practice build/practice`: `python tests/benchmarks/starter_card.py`. It
notes the names in the training data of all three steps (hashed), and the scores on Tweebank-NER's dev set, on which
the earlier steps were tuned; and the versions, where the file has none.
"""

from dataclasses import replace
from pathlib import Path

from model.checkpoint import load, save, versions
from model.evaluate import evaluate
from model.mentions import mention_hashes
from model.training_config import TrainConfig

STARTER = Path("model/starter")
CHECKPOINT = STARTER / "nametag-starter.safetensors"
STEPS = ("train.toml", "tune.toml", "picture.toml")


def main() -> None:
    """Rewrite the file; its weights, and so what it finds, stay as they are."""
    steps = [TrainConfig.from_toml(STARTER / name) for name in STEPS]
    sentences = [
        sentence for config in steps for corpus in config.corpora for sentence in corpus.read().sentences
    ]  # fmt: skip
    checkpoint, _ = load(CHECKPOINT)
    scores = evaluate(CHECKPOINT, steps[0].valid_corpus)
    noted = {
        "file": scores.data,
        "sha256": scores.digest,
        "strict_f1": round(scores.strict["overall"].f1, 2),
        "lenient_f1": round(scores.lenient["overall"].f1, 2),
    }
    notes = {**checkpoint.notes, "scores": noted, "mentions": mention_hashes(sentences)}
    save(replace(checkpoint, notes=notes, versions=checkpoint.versions or versions()), CHECKPOINT)
    print(f"strict F1 {noted['strict_f1']}, lenient F1 {noted['lenient_f1']} on {scores.data}")


if __name__ == "__main__":
    main()
