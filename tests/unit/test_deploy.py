"""Images, compose file and manifests agree with the worker and one another. tests/containers tries them for real."""

import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from tests.unit.deploy_files import (
    DEPLOY,
    DOCKERFILE,
    OVERLAYS,
    REPOSITORY,
    cluster_variables,
    container,
    dockerfile,
    files,
    load,
    manifests,
    pod,
    services,
    stages,
)
from worker.settings import Settings
from worker.settings_loading import load_settings

PORT = Settings().server.port

# The seconds that a worker may need beside shutdown_seconds, to leave the group and to end its threads.
GOODBYE_SECONDS = 15


def image_variables() -> dict[str, str]:
    """What the worker's image sets; of two values the later, which is the CPU's."""
    text = dockerfile().replace("\\\n", " ")
    lines = (shlex.split(line.removeprefix("ENV")) for line in text.splitlines() if line.startswith("ENV "))
    return dict(pair.split("=", 1) for line in lines for pair in line)


def duration(text: str) -> float:
    match = re.fullmatch(r"(\d+)s", text)
    assert match, text
    return float(match[1])


WORKERS = {
    "image": image_variables,
    "compose": lambda: services()["worker"]["environment"],
    "cpu": lambda: cluster_variables("cpu"),
    "gpu": lambda: cluster_variables("gpu"),
    "components": lambda: cluster_variables("cpu", "checkpoints", "tracing"),
}


@pytest.mark.parametrize("where", WORKERS)
def test_the_variables_are_settings(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is started with these takes all of them, and listens where others reach it."""
    variables = {name: value for name, value in WORKERS[where]().items() if name.startswith("NAMETAG_") and value}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.server.host == "0.0.0.0"
    assert settings.kafka.group_instance_id is None


def test_no_other_variable_of_ours_is_named() -> None:
    """What begins like a setting in any of the files is one; a shell that exports another can't start a worker."""
    tables = {name: kind.annotation for name, kind in Settings.model_fields.items()}
    known = set(tables) | {
        f"{name}__{key}" for name, kind in tables.items() for key in getattr(kind, "model_fields", {})
    }
    for path in files():
        for name in re.findall(r"\bNAMETAG_([A-Z_]+)", path.read_text(encoding="utf-8")):
            assert name.lower() in known, f"{path.name}: NAMETAG_{name}"


def test_the_port_is_the_same_everywhere() -> None:
    """Image, compose, Prometheus, probes and network policy name the port that the worker listens on."""
    assert f"EXPOSE {PORT}\n" in stages()["cuda"]
    assert f"127.0.0.1:{PORT}/healthz" in stages()["cuda"]
    assert services()["live"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert services()["live"]["command"] == [str(PORT), "worker"]
    job, *_ = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert job["dns_sd_configs"][0]["port"] == PORT
    for overlay in OVERLAYS:
        assert container(overlay)["ports"] == [{"name": "metrics", "containerPort": PORT}]
        assert cluster_variables(overlay)["NAMETAG_SERVER__PORT"] == str(PORT)


def test_prometheus_has_its_rules_and_the_name_of_the_job() -> None:
    """The rules that are named are there, and the alerts' job is the one that is scraped."""
    config = load(DEPLOY / "prometheus" / "prometheus.yml")
    assert all((DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"])
    assert config["scrape_configs"][0]["job_name"] == "nametag"
    assert config["scrape_configs"][0]["dns_sd_configs"][0]["names"] == ["worker"]
    labels = manifests("cpu")["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels[manifests("cpu")["PodMonitor"]["spec"]["jobLabel"]] == "nametag"


def test_a_worker_has_time_to_end() -> None:
    """Whoever stops a worker waits longer than it may take."""
    wanted = Settings().shutdown_seconds + GOODBYE_SECONDS
    assert duration(services()["worker"]["stop_grace_period"]) > wanted
    for overlay in OVERLAYS:
        assert float(cluster_variables(overlay)["NAMETAG_SHUTDOWN_SECONDS"]) == Settings().shutdown_seconds
        assert pod(overlay)["terminationGracePeriodSeconds"] > wanted


def test_no_secret_and_no_registry_is_baked_in() -> None:
    """No password, token or login has a value, no address has one in it, and none leads out of the network."""
    inside = ("127.0.0.1", "prometheus-operated.monitoring", "opentelemetry-collector.observability")
    for path in files():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?i)(password|token|secret|username)\w*['\"]?[:=][ ]*['\"]?[\w$]", _code(text)), path
        assert not re.search(r"//[^/\s\"']+@", text), path
        for host in re.findall(r"https?://([\w.-]+)", text):
            assert "." not in host or host in inside, f"{path}: {host}"


def _code(text: str) -> str:
    """Without comments, and without the one field whose name is like a secret's and whose value says no."""
    return re.sub(r"(?m)^\s*#.*$|automountServiceAccountToken: false", "", text)


def test_images_are_run_by_their_own_user() -> None:
    """The one user is a number above 0, and the program is started by no shell that would keep signals to itself."""
    (user,) = re.findall(r"^USER (\d+):(\d+)$", dockerfile(), re.MULTILINE)
    assert all(int(number) >= 10000 for number in user)
    assert "USER" in stages()["nametag"]
    assert re.findall(r"^ENTRYPOINT .*$", dockerfile(), re.MULTILINE) == ['ENTRYPOINT ["nametag"]']


def test_the_images_have_a_stage_each() -> None:
    """What compose builds is a stage, the last and so the default is the CPU's worker, and workers have a check."""
    found = stages()
    assert list(found)[-1] == "cpu"
    for name in ("worker", "trainer"):
        build = services()[name]["build"]
        assert REPOSITORY / build["dockerfile"] == DOCKERFILE
        assert build["target"] in found
        assert build["args"] == {"PIP_OPTIONS": ""}
    assert "FROM cuda AS cpu" in dockerfile()
    assert "HEALTHCHECK --interval" in found["cuda"]
    assert "HEALTHCHECK NONE" in found["trainer"]


def test_images_have_the_extras_that_settings_ask_for() -> None:
    """The command that lists what is installed names tracing's packages by default, and not where no extra is."""
    dependencies = stages()["dependencies"]
    default = re.search(r'^ARG EXTRAS="(.*)"$', dependencies, re.MULTILINE)
    command = re.search(r'python -c ".+?" \\\n +\$\{EXTRAS\}', dependencies, re.DOTALL)
    assert default and command
    listed = {}
    for extras in (default[1], ""):
        script = command[0].replace("python", shlex.quote(sys.executable), 1).replace("${EXTRAS}", extras)
        done = subprocess.run(["sh", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        listed[extras] = done.stdout.splitlines()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert listed[""] == project["dependencies"]
    assert listed["tracing"] == project["dependencies"] + project["optional-dependencies"]["tracing"]


def test_what_images_are_built_from_is_let_through() -> None:
    """All else stays out of the build: data, checkpoints and settings with secrets that lie about."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    first, *let_through = (line for line in lines if not line.startswith("#"))
    assert first == "*"
    copies = [line.split()[1:-1] for line in dockerfile().splitlines() if re.match(r"COPY (?!--from)", line)]
    for source in (source for sources in copies for source in sources):
        assert f"!{source}" in let_through
        assert (REPOSITORY / source).exists()
