"""A Docker engine of the trial's own: its socket and its images in one folder, its rules and bridges taken back."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60.0
STOP_SECONDS = 60.0
NEEDED = ("dockerd", "docker", "debootstrap", "iptables-save", "ip")


class TrialError(Exception):
    """Raised when a step of the trial fails; says which, and what was printed."""


class Engine:
    """`dockerd` and its clients. Another engine on this machine, and who looks for one, sees nothing of it."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        # Debian's client before others: those of Docker's own later releases build with a plugin only.
        path = os.pathsep.join(["/usr/bin", os.environ.get("PATH", "")])
        self._environment = os.environ | {
            "PATH": path,
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_BUILDKIT": "1",
            **variables,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._rules = ""
        self._bridges: set[str] = set()

    def __enter__(self) -> Self:
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            raise TrialError(f"this needs root and {', '.join(NEEDED)}; missing: {', '.join(missing) or 'root'}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
        self._bridges = _bridges()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "dockerd.pid"}
        with (self.folder / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["dockerd", f"--host=unix://{self.folder}/docker.sock"]
                + [f"--{option}={self.folder}/{name}" for option, name in places.items()],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(TrialError):
                self.docker("info")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = (self.folder / "dockerd.log").read_text(errors="replace")[-2000:]
                raise TrialError(f"dockerd doesn't start; its log ends with:\n{last}")
            time.sleep(0.5)

    def close(self) -> None:
        """End the engine, and take back what it did to the machine's network."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # It leaves this one mounted, and then its folder can't be removed.
        subprocess.run(["umount", f"{self.folder}/exec/netns/default"], capture_output=True, check=False)
        subprocess.run(["iptables-restore"], input=self._rules, text=True, check=False)
        for name in _bridges() - self._bridges:
            subprocess.run(["ip", "link", "delete", name], check=False)

    def docker(self, *arguments: str, timeout: float = 120, given: bytes | None = None) -> str:
        """Run a command of the client; gives back what it printed. Raises `TrialError`."""
        return self._run(["docker", *arguments], timeout, given)

    def compose(self, files: list[Path], *arguments: str, timeout: float = 300) -> str:
        """Run a command of compose, of either kind. Raises `TrialError`."""
        command = ["docker", "compose"] if self._has_plugin() else ["docker-compose"]
        named = [word for file in files for word in ("--file", str(file))]
        return self._run([*command, *named, "--project-name", "nametag-trial", *arguments], timeout)

    def _has_plugin(self) -> bool:
        try:
            self.docker("compose", "version")
        except TrialError:
            return False
        return True

    def _run(self, command: list[str], timeout: float, given: bytes | None = None) -> str:
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=timeout, env=self._environment)
        except (subprocess.TimeoutExpired, OSError) as error:
            raise TrialError(f"{' '.join(command)[:200]}: {error}") from error
        if done.returncode != 0:
            told = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
            raise TrialError(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{told}")
        return done.stdout.decode(errors="replace")


def _bridges() -> set[str]:
    done = subprocess.run(["ip", "-o", "link", "show", "type", "bridge"], capture_output=True, text=True, check=True)
    return {line.split(":")[1].strip() for line in done.stdout.splitlines()}
