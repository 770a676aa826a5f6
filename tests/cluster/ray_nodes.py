"""A real Ray of two nodes on the loopback interface, with a token and ports of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[2]
START_S = 240.0  # a busy machine takes long to start ten processes
HOST = "127.0.0.1"
# Where they are left to the agents, Ray waits for them, but not as long as they may need.
AGENT_PORTS = (
    "dashboard-agent-listen",
    "dashboard-agent-grpc",
    "runtime-env-agent",
    "metrics-export",
)
# Ray gives up on what a busy machine has not started in half a minute, or when memory is short.
PATIENCE = {
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_agent_register_timeout_ms": "240000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_gcs_server_request_timeout_seconds": "240",
    "RAY_memory_monitor_refresh_ms": "0",  # what others take of the memory is not these nodes'
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


class TwoNodes:
    """A head and a second node, each with one CPU slot."""

    def __init__(self, home: Path, variables: dict[str, str]) -> None:
        self.token = secrets.token_hex(32)
        self.gcs = f"{HOST}:{free_port()}"
        self.address = f"http://{HOST}:{free_port()}"
        self.home = home
        # Sockets lie in here, and their paths may have some hundred characters.
        self._folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
        bin_ = str(Path(sys.executable).parent)
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._variables = os.environ | {
            "PATH": os.pathsep.join([bin_, os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(path),
            "HOME": str(home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            **PATIENCE,
            **variables,
        }
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
            self._variables.pop(name, None)
        port, dashboard = self.gcs.rpartition(":")[2], self.address.rpartition(":")[2]
        self.head = self._start(
            *("--head", "--port", port, "--temp-dir", self._folder),
            *("--include-dashboard", "true", "--dashboard-host", HOST),
            *("--dashboard-port", dashboard, "--ray-client-server-port", str(free_port())),
        )
        self.node: subprocess.Popen[bytes] | None = None

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        common = ["--node-ip-address", HOST, "--num-cpus", "1"]
        common += ["--object-store-memory", str(128 * 2**20)]
        common += ["--disable-usage-stats"]
        for agent in AGENT_PORTS:
            common += [f"--{agent}-port", str(free_port())]
        with (self.home / "ray.log").open("ab") as log:
            return subprocess.Popen(
                [*command, *common, *options],
                env=self._variables,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_node(self) -> None:
        """Start the second node."""
        self.node = self._start("--address", self.gcs)

    def kill_node(self) -> None:
        """Kill the second node with everything that runs there."""
        assert self.node is not None
        kill_tree(self.node)
        self.node = None

    def alive(self) -> int:
        """Nodes that the cluster counts; 0 while its dashboard does not answer."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with contextlib.suppress(requests.RequestException, KeyError, ValueError):
            answer = requests.get(f"{self.address}/nodes?view=summary", headers=headers, timeout=5)
            nodes: list[dict[str, Any]] = answer.json()["data"]["summary"]
            return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
        return 0

    def wait_for(self, nodes: int) -> None:
        """Wait until so many nodes are counted."""
        deadline = time.monotonic() + START_S
        while self.alive() != nodes:
            log = (self.home / "ray.log").read_text(errors="replace")[-2000:]
            assert self.head.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.5)

    def stop(self) -> None:
        """End both nodes; other Rays of this machine are left alone."""
        for process in (self.node, self.head):
            if process is not None:
                kill_tree(process)
        shutil.rmtree(self._folder, ignore_errors=True)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that descend from it."""
    for pid in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=60)


def family(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += family(int(child))
    return found


@contextlib.contextmanager
def two_nodes(home: Path, variables: dict[str, str] | None = None) -> Iterator[TwoNodes]:
    """Start both nodes and end them again."""
    nodes = TwoNodes(home, variables or {})
    try:
        nodes.wait_for(1)
        nodes.start_node()
        nodes.wait_for(2)
        yield nodes
    finally:
        nodes.stop()
