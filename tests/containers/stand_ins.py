"""Stand-ins for the images that can't be pulled here: Debian's own programs, under the names that are asked for.

What they have in common with the real ones is what ours lean on: the programs' paths, the user, the folders and the
variables. They aren't small.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.containers.engine import Engine, TrialError
from tests.native import native_services

PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

# Java puts links among the manuals, which slim images are without.
APT = (
    "mkdir -p /usr/share/man/man1 && apt-get update -qq"
    " && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
)

KAFKA = f"""\
FROM python:3.12-slim
RUN {APT} openjdk-17-jre-headless && useradd --uid 1000 appuser \\
    && mkdir -p /var/lib/kafka/data && chown appuser /var/lib/kafka/data
COPY jars /opt/kafka/libs
COPY --chmod=755 kafka.sh /opt/kafka/bin/kafka.sh
COPY --chmod=755 kafka-topics.sh /opt/kafka/bin/kafka-topics.sh
USER appuser
CMD ["/opt/kafka/bin/kafka.sh"]
"""

# As the real image does it: KAFKA_A_B is the property a.b.
KAFKA_SH = """\
#!/bin/sh
set -ef
env | sed -n 's/^KAFKA_//p' | grep -v '^HEAP_OPTS=' | while IFS='=' read -r name value; do
    echo "$(echo "$name" | tr 'A-Z_' 'a-z.')=$value"
done > /tmp/server.properties
java="java $KAFKA_HEAP_OPTS -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp /opt/kafka/libs/*"
settings=/tmp/server.properties
$java kafka.tools.StorageTool format --ignore-formatted --cluster-id 5L6g3nShT-eMCtK--X86sw --config $settings
exec $java kafka.Kafka $settings
"""

TOPICS_SH = """\
#!/bin/sh
exec java -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '/opt/kafka/libs/*' \\
    org.apache.kafka.tools.TopicCommand "$@"
"""

REDIS = f"""\
FROM python:3.12-slim
RUN groupadd --gid 999 redis && useradd --uid 999 --gid 999 redis && {APT} redis-server \\
    && mkdir /data && chown redis:redis /data
WORKDIR /data
CMD ["redis-server"]
"""

PROMETHEUS = f"""\
FROM python:3.12-slim
RUN {APT} prometheus wget && mkdir /prometheus && chown nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""


def make_stand_ins(engine: Engine, folder: Path, images: dict[str, str]) -> None:
    """Make those of `images` that aren't there, by service. Raises `TrialError`."""
    recipes = {"kafka": KAFKA, "redis": REDIS, "prometheus": PROMETHEUS}
    _make_python(engine, folder, images["python"])
    for service, recipe in recipes.items():
        if not _is_there(engine, images[service]):
            with tempfile.TemporaryDirectory(dir=folder) as context:
                _fill(Path(context), recipe)
                engine.docker("build", "--tag", images[service], context, timeout=600)


def _is_there(engine: Engine, image: str) -> bool:
    return bool(engine.docker("images", "--quiet", image).strip())


def _make_python(engine: Engine, folder: Path, image: str) -> None:
    if _is_there(engine, image):
        return
    release = next(
        line.partition("=")[2].strip('"')
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    root = folder / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise TrialError(f"debootstrap ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    (root / "usr/bin/python").symlink_to("python3")
    # This machine's authorities, so that pip trusts whom it trusts here.
    shutil.copyfile(AUTHORITIES, root / AUTHORITIES.relative_to("/"))
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists"):
        shutil.rmtree(root / name, ignore_errors=True)
    packed = subprocess.run(["tar", "-C", str(root), "-c", "."], capture_output=True, check=True)
    engine.docker("import", "--change", f"ENV PIP_CERT={AUTHORITIES}", "-", image, given=packed.stdout)
    shutil.rmtree(root)


def _fill(context: Path, recipe: str) -> None:
    (context / "Dockerfile").write_text(recipe, encoding="utf-8")
    if recipe is KAFKA:
        (context / "kafka.sh").write_text(KAFKA_SH, encoding="utf-8")
        (context / "kafka-topics.sh").write_text(TOPICS_SH, encoding="utf-8")
        services = native_services()
        shutil.copytree(services.kafka_jars(), context / "jars")
        _add_tools(services.POM.read_text(encoding="utf-8"), context)


def _add_tools(pom: str, context: Path) -> None:
    """The commands' own jars, which the broker doesn't need."""
    match = re.search(r"<artifactId>(kafka_[\d.]+)</artifactId>", pom)
    assert match, "pom.xml names the broker"
    (context / "pom.xml").write_text(pom.replace(match[1], "kafka-tools"), encoding="utf-8")
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={context / 'jars'}"]
    command = ["mvn", "-q", "-B", "-f", str(context / "pom.xml"), "dependency:copy-dependencies", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise TrialError(f"Maven can't fetch Kafka's commands:\n{done.stdout[-1000:]}")
