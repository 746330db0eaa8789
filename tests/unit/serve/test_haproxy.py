"""HAProxy itself, with the configuration that Ray Serve writes for it and what we change there."""

import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from changenet.errors import SpecError
from ray_jobs import serve_proxy
from ray_jobs.listening import free_port
from ray_jobs.serve import run
from ray_jobs.tls import Tls
from serve import haproxy
from serve.resending import ATTEMPTS, KEPT_BYTES

pytestmark = pytest.mark.skipif(haproxy.program() is None, reason="HAProxy is there for Linux only")

PORTS = haproxy.Ports(fallback=1, replicas=range(2, 3))

# Ray reads its variables when it is imported, so its configuration is written by a process of its own.
WRITE = """
import json, sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

file, port, servers = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
replicas = [ServerConfig(name=f"replica{each}", host="127.0.0.1", port=each) for each in servers]
backends = {"app": BackendConfig(name="app", path_prefix="/", app_name="app", servers=replicas)} if servers else {}
options = HTTPOptions(host="127.0.0.1", port=port)
HAProxyApi(HAProxyConfig(http_options=options), backends, file)._generate_config_file_internal()
"""


class Replica(BaseHTTPRequestHandler):
    """Answers with the body; a POST kills it first, as often as it is mortal."""

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        body = b"".join(self.parts())
        self.server.asked.append(self.path)
        if self.server.mortal:
            self.server.mortal -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.answer(body)

    def parts(self):
        if "Content-Length" in self.headers:
            yield self.rfile.read(int(self.headers["Content-Length"]))
            return
        while length := int(self.rfile.readline(), 16):
            yield self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def replica(*, mortal):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    server.mortal, server.asked = mortal, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@contextmanager
def in_front(folder: Path, *replicas, seconds=30, proxy=None):
    """Run HAProxy as Ray does, and give its URL and process; `proxy` takes the place of Ray Serve's."""
    ports = PORTS._replace(fallback=proxy.server_port) if proxy else PORTS
    variables = haproxy.environment(folder, haproxy.program(), ports=ports, request_seconds=seconds)
    port, file = free_port(), variables["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]
    ports = json.dumps([each.server_port for each in replicas])
    environment = {**os.environ, **variables}
    subprocess.run([sys.executable, "-c", WRITE, file, str(port), ports], check=True, env=environment)
    command = [variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", file, "-dR"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 30
            while not listens("127.0.0.1", port):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()


def listens(host, port):
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.mark.parametrize("size", [5, haproxy.BODY_BYTES])
def test_what_a_replica_had_begun_when_it_died_goes_to_another_one(tmp_path, size):
    with replica(mortal=True) as first, replica(mortal=True) as second, replica(mortal=False) as third:
        with in_front(tmp_path, first, second, third) as (url, _):
            body = os.urandom(size)
            for _ in range(3):  # they are asked in turn
                answer = httpx.post(f"{url}/v1/models/pcb/inspect", content=body, timeout=30)
                assert answer.status_code == 200 and answer.content == body
        assert first.asked and second.asked and len(third.asked) == 3 - len(first.asked[1:]) - len(second.asked[1:])


BOARD = 3 << 20


@pytest.mark.parametrize(
    ("size", "announced", "kept"), [(BOARD, True, True), (BOARD, False, False), (KEPT_BYTES + 1, True, False)]
)
def test_what_says_that_it_has_some_megabytes_goes_to_the_proxy_that_keeps_it(tmp_path, size, announced, kept):
    body = os.urandom(size)
    with replica(mortal=0) as only, replica(mortal=0) as proxy, in_front(tmp_path, only, proxy=proxy) as (url, _):
        content = body if announced else (body[at : at + 100_000] for at in range(0, size, 100_000))
        answer = httpx.post(f"{url}/v1/models/pcb/inspect_batch", content=content, timeout=60)
        assert answer.status_code == 200 and answer.content == body
        assert (len(proxy.asked), len(only.asked)) == (kept, not kept)


def test_where_that_proxy_is_away_a_board_that_breaks_off_is_503(tmp_path):
    with replica(mortal=True) as dies, in_front(tmp_path, dies) as (url, _):
        time.sleep(2)  # until it is known to be away
        sent = httpx.post(f"{url}/v1/models/pcb/inspect_batch", content=b"x" * BOARD, timeout=30)
        assert to_be_sent_again(sent) and len(dies.asked) == 1
        sent = httpx.post(f"{url}/v1/models/pcb/inspect_batch", content=b"x" * BOARD, timeout=30)
        assert sent.status_code == 200


def test_a_board_whose_proxy_dies_is_503(tmp_path):
    with (
        replica(mortal=False) as only,
        replica(mortal=True) as proxy,
        in_front(tmp_path, only, proxy=proxy) as (url, _),
    ):
        sent = httpx.post(f"{url}/v1/models/pcb/inspect_batch", content=b"x" * BOARD, timeout=30)
        assert to_be_sent_again(sent) and not only.asked


def test_a_request_whose_replicas_all_die_is_503(tmp_path):
    with replica(mortal=9) as one, replica(mortal=9) as two, in_front(tmp_path, one, two) as (url, _):
        assert to_be_sent_again(httpx.post(f"{url}/v1/models/pcb/inspect", content=b"x", timeout=30))
        assert len(one.asked + two.asked) == ATTEMPTS + 1


def to_be_sent_again(answer):
    assert answer.status_code == 503 == answer.json()["status"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].endswith("no-replica") and "frame-ancestors" in str(answer.headers)
    return answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("verb", ["swap", "rollback", "roll%62ack"])
def test_changes_of_a_model_are_never_sent_twice(tmp_path, verb):
    with replica(mortal=True) as only, replica(mortal=True) as proxy, in_front(tmp_path, only, proxy=proxy) as (url, _):
        answer = httpx.post(f"{url}/v1/models/pcb/{verb}", content=b"{}", timeout=30)
        assert answer.status_code == 500 and answer.json()["type"].endswith("broken-off")
        assert "retry-after" not in answer.headers
        assert len(proxy.asked) == 1 and not only.asked


def test_a_change_that_was_not_begun_may_be_sent_again(tmp_path):
    with replica(mortal=False) as only, in_front(tmp_path, only) as (url, _):
        assert to_be_sent_again(httpx.post(f"{url}/v1/models/pcb/rollback", timeout=30)) and not only.asked


def raw(url, sent):
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as client:
        client.sendall(sent)
        client.settimeout(30)
        return client.recv(1 << 16)


def test_without_replicas_clients_are_told_to_try_again(tmp_path):
    with in_front(tmp_path) as (url, _):
        answer = httpx.get(f"{url}/v1/models")
    assert to_be_sent_again(answer)


def test_a_replica_that_is_gone_is_no_fault_of_the_request(tmp_path):
    with replica(mortal=False) as gone:
        pass
    with in_front(tmp_path, gone) as (url, _):
        assert httpx.post(f"{url}/v1/models/pcb/inspect", content=b"x", timeout=60).status_code == 503


def test_a_request_that_does_not_arrive_is_a_problem(tmp_path):
    with replica(mortal=False) as only, in_front(tmp_path, only, seconds=1) as (url, _):
        answer = raw(url, b"POST /v1/models/pcb/inspect HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"problem:timeout" in answer
    assert not only.asked


def test_nothing_but_the_service_can_be_reached(tmp_path):
    with in_front(tmp_path) as (url, process):
        inodes = set()
        for each in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(str(each.readlink()))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    assert listening == [f"0100007F:{httpx.URL(url).port:04X}"]


def test_it_ends_with_the_process_that_started_it(tmp_path):
    variables = haproxy.environment(tmp_path, "/bin/sleep", ports=PORTS, request_seconds=1)
    start = (
        "import subprocess, sys, time\n"
        f"print(subprocess.Popen([{variables['RAY_SERVE_HAPROXY_BINARY_PATH']!r}, '60']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as manager:
        below = int(manager.stdout.readline())
        until = time.monotonic() + 20
        while not Path(f"/proc/{below}/cmdline").read_bytes().startswith(b"/bin/sleep"):
            assert time.monotonic() < until
        manager.kill()
    while Path(f"/proc/{below}").exists() and "Z" not in Path(f"/proc/{below}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_it_is_chosen_where_ray_starts_and_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", haproxy.program())
    importlib.import_module("ray")  # which adds to the environment, too
    before = dict(os.environ)
    with serve_proxy.in_front("auto", host="127.0.0.1", tls=None, address=None, request_seconds=1):
        assert os.environ[haproxy.SWITCH] == "1"
        assert os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] != before["RAY_SERVE_HAPROXY_BINARY_PATH"]
    assert dict(os.environ) == before


TLS = Tls("certificate", "key")


@pytest.mark.parametrize(
    ("proxy", "changes", "switch"),
    [
        ("ray", {}, None),
        ("auto", {"address": "10.0.0.1:6379"}, None),
        ("auto", {"host": "192.168.1.5"}, None),
        ("auto", {"tls": TLS}, None),
        ("auto", {}, "0"),
    ],
)
def test_elsewhere_nothing_is_changed(monkeypatch, proxy, changes, switch):
    if switch:
        monkeypatch.setenv(haproxy.SWITCH, switch)
    before = dict(os.environ)
    with serve_proxy.in_front(
        proxy, **{"host": "127.0.0.1", "tls": None, "address": None, **changes}, request_seconds=1
    ):
        assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("proxy", "changes", "switch", "match"),
    [
        ("haproxy", {"tls": TLS}, None, "does not speak HTTPS"),
        ("haproxy", {"host": "192.168.1.5"}, None, "does not find replicas"),
        ("haproxy", {"address": "10.0.0.1:6379"}, None, "when the cluster started"),
        ("haproxy", {}, "0", "forbids HAProxy"),
        ("ray", {}, "1", "Ray Serve's proxy is asked for"),
        ("auto", {"tls": TLS}, "1", "Ray Serve's proxy is asked for"),
    ],
)
def test_what_cannot_be_had_is_an_error(monkeypatch, proxy, changes, switch, match):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if switch:
        monkeypatch.setenv(haproxy.SWITCH, switch)
    asked = {"host": "127.0.0.1", "tls": None, "address": None, **changes}
    with pytest.raises(SpecError, match=match), serve_proxy.in_front(proxy, **asked, request_seconds=1):
        pass


def test_it_is_checked_before_ray_starts(tmp_path):
    with pytest.raises(SpecError, match=r"serve\.proxy: HAProxy, as Ray Serve sets it up, does not speak HTTPS"):
        run(models=[f"a={tmp_path}"], proxy="haproxy", tls_certificate="a", tls_key="b")


def test_where_haproxy_does_not_run_rays_own_proxy_does(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "haproxy"
    broken.write_text("#!/bin/sh\necho no such library >&2; exit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr(haproxy, "program", lambda: str(broken))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = {"host": "127.0.0.1", "tls": None, "address": None, "request_seconds": 1}
    with serve_proxy.in_front("auto", **asked):
        assert haproxy.SWITCH not in os.environ
    assert "no such library" in caplog.text
    with pytest.raises(SpecError, match="does not run here"), serve_proxy.in_front("haproxy", **asked):
        pass
