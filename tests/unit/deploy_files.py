"""What stands in deploy/ and the compose file, read for the tests that compare it."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
COMPONENTS = ("keda", "prometheus-operator", "checkpoints", "tracing")
OVERLAYS = ("cpu", "gpu")
DOCKERFILE = DEPLOY / "nametag.Dockerfile"

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
    """A YAML file of one document."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def compose() -> Document:
    """The compose file, with what stands for variables that nobody set."""
    text = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)))


def services() -> dict[str, Document]:
    """The compose file's services, by name."""
    return dict(compose()["services"])


def option(command: list[str], name: str) -> str:
    """The value of `--name` in a command."""
    return command[command.index(f"--{name}") + 1]


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
    """A worker's pod."""
    return dict(manifests(overlay)["Deployment"]["spec"]["template"]["spec"])


def container(overlay: str) -> Document:
    """The one container of a worker's pod."""
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
    """Its text."""
    return DOCKERFILE.read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    """The text of each stage, by its name."""
    parts = re.split(r"^FROM \S+ AS (\w+)$", dockerfile(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def files() -> Iterator[Path]:
    """All that is read by an engine or a cluster."""
    yield REPOSITORY / "docker-compose.yml"
    yield from DEPLOY.glob("*.Dockerfile")
    yield from KUBERNETES.rglob("*.yaml")
    yield DEPLOY / "prometheus" / "prometheus.yml"
