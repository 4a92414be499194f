"""The alert rules, played through by Prometheus' own promtool: each fires on what it is for, none on a quiet day."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.native import give_up

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"

W = '{job="nametag",instance="a:9464"'
"""The labels of one worker's series, left open."""

QUIET = {
    f"up{W}}}": "1x60",
    f'nametag_partition_processable_lag{W},topic="posts",partition="0"}}': "40+0x30 10+0x30",
    f"nametag_oldest_post_in_flight_seconds{W}}}": "2x60",
    f'nametag_posts_total{W},outcome="event"}}': "0+6000x60",
    f'nametag_posts_total{W},outcome="dead_letter"}}': "0+60x60",
    f'nametag_images_total{W},status="used"}}': "0+900x60",
    f'nametag_images_total{W},status="not_found"}}': "0+100x60",
    f'nametag_images_total{W},status="none"}}': "0+5000x60",
    f'nametag_cache_events_total{W},event="miss"}}': "0+100x60",
    f'nametag_checkpoint_info{W},id="1",variant="text"}}': "1x60",
    f"nametag_device_busy_seconds_total{W}}}": "0+45x60",
    f"nametag_batch_posts_sum{W}}}": "0+800x60",
    f"nametag_batch_posts_count{W}}}": "0+50x60",
    f"nametag_tagger_process_start_time_seconds{W}}}": "1700000000x30 1700001800x30",
    f'nametag_batch_limit{W},of="posts"}}': "32x60",
    f'nametag_batch_limit{W},of="images"}}': "16x60",
    f'nametag_batch_tokens_total{W},kind="post"}}': "0+750x60",
    f'nametag_batch_tokens_total{W},kind="padding"}}': "0+250x60",
    f'nametag_post_latency_seconds_bucket{W},le="1.0"}}': "0+6060x60",
    f'nametag_post_latency_seconds_bucket{W},le="60.0"}}': "0+6060x60",
    f'nametag_post_latency_seconds_bucket{W},le="+Inf"}}': "0+6060x60",
}
"""A busy day without trouble."""

HANDED_OVER = {
    f'nametag_partition_processable_lag{worker},topic="posts",partition="0"}}': "500+5x60"
    for worker in (W, W.replace("a:9464", "b:9464"))
}
"""A partition that two workers tell of: less waits than the two together say."""

SHARES = {"nametag:device_idle:ratio": 0.25, "nametag:batch_fill:ratio": 0.5, "nametag:padding:ratio": 0.25}
"""What the recording rules make of it."""

TROUBLE: dict[str, dict[str, str]] = {
    "NametagWorkerDown": {f"up{W}}}": "1x10 0x50"},
    "NametagNoWorker": {f"up{W}}}": "1x10"},
    "NametagPostStuck": {f"nametag_oldest_post_in_flight_seconds{W}}}": "0+60x60"},
    "NametagFallsBehind": {f'nametag_partition_processable_lag{W},topic="posts",partition="0"}}': "0+600x60"},
    "NametagEventsLate": {f'nametag_post_latency_seconds_bucket{W},le="1.0"}}': "0+600x60"},
    "NametagCanNotPublish": {f'nametag_publish_failures_total{W},error="PublishAborted"}}': "0+2x60"},
    "NametagTaggerFails": {f'nametag_dead_letters_total{W},reason="tagging_failed"}}': "0x45 1x15"},
    "NametagManyDeadLetters": {f'nametag_posts_total{W},outcome="dead_letter"}}': "0+600x60"},
    "NametagDeletesUnsure": {
        f"nametag_purge_failures_total{W}}}": "0x45 1x15",
        f"nametag_unsure_deletes_total{W}}}": "0x60",
    },
    "NametagCacheAway": {f'nametag_cache_events_total{W},event="bypassed"}}': "0+10x60"},
    "NametagPicturesMissing": {f'nametag_images_total{W},status="not_found"}}': "0+2000x60"},
    "NametagDeviceShort": {f'nametag_batch_limit{W},of="images"}}': "16x30 8x30"},
    "NametagTaggerDies": {f"nametag_tagger_process_start_time_seconds{W}}}": "1700000000+100x60"},
    "NametagCheckpointRefused": {f'nametag_checkpoint_changes_total{W},result="refused"}}': "0x45 1x15"},
    "NametagCheckpointsDiffer": {
        'nametag_checkpoint_info{job="nametag",instance="b:9464",id="2",variant="text"}': "1x60"
    },
}
"""What a day has instead of the quiet one's, for each alert."""


def day(name: str, series: dict[str, str], firing: str | None) -> dict[str, Any]:
    """A day for promtool. Where one is `firing`, it counts that alert; where none, it counts all."""
    which = f'alertname="{firing}",alertstate="firing"' if firing else 'alertstate="firing"'
    expected = [{"labels": "{}", "value": 1}] if firing else []
    checks = [{"expr": f"count(ALERTS{{{which}}})", "eval_time": "55m", "exp_samples": expected}]
    if firing is None:
        one = f"{W[1:]}"
        checks += [
            {"expr": record, "eval_time": "30m", "exp_samples": [{"labels": f"{record}{{{one}}}", "value": value}]}
            for record, value in SHARES.items()
        ]
    values = [{"series": each, "values": numbers} for each, numbers in series.items()]
    return {"name": name, "interval": "1m", "input_series": values, "promql_expr_test": checks}


def test_the_alerts_fire_on_what_they_are_for(tmp_path: Path) -> None:
    """Prometheus' own promtool checks the rules, and plays a day without trouble and one of each kind."""
    promtool = shutil.which("promtool")
    if promtool is None:
        give_up("no promtool here: `make services` installs it, with Prometheus")
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    assert TROUBLE.keys() == {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    quiet = [day("quiet", QUIET, None), day("handed over", QUIET | HANDED_OVER, None)]
    days = [*quiet, *(day(name, QUIET | changes, name) for name, changes in TROUBLE.items())]
    played = tmp_path / "days.yml"
    told = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": days}
    played.write_text(yaml.safe_dump(told), encoding="utf-8")
    for arguments in (["check", "rules", str(ALERTS)], ["test", "rules", str(played)]):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
