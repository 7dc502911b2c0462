"""A real dockerd of a test's own: no image registry, no bridge, no rule in the host's firewall.

It has a network namespace of its own, since a daemon without a bridge deletes a `docker0` that it finds, and its own
containerd, so that another engine on this machine is left alone. Ended by its PID.
"""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import components

_READY = 60  # seconds
_END = 30
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class DockerEngine:
    """A running dockerd, and what tests put into it, through its API."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "data"
        self.url = f"unix://{directory}/docker.sock"
        self._containerd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        containerd = self._start_containerd()
        (self.directory / "daemon.json").write_text("{}")
        argv = [
            "unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh",
            "dockerd", "--host", self.url, "--data-root", str(self.root),
            "--exec-root", str(self.directory / "exec"), "--pidfile", str(self.directory / "pid"),
            "--config-file", str(self.directory / "daemon.json"), "--containerd", containerd,
            "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--storage-driver", "vfs",
        ]  # fmt: skip
        self._process = self._spawn(argv, "log")
        self._wait_until(self._answers, self._process, "log")

    def _start_containerd(self) -> str:
        address = str(self.directory / "containerd.sock")
        settings = self.directory / "containerd.toml"
        settings.write_text(
            f'version = 2\nroot = "{self.directory}/containerd"\nstate = "{self.directory}/containerd-state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
            f'[grpc]\naddress = "{address}"\n'
        )
        self._containerd = self._spawn(["containerd", "--config", str(settings)], "containerd-log")
        self._wait_until(lambda: os.path.exists(address), self._containerd, "containerd-log")
        return address

    def _spawn(self, argv: list[str], log: str) -> "subprocess.Popen[bytes]":
        with (self.directory / log).open("ab") as output:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={"PATH": _PATH, "HOME": "/"}
            )

    def _wait_until(self, ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: str) -> None:
        deadline = time.monotonic() + _READY
        while not ready():
            said = (self.directory / log).read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"ended with {process.returncode}: {said}"
            assert time.monotonic() < deadline, f"did not answer within {_READY} s: {said}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.directory / "docker.sock"))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 OK" in probe.recv(100)
            except OSError:
                return False

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A `docker.DockerClient`."""
        import docker

        client = docker.DockerClient(base_url=self.url, version="1.41", timeout=60)
        try:
            yield client
        finally:
            client.close()

    def stop(self) -> None:
        """dockerd first, then its containerd; what they mounted below the directory goes with them."""
        for process in (self._process, self._containerd):
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for point in mounts_below(self.directory):
            subprocess.run(["umount", "-l", point], check=False)

    # ── images and containers ─────────────────────────────────────────────────────────────────────────────────────

    def import_busybox(self, *tags: str, changes: tuple[str, ...] = (), extra: bytes = b"") -> str:
        """An image of one layer with busybox, and with *extra* bytes that make it another one; returns its id."""
        with self.client() as client:
            answer = client.api.import_image_from_data(busybox_tar(extra), changes=list(changes))
            image_id: str = client.images.get(_status_of(answer)).id
            for tag in tags:
                repository, _, version = tag.rpartition(":")
                assert client.api.tag(image_id, repository, version)
        return image_id

    def build(self, dockerfile: str, *tags: str) -> str:
        """An image on top of another one, by the classic builder; returns its id."""
        with self.client() as client:
            image, _ = client.images.build(fileobj=io.BytesIO(dockerfile.encode()), rm=True, network_mode="none")
            for tag in tags:
                repository, _, version = tag.rpartition(":")
                assert client.api.tag(image.id, repository, version)
            return str(image.id)

    def clear(self) -> None:
        """Nothing is left of a test: neither containers nor images nor volumes."""
        with self.client() as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True, v=True)
            for volume in client.volumes.list():
                volume.remove(force=True)
            while images := client.images.list(all=True):
                for image in images:
                    _remove(client, image.id)


def _remove(client: Any, image_id: str) -> None:
    from docker.errors import APIError, ImageNotFound

    try:
        client.api.remove_image(image_id, force=True)
    except ImageNotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # it has children, which go first
            raise


def _status_of(answer: str) -> str:
    """The id in the last line of an import's progress."""
    return str(json.loads(answer.strip().splitlines()[-1])["status"])


def busybox_tar(extra: bytes = b"") -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name in ("bin", "tmp", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "sleep", "cat", "true", "dd"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        if extra:
            entry = tarfile.TarInfo("extra")
            entry.size = len(extra)
            tar.addfile(entry, io.BytesIO(extra))
    return output.getvalue()


def mounts_below(directory: Path) -> list[str]:
    """The deepest first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4] for line in file]
    return sorted((point for point in points if point.startswith(f"{directory}/")), key=len, reverse=True)


@contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """A dockerd in a directory with a short name, for a socket's path may have a hundred characters at most."""
    components.need("dockerd", "busybox", "root", "unshare")
    directory = Path(tempfile.mkdtemp(prefix="ansai-docker-"))
    engine = DockerEngine(directory)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(directory)
