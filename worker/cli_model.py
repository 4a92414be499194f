"""The commands about checkpoints: evaluate, ablate, calibrate and inspect."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.corpora import Corpus

# The formats of model.corpora, written again so that help need not import the model.
FORMATS = ("conll", "wnut17", "btc", "tweebank")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register them."""
    _add_evaluate(commands)
    _add_ablate(commands)
    _add_calibrate(commands)
    _add_inspect(commands)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a checkpoint on a labelled file",
        description="Prints precision, recall and F1 per type and overall, lenient (as papers report) and strict, "
        "and for mentions that the training data holds and those it doesn't.",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of `nametag train`")
    add_data(parser)
    parser.add_argument("--train", type=Path, nargs="+", default=[], metavar="FILE",
                        help="the training data, in the same format, for seen and unseen mentions (default: "
                        "what the checkpoint knows of it)")  # fmt: skip
    _add_json(parser)
    parser.set_defaults(run=_evaluate)


def _add_ablate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "ablate",
        help="train the four variants and compare them (Table 3)",
        description="Trains the four variants over several seeds, and prints the paper's Table 3: mean and standard "
        "deviation, a paired bootstrap against blstm_crf, and the paper's own figures. Finished trainings are kept "
        "in the folder and not repeated.",
    )
    parser.add_argument("config", type=Path, metavar="TOML",
                        help="the trainer's settings; variant, seed and out are replaced")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoints and results go here")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="the CoNLL file to score on, its pictures among the others (default: the "
                        "validation set, which also stopped the training)")  # fmt: skip
    _add_json(parser)
    parser.set_defaults(run=_ablate)


def _add_calibrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "calibrate",
        help="fit a checkpoint's confidences to a labelled file",
        description="Fits the one temperature of the confidences, and writes the checkpoint anew with it, under a new "
        "id. Prints the expected calibration error before and after. Use data that wasn't trained on.",
    )
    parser.add_argument("checkpoint", type=Path, help="the checkpoint, which is replaced")
    add_data(parser)
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw how reliable the confidences are")
    parser.add_argument("--dry-run", action="store_true",
                        help="fit nothing and write nothing: measure the checkpoint as it is")  # fmt: skip
    _add_json(parser)
    parser.set_defaults(run=_calibrate)


def _add_inspect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "inspect",
        help="print what a checkpoint is, as a model card",
        description="Prints a checkpoint's model card: what it reads and finds, how it was made, and how good it is.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="a checkpoint of `nametag train`")
    _add_json(parser)
    parser.set_defaults(run=_inspect)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Let the command take a labelled file with its format and its pictures."""
    parser.add_argument("data", type=Path, help="the labelled file; IMGID: lines name the pictures")
    parser.add_argument("--format", default="conll", choices=FORMATS, help="what it is (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="the pictures, named by image id")


def corpus_of(options: argparse.Namespace, path: Path) -> "Corpus":
    """The corpus in `path`, as the options of `add_data` describe it."""
    from model.corpora import Corpus

    return Corpus(path=str(path), format=options.format, images=None if options.images is None else str(options.images))


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _evaluate(options: argparse.Namespace) -> None:
    from model.evaluate import evaluate, render, to_json

    train = [corpus_of(options, path) for path in options.train]
    scores = evaluate(options.checkpoint, corpus_of(options, options.data), train)
    print(to_json(scores) if options.json else render(scores))


def _ablate(options: argparse.Namespace) -> None:
    from model.ablate import ablate, render, to_json
    from model.corpora import Corpus
    from model.train import TrainConfig

    config = TrainConfig.from_toml(options.config)
    corpus = None if options.data is None else Corpus(path=str(options.data), images=config.images)
    ablation = ablate(config, options.seeds, options.out, corpus)
    print(to_json(ablation) if options.json else render(ablation))


def _calibrate(options: argparse.Namespace) -> None:
    from model.calibration import calibrate, render, to_json
    from model.reliability import write_reliability_plot
    from model.whole_file import check_writable

    if options.plot is not None:
        check_writable(options.plot)  # before the checkpoint is replaced
    calibration = calibrate(options.checkpoint, corpus_of(options, options.data), dry_run=options.dry_run)
    if options.plot is not None:
        write_reliability_plot(options.plot, calibration.before, calibration.after)
    print(to_json(calibration) if options.json else render(calibration))


def _inspect(options: argparse.Namespace) -> None:
    from model.card import read_card, render, to_json

    card = read_card(options.checkpoint)
    print(to_json(card) if options.json else render(card))
