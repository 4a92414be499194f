"""`nametag doctor` where there is no service: settings, checkpoint, device, and how it is told."""

import io
import json
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from consumers.checks import Check
from model.checkpoint import load, save
from worker.cli import main
from worker.doctor import print_check, summary
from worker.model_checks import check_model, cores_allowed
from worker.redis_checks import check_redis
from worker.settings import STARTER_CHECKPOINT, RedisTable, Settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own."""
    for name in os.environ:
        if name.upper().startswith("NAMETAG_"):
            monkeypatch.delenv(name)


def closed_port() -> int:
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])


def model(**fields: Any) -> dict[str, Check]:
    return {check.name: check for check in check_model(Settings(**fields), seconds=60)}


def test_without_a_redis_there_is_nothing_to_check() -> None:
    """The cache is kept in memory then."""
    (check,) = check_redis(RedisTable(), seconds=5)
    assert (check.state, check.fix) == ("skipped", "")


def test_a_watched_key_needs_a_redis() -> None:
    """The worker would not start without."""
    check = check_redis(RedisTable(), watch_key="nametag:checkpoint", seconds=5)[-1]
    assert (check.name, check.state) == ("redis.watch_key", "fail")
    assert check.fix.startswith("set redis.url")


def test_a_sound_checkpoint_is_told_with_its_id() -> None:
    """The shipped one, on the CPU: all is well."""
    found = model(threads=1)
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(
        ("images", "checkpoint", "device", "threads"), "ok"
    )
    assert "attention_gate, with its tower" in found["checkpoint"].seen
    assert "GiB" in found["device"].seen


def test_a_bad_checkpoint_is_told(tmp_path: Path) -> None:
    """One that isn't there, and one that is cut short."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"x" * 100)
    for path, reason in ((tmp_path / "none.safetensors", "No such file"), (broken, "cut short")):
        found = model(checkpoint=path)
        assert found["checkpoint"].state == "fail"
        assert reason in found["checkpoint"].seen
        assert "NAMETAG_CHECKPOINT" in found["checkpoint"].fix
        assert "nametag train" not in found["checkpoint"].seen
        assert found["device"].state == "ok"


def test_what_a_checkpoint_lacks_is_told_once(tmp_path: Path) -> None:
    """Its tower is another: the advice is the error's own, which knows the tower's name."""
    path = tmp_path / "other.safetensors"
    shutil.copy(STARTER_CHECKPOINT, path)
    loaded, _ = load(path)
    save(replace(loaded, tower_digest="0" * 64), path)
    found = model(checkpoint=path)["checkpoint"]
    assert found.state == "fail"
    assert "was trained on another" in found.seen
    assert "beside it" not in found.seen
    assert found.fix.startswith("put other.")
    assert "beside it" in found.fix


def test_the_watched_place_is_among_the_checks(tmp_path: Path) -> None:
    """Where one is set."""
    assert model(checkpoints={"watch": tmp_path / "x"})["checkpoints.watch"].state == "ok"


def test_a_precision_that_the_device_has_not_is_told() -> None:
    """With what to set."""
    found = model(tower_precision="bf16")["device"]
    assert (found.state, found.fix) == ("fail", "set tower_precision to fp32")
    assert "bf16 is for CUDA devices, and device is cpu" in found.seen


@pytest.mark.parametrize(("device", "fix"), [("cuda:77", "set device to "), ("toaster", "set device to cpu, cuda")])
def test_a_device_that_is_not_there_is_told(device: str, fix: str) -> None:
    """No card of that number, or no such kind; the checkpoint is checked all the same."""
    found = model(device=device)
    assert found["device"].state == "fail"
    assert device in found["device"].seen
    assert fix in found["device"].fix
    assert found["checkpoint"].state == "ok"


def test_a_device_of_its_own_leaves_one_thread_to_the_cores() -> None:
    """Where nobody says otherwise: more of them wait for little things."""
    assert model(device="cuda:77")["threads"].seen.startswith("the tagger has 1 of ")
    assert model(device="cuda:77", threads=2)["threads"].seen.startswith("the tagger has 2 ")


def test_more_threads_than_cores_are_told() -> None:
    """They would wait for one another."""
    found = model(threads=1000)["threads"]
    assert (found.state, found.fix[:14]) == ("warn", "set threads to")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_cores_are_those_of_the_control_group(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    """Of both versions of control groups; without a quota they are this process's."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cores_allowed(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_a_wrong_proxy_is_told_without_its_password() -> None:
    """As the worker would tell it, before it starts."""
    found = model(images={"proxy": "ftp://me:hush@proxy"})["images"]
    assert found.state == "fail"
    assert "images.proxy" in found.seen
    assert "hush" not in str(found)


def test_wrong_settings_are_the_first_thing_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the only one: nothing else can be looked at then."""
    path = tmp_path / "nametag.toml"
    for text, told in (
        ("[kafka]\ngroup = 1\n", "kafka.group"),
        ('[kafka]\nsecurity_protocol = "SASL_SSL"\n', "sasl_mech"),
    ):
        path.write_text(text)
        assert main(["doctor", "--config", str(path)]) == 1
        first, *others, last = capsys.readouterr().out.splitlines()
        assert first.startswith("fail    settings")
        assert told in first
        assert " → " in first
        assert all(line.startswith("skipped") for line in others)
        assert last == "not ready: settings"


def test_programs_get_json_and_people_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same checks both ways, plain where it is no terminal, status 1, and no password in either."""
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{closed_port()}")
    monkeypatch.setenv("NAMETAG_KAFKA__SASL_PASSWORD", "hush")
    monkeypatch.setenv("NAMETAG_SERVER__PORT", "0")
    monkeypatch.setenv("NAMETAG_REDIS__URL", f"redis://me:hush@127.0.0.1:{closed_port()}/0")
    assert main(["doctor", "--json"]) == 1
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "hush" not in told.out + told.err + shown.out + shown.err
    assert "\x1b" not in shown.out
    assert told.err == shown.err == ""
    assert report["ok"] is False
    assert [check["name"] for check in report["checks"] if check["state"] == "fail"] == ["kafka.tcp", "redis.tcp"]
    assert all(check["fix"] for check in report["checks"] if check["state"] in ("fail", "warn"))
    assert [line.split()[:2] for line in shown.out.splitlines()[:-1]] == [
        [check["state"], check["name"]] for check in report["checks"]
    ]
    assert shown.out.splitlines()[-1].startswith("not ready: kafka.tcp, redis.tcp")


def test_a_line_is_in_colour_on_a_terminal_and_harmless() -> None:
    """What a server said can't drive the terminal; a check is one line, however long."""
    out = io.StringIO()
    check = Check("kafka.login", "fail", "it says \x1b[2J\n" + "x" * 200, "do [bold]this")
    print_check(check, Console(file=out, force_terminal=True, width=80, color_system="256"))
    told = out.getvalue()
    assert told.count("\n") == 1
    assert "\x1b[2J" not in told
    assert "\x1b[1;38;5;203m" in told
    assert "do [bold]this" in told


def test_the_last_line_tells_how_it_stands() -> None:
    """Each check that failed once, and how many warnings."""
    well, odd, bad = Check("a", "ok", ""), Check("b", "warn", ""), Check("c", "fail", "")
    assert summary([well]) == "ready"
    assert summary([well, odd]) == "ready (1 to look at)"
    assert summary([bad, odd, bad]) == "not ready: c (1 to look at)"
