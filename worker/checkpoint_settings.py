"""The checkpoint in use, and where another may be named, as the settings say."""

from collections.abc import Callable
from pathlib import Path

from model.errors import CheckpointError, DeviceError
from worker.batch_runner import BatchLimits, BatchRunner
from worker.batches import Batcher
from worker.checkpoint_place import CheckpointPlace, WatchedFile, WatchedKey
from worker.checkpoints import Checkpoints, InUse, SwapConfig
from worker.errors import CheckpointUnavailable, SettingsError, WorkerError
from worker.image_settings import redis_client_of
from worker.images import ImageSource
from worker.metrics import Metrics
from worker.post_tagger import LoadedTagger
from worker.settings import Settings
from worker.tagger_link import TaggerLink
from worker.tagger_process import TaggerProcess
from worker.tagger_start import has_process, tagger_spec


def load_tagger(settings: Settings, link: TaggerLink | None = None) -> LoadedTagger:
    """The tagger of the configured checkpoint; by `link`, where its process was begun before.

    Raises `CheckpointUnavailable`, or `WorkerError`.
    """
    try:
        return _load(settings, settings.checkpoint, may_download=True, link=link)
    except (CheckpointError, OSError) as error:
        raise CheckpointUnavailable(
            f"the checkpoint {settings.checkpoint} can't be used: {error}; set NAMETAG_CHECKPOINT "
            "to a file that `nametag train` made"
        ) from error
    except DeviceError as error:
        raise WorkerError(str(error)) from error
    except RuntimeError as error:
        raise WorkerError(f"the device {settings.device} can't be used: {error}") from error


def make_checkpoints(
    settings: Settings, tagger: LoadedTagger, images: ImageSource, batcher: Batcher, metrics: Metrics
) -> Checkpoints:
    """`tagger` in use, and others where one is named. Raises `SettingsError`."""
    place = _place(settings, metrics)
    table = settings.checkpoints
    config = SwapConfig(
        poll_seconds=table.poll_seconds,
        trial_seconds=table.trial_seconds,
        shadow_share=table.shadow_share,
        shadow_posts=table.shadow_posts,
        least_agreement=table.least_agreement,
        least_agreement_on_sample=table.least_agreement_on_sample,
    )
    in_use = _user(settings, images, metrics)
    return Checkpoints(
        in_use(tagger),
        batcher,
        metrics,
        place=place,
        # Whoever can write the file or the key must not have a worker fetch from the network; of the configured one,
        # the operator who named it waits for it.
        build=lambda path: in_use(_load(settings, path, may_download=False)),
        config=config,
    )


def _load(settings: Settings, path: Path, *, may_download: bool, link: TaggerLink | None = None) -> LoadedTagger:
    spec = tagger_spec(settings, path, may_download=may_download)
    if has_process(settings):
        return TaggerProcess(spec, link)
    from worker.tagger_loading import load_here  # and with it torch, which nobody else here needs

    return load_here(spec)


def _user(settings: Settings, images: ImageSource, metrics: Metrics) -> Callable[[LoadedTagger], InUse]:
    batch = settings.batch
    limits = BatchLimits(
        max_posts=batch.max_posts, max_padded_tokens=batch.max_padded_tokens, max_images=batch.max_images
    )

    def in_use(tagger: LoadedTagger) -> InUse:
        return InUse(
            tagger=tagger,
            runner=BatchRunner(tagger, limits, metrics, begin_look=tagger.begin_look, begin_tag=tagger.begin_tag),
            images=images.for_tower(tagger.tower_digest, tagger.feature_shape),
            tower_digest=tagger.tower_digest,
        )

    return in_use


def _place(settings: Settings, metrics: Metrics) -> CheckpointPlace | None:
    table = settings.checkpoints
    if table.watch is not None:
        return WatchedFile(table.watch, at_restart=settings.checkpoint)
    if table.watch_key is None:
        return None
    client = redis_client_of(settings.redis)
    if client is None:
        raise SettingsError("the settings are wrong: checkpoints.watch_key is a key of Redis, and redis.url isn't set")
    return WatchedKey(
        client,
        table.watch_key,
        metrics,
        at_restart=settings.checkpoint,
        timeout_seconds=settings.redis.timeout_seconds,
    )
