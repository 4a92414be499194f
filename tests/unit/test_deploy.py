"""Images, compose file and manifests agree with the worker and one another. tests/containers tries them for real."""

import asyncio
import importlib.util
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from model import checkpoint
from model.tower_file import tower_file
from tests.simulation.costs import Costs
from tests.simulation.sizing import size_for
from worker import addresses
from worker.metrics import Metrics
from worker.pipeline_state import PipelineState
from worker.settings import STARTER_CHECKPOINT, Settings
from worker.settings_loading import load_settings

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
COMPONENTS = ("keda", "prometheus-operator", "checkpoints", "tracing")
OVERLAYS = ("cpu", "gpu")
DOCKERFILE = DEPLOY / "nametag.Dockerfile"
PORT = Settings().server.port

# The seconds that a worker may need beside shutdown_seconds, to leave the group and to end its threads.
GOODBYE_SECONDS = 15

Document = dict[str, Any]


def script(name: str) -> ModuleType:
    """A file of deploy/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"nametag_deploy_{name}", DEPLOY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load(path: Path) -> Document:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def compose() -> Document:
    """The compose file, with what stands for variables that nobody set."""
    text = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)))


def services() -> dict[str, Document]:
    return dict(compose()["services"])


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as our patches go: mappings by key, lists of named items by name, all else replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in item for item in base + patch):
        patched = {item["name"]: item for item in patch}
        kept = [merged(item, patched.pop(item["name"], {})) for item in base]
        return kept + list(patched.values())
    return patch


def manifests(overlay: str, *more: str) -> dict[str, Document]:
    """The documents of an overlay and of `more` components, by kind and the name's part behind `nametag-worker`."""
    folder = KUBERNETES / "overlays" / overlay
    kustomization = load(folder / "kustomization.yaml")
    folders = [(folder / each).resolve() for each in kustomization["resources"] + kustomization["components"]]
    folders += [KUBERNETES / "components" / name for name in more]
    found: dict[str, Document] = {}
    for each in (*folders, folder):
        part = load(each / "kustomization.yaml")
        for document in (load(each / name) for name in part["resources"]) if each != folder else ():
            key = document["kind"] + document["metadata"]["name"].partition("nametag-worker")[2]
            assert found.setdefault(key, document) is document, f"two {key}"
        for patch in part.get("patches", []):
            document = load(each / patch["path"])
            found[document["kind"]] = merged(found[document["kind"]], document)
    return found


def pod(overlay: str) -> Document:
    return dict(manifests(overlay)["Deployment"]["spec"]["template"]["spec"])


def container(overlay: str) -> Document:
    (only,) = pod(overlay)["containers"]
    return dict(only)


def cluster_variables(overlay: str, *components: str) -> dict[str, str]:
    """What a pod's environment holds of ours, without the secret."""
    variables: dict[str, str] = {}
    for folder in (BASE, *(KUBERNETES / "components" / name for name in components)):
        (generator,) = load(folder / "kustomization.yaml")["configMapGenerator"]
        assert generator["name"] == "nametag"
        variables |= dict(literal.split("=", 1) for literal in generator["literals"])
    return variables | {each["name"]: each["value"] for each in container(overlay).get("env", [])}


def dockerfile() -> str:
    return DOCKERFILE.read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    """The text of each stage, by its name."""
    parts = re.split(r"^FROM \S+ AS (\w+)$", dockerfile(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def image_variables() -> dict[str, str]:
    """What the worker's image sets; of two values the later, which is the CPU's."""
    text = dockerfile().replace("\\\n", " ")
    lines = (shlex.split(line.removeprefix("ENV")) for line in text.splitlines() if line.startswith("ENV "))
    return dict(pair.split("=", 1) for line in lines for pair in line)


def files() -> Iterator[Path]:
    """All that is read by an engine or a cluster."""
    yield REPOSITORY / "docker-compose.yml"
    yield from DEPLOY.glob("*.Dockerfile")
    yield from KUBERNETES.rglob("*.yaml")
    yield DEPLOY / "prometheus" / "prometheus.yml"


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


def test_the_checkpoint_that_is_switched_is_the_one_that_is_watched() -> None:
    """The trainer writes where the worker looks, on the same volume, and the worker can't write there."""
    worker, trainer = services()["worker"], services()["trainer"]
    watched = worker["environment"]["NAMETAG_CHECKPOINTS__WATCH"]
    assert trainer["entrypoint"][-1] == watched
    assert "checkpoints:/checkpoints:ro" in worker["volumes"]
    assert "checkpoints:/checkpoints" in trainer["volumes"]
    assert trainer["profiles"] == ["train"]


def test_the_services_are_all_there_and_wait_for_one_another() -> None:
    """One command brings everything but the trainer; what is waited for to be healthy has a check of its health."""
    found = services()
    assert set(found) >= {"kafka", "redis", "worker", "live", "samples", "prometheus", "grafana", "trainer"}
    for service in found.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert found[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", ["kafka", "redis", "samples", "prometheus", "grafana"])
def test_what_keeps_running_has_a_healthcheck(name: str) -> None:
    """The engine can tell which one is ill; the worker's check is in its image."""
    assert services()[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", services())
def test_services_have_no_right_too_many(name: str) -> None:
    """No capability, no way to get one, no port but on loopback, and no file of the image's that can be written."""
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not service.get("privileged")
    assert service.get("read_only") or service["image"].startswith("apache/kafka")


def test_what_compose_mounts_is_there() -> None:
    """Each file and folder of ours that a service is given exists, and each volume is declared."""
    declared = compose()["volumes"]
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":", 1)[0]
            if source.startswith("./deploy"):
                assert (REPOSITORY / source).exists(), source
            elif volume != "./data:/data:ro":
                assert source in declared


def test_the_topics_are_the_workers() -> None:
    """The topics that compose makes are those that a worker uses by default, and the samples go to the first."""
    made = set(re.findall(r"--topic (\S+)", services()["topics"]["command"][-1]))
    kafka = Settings().kafka
    assert made == {kafka.posts_topic, kafka.entities_topic, kafka.dead_letters_topic}
    sent = re.search(r'"--topic", default="(.+?)"', (DEPLOY / "sample_posts.py").read_text(encoding="utf-8"))
    assert sent and sent[1] == kafka.posts_topic


def test_no_more_workers_than_partitions() -> None:
    """KEDA stops at the number of partitions that the topics are made with here."""
    partitions = re.search(r"--partitions (\d+)", services()["topics"]["command"][-1])
    assert partitions
    assert manifests("cpu")["ScaledObject"]["spec"]["maxReplicaCount"] == int(partitions[1])


def test_the_addresses_inside_compose_match() -> None:
    """The broker's inner listener, Redis, the pictures and the worker are asked for where they are."""
    found = services()
    variables = found["worker"]["environment"]
    inner = variables["NAMETAG_KAFKA__BOOTSTRAP_SERVERS"]
    assert f"INTERNAL://{inner}," in found["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert inner in found["samples"]["command"]
    assert variables["NAMETAG_REDIS__URL"] == "redis://redis:6379/0"
    assert variables["NAMETAG_IMAGES__ALLOW_ORIGINS"] in found["samples"]["command"]


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


def test_workers_can_be_several() -> None:
    """Nothing of the worker's is there once only, and Prometheus asks every address of its name."""
    assert not {"ports", "container_name", "hostname"} & set(services()["worker"])
    assert services()["worker"]["environment"].keys().isdisjoint({"NAMETAG_KAFKA__GROUP_INSTANCE_ID"})
    job, *_ = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert job["dns_sd_configs"][0] | {"names": ["worker"], "type": "A"} == job["dns_sd_configs"][0]


def test_visitors_are_led_to_the_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers the lower address has all connections; when it is gone, the other one; with none, they end."""
    forward = script("forward")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        writer.write(request + b" by " + writer.get_extra_info("sockname")[0].encode())
        writer.close()

    async def visit(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a" * 100_000)
        writer.write_eof()
        answered = await reader.read()
        writer.close()
        return answered.lstrip(b"a")

    async def scenario() -> list[bytes]:
        later = await asyncio.start_server(answer, "127.0.0.10", 0)
        port = later.sockets[0].getsockname()[1]
        first = await asyncio.start_server(answer, "127.0.0.9", port)
        # Names that lead to several addresses of loopback aren't to be had, so only that look-up isn't real.
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.10", "127.0.0.9")
        ]

        async def look_up(host: str, *_given: Any, **_options: Any) -> list[Any]:
            return found if host == "workers" else await real(host, *_given, **_options)

        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", look_up)
        front = await asyncio.start_server(partial(forward.forward, name="workers", port=port), "127.0.0.1", 0)
        at = front.sockets[0].getsockname()[1]
        answers = [await visit(at), await visit(at)]
        for server in (first, later):
            server.close()
            answers.append(await visit(at))
        front.close()
        return answers

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == [b" by 127.0.0.9"] * 2 + [b" by 127.0.0.10", b""]


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_probed(overlay: str) -> None:
    """Health is asked for its life, readiness for its traffic, and a slow start isn't killed."""
    worker = container(overlay)
    paths = {probe: worker[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert all(where["port"] == "metrics" for where in paths.values())
    assert {probe: where["path"] for probe, where in paths.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert worker["startupProbe"]["periodSeconds"] * worker["startupProbe"]["failureThreshold"] >= 120


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_right_too_many(overlay: str) -> None:
    """Not root, the image's own number, a file system that can't be written, no capability, no token, bounded."""
    users = dockerfile()
    all_of_it, worker = pod(overlay), container(overlay)
    assert all_of_it["securityContext"]["runAsNonRoot"] is True
    assert f"USER {all_of_it['securityContext']['runAsUser']}:{all_of_it['securityContext']['runAsGroup']}\n" in users
    assert all_of_it["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all_of_it["automountServiceAccountToken"] is False
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {mount["mountPath"] for mount in worker["volumeMounts"]} == {"/tmp"}
    assert set(worker["resources"]["limits"]) >= {"cpu", "memory"}
    assert set(worker["resources"]["requests"]) == {"cpu", "memory"}


def test_the_overlays_run_on_their_device() -> None:
    """Each has its own image, device and, for the GPU, one of them; threads leave a core to asyncio and Kafka."""
    tags = {}
    for overlay in OVERLAYS:
        (image,) = load(KUBERNETES / "overlays" / overlay / "kustomization.yaml")["images"]
        assert image["name"] == container(overlay)["image"]
        tags[overlay] = (image["newTag"], cluster_variables(overlay)["NAMETAG_DEVICE"])
        cores = int(container(overlay)["resources"]["limits"]["cpu"])
        assert int(cluster_variables(overlay)["NAMETAG_THREADS"]) == cores - 1
    assert tags == {"cpu": ("cpu", "cpu"), "gpu": ("cuda", "cuda")}
    assert {"cpu", "cuda"} <= set(stages())
    assert container("gpu")["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_manifests_mean_the_same_pods(overlay: str) -> None:
    """The selectors of deployment, budget, policy and monitor are labels of the pods; KEDA scales the deployment."""
    found = manifests(overlay)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"],
        found["PodMonitor"]["spec"]["selector"],
        found["NetworkPolicy"]["spec"]["podSelector"],
    ]
    assert all(selector["matchLabels"].items() == labels.items() for selector in selectors)
    assert found["ScaledObject"]["spec"]["scaleTargetRef"] == {"name": found["Deployment"]["metadata"]["name"]}
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "replicas" not in found["Deployment"]["spec"]


def test_the_pods_are_as_scaling_reckons() -> None:
    """Cores, threads and memory of SCALING.md are those that pods ask for, and leave room above what was measured."""
    scaling = (DEPLOY / "SCALING.md").read_text(encoding="utf-8")
    told = re.search(r"Ask for (\d+) cores a worker, and `threads = (\d+)`", scaling)
    sized = re.search(r"\*\*(\d+) workers\*\* \((\d+) cores and (\d+) GiB", scaling)
    assert told and sized
    resources = container("cpu")["resources"]
    assert resources["requests"] == resources["limits"] == {"cpu": told[1], "memory": "3Gi"}
    assert cluster_variables("cpu")["NAMETAG_THREADS"] == told[2]
    workers, cores, gibibytes = map(int, sized.groups())
    assert (cores, gibibytes) == (workers * int(told[1]), workers * 3)
    size = size_for(500, Costs.measured())
    assert workers == size.workers
    assert f"**{size.partitions} partitions**" in scaling
    measured = json.loads((REPOSITORY / "tests" / "simulation" / "measured.json").read_text(encoding="utf-8"))
    assert 2 * measured["figures"]["captions_worker_and_decoders_rss_bytes"] < 3 * 2**30


def test_scaling_tells_what_stands_in_the_manifests() -> None:
    """The table of where figures go has the values that are there."""
    scaling = (DEPLOY / "SCALING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .+ \| (.+) \|$", scaling.partition("## In the manifests")[2], re.MULTILINE)
    stands = dict(rows)
    found = manifests("cpu")
    scaled, deployment = found["ScaledObject"]["spec"], found["Deployment"]["spec"]
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    surge = deployment["strategy"]["rollingUpdate"]["maxSurge"]
    assert stands["workers (step 3)"] == f"{scaled['minReplicaCount']}; {scaled['fallback']['replicas']}"
    assert stands["partitions (step 4)"] == str(scaled["maxReplicaCount"])
    assert stands["zones"] == f"`{spread['whenUnsatisfiable']}`"
    assert stands["updates, drains"] == f"{surge}; {found['PodDisruptionBudget']['spec']['maxUnavailable']}"
    assert stands["Redis (step 5)"] == f"{Settings().redis.max_value_bytes >> 20} MiB"
    (alert,) = (each for each in _alerts() if each["alert"] == "NametagFallsBehind")
    assert f"> {stands['the lag that alarms'].replace(',', '')}\n" in alert["expr"].replace(" and", "\n")


def _alerts() -> list[Document]:
    groups = load(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_keda_asks_for_what_workers_export() -> None:
    """The query sums the processable lag, and nothing told isn't taken for nothing waiting."""
    (trigger,) = manifests("cpu")["ScaledObject"]["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    metrics = Metrics()
    metrics.watch(PipelineState)
    exported = {family.name for family in metrics.registry.collect()}
    assert set(re.findall(r"nametag_\w+", trigger["metadata"]["query"])) <= exported
    assert trigger["metadata"]["query"].startswith("sum(")


def test_the_network_policy_is_the_guards() -> None:
    """Pods may go where the worker's guard lets it go: web ports, and no network that isn't public."""
    spec = manifests("cpu")["NetworkPolicy"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    blocks = [rule for rule in spec["egress"] if any("ipBlock" in peer for peer in rule["to"])]
    (pictures,) = blocks
    assert {port["port"] for port in pictures["ports"]} == set(addresses._PORTS)
    four, six = (peer["ipBlock"] for peer in pictures["to"])
    assert four["cidr"] == "0.0.0.0/0"
    assert six["cidr"] == str(addresses._GLOBAL_UNICAST)
    assert {*four["except"], *six["except"]} == set(map(str, addresses._NOT_DIALLED))
    assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} == {"metrics"}
    inside = {port["port"] for rule in spec["egress"] if rule is not pictures for port in rule["ports"]}
    assert inside == {53, 9092, 6379}


def test_traces_may_leave_and_go_where_they_are_sent() -> None:
    """The component lets workers' spans out to their endpoint's port and pods, and allows nothing else."""
    variables = cluster_variables("cpu", "tracing")
    assert variables["NAMETAG_TRACE"] == "true"
    endpoint = urlsplit(variables["OTEL_EXPORTER_OTLP_ENDPOINT"])
    found = manifests("cpu", "tracing")
    policy = found["NetworkPolicy-traces"]["spec"]
    assert policy["podSelector"] == found["NetworkPolicy"]["spec"]["podSelector"]
    assert policy["policyTypes"] == ["Egress"]
    (rule,) = policy["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": endpoint.port}]
    (collector,) = rule["to"]
    assert endpoint.hostname is not None
    label = collector["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
    assert endpoint.hostname.split(".")[0] == label


def test_a_trainers_checkpoint_reaches_the_pods() -> None:
    """Job and workers have one claim at one place, which workers can't write; the job switches what is watched."""
    found = manifests("cpu", "checkpoints")
    claim = found["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    job = load(KUBERNETES / "trainer" / "job.yaml")["spec"]["template"]["spec"]
    workers = found["Deployment"]["spec"]["template"]["spec"]
    for each, is_read_only in ((job, False), (workers, True)):
        (only,) = each["containers"]
        (mount,) = (mount for mount in only["volumeMounts"] if mount["name"] == "checkpoints")
        assert mount["mountPath"] == "/checkpoints"
        assert mount.get("readOnly", False) is is_read_only
        volumes = {volume["name"]: volume for volume in each["volumes"]}
        assert volumes["checkpoints"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert {mount["mountPath"] for mount in only["volumeMounts"]} == {"/tmp", "/checkpoints"}
        assert only["securityContext"] == container("cpu")["securityContext"]
        assert each["securityContext"] == pod("cpu")["securityContext"]
    *start, current = job["containers"][0]["command"]
    assert current == cluster_variables("cpu", "checkpoints")["NAMETAG_CHECKPOINTS__WATCH"]
    assert start[:-1] == services()["trainer"]["entrypoint"][:2]
    (image,) = load(KUBERNETES / "trainer" / "kustomization.yaml")["images"]
    assert image["name"] == job["containers"][0]["image"] == services()["trainer"]["image"]


def test_the_operators_alerts_are_the_alerts() -> None:
    """What Kubernetes gives the Prometheus Operator is what Prometheus is given elsewhere."""
    rules = manifests("cpu")["PrometheusRule"]["spec"]
    assert rules == load(DEPLOY / "prometheus" / "alerts.yml"), "run `make rules`"


def test_the_base_needs_no_operator() -> None:
    """Without its components an overlay holds what every cluster knows."""
    kinds = [load(BASE / name) for name in load(BASE / "kustomization.yaml")["resources"]]
    assert all("k8s.io" in kind["apiVersion"] or "." not in kind["apiVersion"] for kind in kinds)
    assert {path.name for path in (KUBERNETES / "components").iterdir()} == set(COMPONENTS)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which has kustomize in it")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_makes_of_it_what_the_other_tests_read(overlay: str, tmp_path: Path) -> None:
    """kubectl's own kustomize, with all components on: the same pods, settings and rules."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    kustomization = tmp_path / "kubernetes" / "overlays" / overlay / "kustomization.yaml"
    text = kustomization.read_text(encoding="utf-8").replace("  # - ../", "  - ../")
    kustomization.write_text(text, encoding="utf-8")
    assert len(load(kustomization)["components"]) == len(COMPONENTS)
    command = ["kubectl", "kustomize", str(kustomization.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made = {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(done.stdout)}
    (variables,) = (each["data"] for name, each in made.items() if name.startswith("ConfigMap nametag-"))
    wanted = cluster_variables(overlay, "checkpoints", "tracing")
    assert variables.items() <= wanted.items()
    pods = made["Deployment nametag-worker"]["spec"]["template"]["spec"]
    expected = manifests(overlay, "checkpoints")["Deployment"]["spec"]["template"]["spec"]
    for name in ("volumeMounts", "env", "resources"):
        assert _unordered(pods["containers"][0][name]) == _unordered(expected["containers"][0][name])
    assert _unordered(pods["volumes"]) == _unordered(expected["volumes"])
    (image,) = load(kustomization)["images"]
    assert pods["containers"][0]["image"] == f"nametag-worker:{image['newTag']}"
    for name in ("PrometheusRule", "ScaledObject", "PodMonitor"):
        assert made[f"{name} nametag-worker"]["spec"] == manifests(overlay)[name]["spec"]
    assert {"NetworkPolicy nametag-worker-traces", "PersistentVolumeClaim nametag-checkpoints"} <= made.keys()


def _unordered(items: Any) -> Any:
    return sorted(items, key=lambda item: str(item["name"])) if isinstance(items, list) else items


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


def test_sample_posts_have_new_ids_and_real_pictures() -> None:
    """Each round's ids are new, pictures are where they are served, and what can't be read is sent once."""
    samples = script("sample_posts")
    lines = [
        '{"id": "1", "text": "hi", "image_url": "http://images.example/a.jpg"}',
        '{"id": "2", "text": "no picture"}',
        '{"id": "3", "text": " "}',
        "no JSON",
    ]
    sent = list(islice(samples.messages(lines, "http://here:8000", "run"), 8))
    keys = [key for key, _ in sent]
    assert keys == [b"1-run-0", b"2-run-0", None, None, b"1-run-1", b"2-run-1", b"1-run-2", b"2-run-2"]
    assert b'"image_url": "http://here:8000/a.jpg"' in sent[0][1]


def test_a_trained_checkpoint_comes_with_its_tower(tmp_path: Path) -> None:
    """The switch puts checkpoint and learnt tower in place under the watched name, and takes the old tower away."""
    trained, current = tmp_path / "mine.safetensors", tmp_path / "checkpoints" / "current.safetensors"
    trained.write_bytes(STARTER_CHECKPOINT.read_bytes())
    digest = checkpoint.load(trained)[0].tower_digest
    tower_file(trained, digest).write_bytes(b"a tower")
    old = tower_file(current, "0" * 16)
    old.parent.mkdir()
    old.write_bytes(b"an old tower")
    script("train_and_switch").switch(trained, current)
    assert current.read_bytes() == trained.read_bytes()
    assert tower_file(current, digest).read_bytes() == b"a tower"
    assert {path.name for path in current.parent.iterdir()} == {current.name, tower_file(current, digest).name}


def test_a_training_that_fails_switches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong settings end in a sentence and status 1, and the worker keeps what it has."""
    settings, current = tmp_path / "train.toml", tmp_path / "current.safetensors"
    settings.write_text('train = "a.txt"\nvalid = "b.txt"\nout = "c.safetensors"\nbatch_size = 0\n')
    assert script("train_and_switch").main(settings, current) == 1
    assert "batch_size" in capsys.readouterr().err
    assert not current.exists()
