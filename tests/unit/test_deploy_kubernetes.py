"""The manifests agree with the worker, with one another and with what SCALING.md says of them."""

import json
import math
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.simulation.costs import Costs
from tests.simulation.sizing import size_for
from tests.unit.deploy_files import (
    BASE,
    COMPONENTS,
    DEPLOY,
    KUBERNETES,
    OVERLAYS,
    REPOSITORY,
    Document,
    cluster_variables,
    container,
    dockerfile,
    load,
    manifests,
    option,
    pod,
    services,
    stages,
)
from worker import addresses
from worker.metrics import Metrics
from worker.pipeline_state import PipelineState
from worker.settings import Settings

ZONES = 3
"""Those of the fleets in SCALING.md."""


def test_no_more_workers_than_partitions() -> None:
    """KEDA stops at the number of partitions that the topics are made with here."""
    partitions = re.search(r"--partitions (\d+)", services()["topics"]["command"][-1])
    assert partitions
    assert manifests("cpu")["ScaledObject"]["spec"]["maxReplicaCount"] == int(partitions[1])


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
        # On a CUDA device more threads only wait for one another.
        assert int(cluster_variables(overlay)["NAMETAG_THREADS"]) == (cores - 1 if overlay == "cpu" else 1)
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


def test_scaling_adds_what_no_measurement_has_confirmed() -> None:
    """Beside the model's workers stand those to begin with: a quarter more, in whole zones, and partitions."""
    scaling = (DEPLOY / "SCALING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*(workers|to begin with)\*\*.*? \| (.+?) \| (.+?) \| .+ \|$", scaling, re.MULTILINE)
    told = {
        name: [[int(word) for word in re.sub("[*,]", "", each).split(";")] for each in cells] for name, *cells in rows
    }
    for (workers,), begin in zip(told["workers"], told["to begin with"], strict=True):
        more = ZONES * math.ceil(1.25 * workers / ZONES)
        assert begin == [more, (ZONES - 1) * more]


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
    maxmemory = option(shlex.split(services()["redis-deletes"]["command"]), "maxmemory")
    assert stands["marks of deletes"] == maxmemory.replace("mb", " MiB")
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


def test_workers_may_go_where_settings_send_them() -> None:
    """Brokers, cache and marks of deletes have their service's name as pods, and their addresses' ports are open."""
    variables = cluster_variables("cpu")
    allowed = {
        (peer["podSelector"]["matchLabels"].get("app.kubernetes.io/name"), port["port"])
        for rule in manifests("cpu")["NetworkPolicy"]["spec"]["egress"]
        for peer in rule["to"]
        if "podSelector" in peer
        for port in rule["ports"]
    }
    named = [
        f"kafka://{variables['NAMETAG_KAFKA__BOOTSTRAP_SERVERS']}",
        variables["NAMETAG_REDIS__URL"],
        variables["NAMETAG_REDIS__DELETES_URL"],
    ]
    assert len(set(named)) == 3
    for address in map(urlsplit, named):
        assert address.hostname is not None
        assert (address.hostname.split(".")[0], address.port) in allowed


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
    variables = cluster_variables("cpu", "checkpoints")
    assert current == variables["NAMETAG_CHECKPOINTS__WATCH"]
    # The practice set's is refused by the default.
    agreement = "NAMETAG_CHECKPOINTS__LEAST_AGREEMENT_ON_SAMPLE"
    assert float(variables[agreement]) == float(services()["worker"]["environment"][agreement]) == 0
    assert agreement in (KUBERNETES / "README.md").read_text(encoding="utf-8")
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
