"""Which request needs which key."""

import asyncio
import threading
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from serve import access
from serve.access import needed_scope
from serve.keys import KeyRing, Scope, add_key

# Whoever adds a route decides here who may call it: without a mark it needs `admin`.
SCOPES = {
    "POST /v1/models/{model}/inspect": Scope.INSPECT,
    "POST /v1/models/{model}/inspect_batch": Scope.INSPECT,
    "GET /v1/models/{model}/goldens/{golden_id}": Scope.INSPECT,
    "GET /v1/models/{model}/goldens/{golden_id}/pictures/{digest}": Scope.INSPECT,
    "PUT /v1/models/{model}/goldens/{golden_id}": Scope.ADMIN,
    "DELETE /v1/models/{model}/goldens/{golden_id}": Scope.ADMIN,
    "POST /v1/models/{model}/swap": Scope.ADMIN,
    "POST /v1/models/{model}/rollback": Scope.ADMIN,
    "PUT /v1/models/{model}/shadow": Scope.ADMIN,
    "GET /v1/models/{model}/shadow": Scope.ADMIN,
    "DELETE /v1/models/{model}/shadow": Scope.ADMIN,
    **{
        f"{method} /v2{path}": Scope.INSPECT
        for method, path in [
            ("GET", ""),
            *[
                (method, f"/models/{{model}}{version}{end}")
                for version in ("", "/versions/{version}")
                for method, end in (("GET", ""), ("GET", "/ready"), ("POST", "/infer"))
            ],
        ]
    },
    "GET /v1/models": Scope.INSPECT,
    "GET /v1/models/{model}": Scope.INSPECT,
    "GET /v2/health/live": None,
    "GET /v2/health/ready": None,
    "GET /": None,
}


@pytest.fixture
def keys(tmp_path):
    file = str(tmp_path / "keys.txt")
    return {"inspect": add_key(file, "line"), "admin": add_key(file, "ops", admin=True), "file": file}


@pytest.fixture
def app(models, keys, app_of):
    return app_of(*models.values(), keys=KeyRing(keys["file"]))


@pytest.fixture
def locked(app):
    return TestClient(app, raise_server_exceptions=False)


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_every_route_has_its_scope(app):
    found = {
        f"{method} {route.path}": needed_scope(route.endpoint)
        for route in iter_route_contexts(app.routes)
        for method in set(route.methods or ()) - {"HEAD"}
        if route.path != app.openapi_url
    }
    assert found == SCOPES


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/pcb", "/v1/models/nope", "/openapi.json", "/nowhere", "/v2/x"]
)
def test_without_a_key_nothing_is_told(locked, path):
    response = locked.get(path)
    assert response.status_code == 401 and response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:changenet:problem:no-key"
    assert "x-content-type-options" in response.headers


@pytest.mark.parametrize("value", ["Bearer wrong", "Bearer ", "Basic dTpw", "", "Bearer \xff\xfe"])
def test_a_wrong_key_is_401(locked, value):
    response = locked.get("/v1/models", headers={"Authorization": value.encode("latin-1")})
    assert response.status_code == 401


def test_health_needs_no_key(locked):
    assert locked.get("/v2/health/live").status_code == locked.get("/v2/health/ready").status_code == 200


def test_a_key_opens_its_routes(locked, keys, picture):
    files = {"test": picture(255), "golden": picture(0)}
    for name in ("inspect", "admin"):
        answer = locked.post("/v1/models/pcb/inspect", files=files, headers=bearer(keys[name]))
        assert answer.json()["prediction"] == "FAIL"
        assert locked.get("/openapi.json", headers=bearer(keys[name])).status_code == 200
    assert locked.get("/v1/models", headers={"Authorization": f"bearer {keys['inspect']}"}).status_code == 200


def test_of_a_refused_body_no_more_is_read_than_may_be_sent(models, keys, app_of):
    app = app_of(*models.values(), keys=KeyRing(keys["file"]), request_bytes=1000)
    read, sent = 0, []

    async def receive():
        nonlocal read
        read += 100
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message):
        sent.append(message)

    path = "/v1/models/pcb/inspect"
    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401
    assert read == 1000, "many clients read an answer when they have sent everything; what may not be sent is left"


def test_a_client_of_the_open_inference_protocol_reads_why_it_is_refused(locked):
    assert "API key" in locked.get("/v2/models/pcb").json()["error"]


def test_a_new_route_needs_an_admin_key_unless_it_says_otherwise(app, locked, keys):
    @app.post("/v1/forgotten")
    def forgotten():
        return {"done": True}

    response = locked.post("/v1/forgotten", headers=bearer(keys["inspect"]))
    assert response.status_code == 403 and response.json()["type"] == "urn:changenet:problem:key-not-allowed"
    assert 'scope="admin"' in response.headers["www-authenticate"]
    assert locked.post("/v1/forgotten").status_code == 401
    assert locked.post("/v1/forgotten", headers=bearer(keys["admin"])).json() == {"done": True}


def test_a_revoked_key_is_refused_by_a_service_that_runs(models, keys, app_of):
    clock = [0.0]
    client = TestClient(app_of(*models.values(), keys=KeyRing(keys["file"], clock=lambda: clock[0])))
    assert client.get("/v1/models", headers=bearer(keys["inspect"])).status_code == 200
    lines = Path(keys["file"]).read_text().splitlines()
    Path(keys["file"]).write_text("\n".join(line for line in lines if not line.startswith("line ")))
    clock[0] += 2
    assert client.get("/v1/models", headers=bearer(keys["inspect"])).status_code == 401
    assert client.get("/v1/models", headers=bearer(keys["admin"])).status_code == 200


def together(app, clock, key, count=20):
    """Ask `count` times at once, two seconds after whatever was before; return the statuses."""

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as client:
            clock[0] += 2
            answers = await asyncio.gather(*(client.get("/v1/models", headers=bearer(key)) for _ in range(count)))
            return [answer.status_code for answer in answers]

    return asyncio.run(ask())


def test_of_requests_at_the_same_moment_none_gets_in_with_a_revoked_key(models, keys, app_of):
    clock = [0.0]
    app = app_of(*models.values(), keys=KeyRing(keys["file"], clock=lambda: clock[0]))
    assert together(app, clock, keys["inspect"]) == [200] * 20
    lines = Path(keys["file"]).read_text().splitlines()
    Path(keys["file"]).write_text("\n".join(line for line in lines if not line.startswith("line ")))
    assert together(app, clock, keys["inspect"]) == [401] * 20


def test_a_share_that_hangs_with_the_keys_holds_requests_up_for_a_moment(models, keys, app_of, monkeypatch, caplog):
    clock, goes_on, looks = [0.0], threading.Event(), []
    ring = KeyRing(keys["file"], clock=lambda: clock[0])
    app = app_of(*models.values(), keys=ring)
    monkeypatch.setattr(access, "LOOK_SECONDS", 0.05)

    def hang():
        looks.append(1)
        goes_on.wait(60)

    monkeypatch.setattr(ring, "refresh", hang)
    threading.Timer(1, goes_on.set).start()
    assert together(app, clock, keys["inspect"]) == [200] * 20
    assert looks == [1] and caplog.text.count("the last good keys stay in force") == 1


def test_the_page_asks_for_the_key_and_names_no_model(locked):
    page = locked.get("/")
    assert page.status_code == 401 and page.headers["content-type"].startswith("text/html")
    assert "<option>" not in page.text
    assert locked.get("/page/inspection.js").status_code == 200


def test_the_log_says_whose_key_it_was_and_not_which(locked, keys, caplog):
    with caplog.at_level("INFO", logger="serve.access"):
        locked.get("/v1/models", headers=bearer(keys["inspect"]))
        locked.get("/v1/models", headers=bearer("cn_wrong"))
    records = [record for record in caplog.records if record.name == "serve.access"]
    assert [record.key for record in records] == ["line", None]
    assert all(text not in str(vars(record)) for record in records for text in (keys["inspect"], "cn_wrong"))


def test_the_interface_says_that_a_key_is_needed(locked, keys):
    document = locked.get("/openapi.json", headers=bearer(keys["inspect"])).json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_without_a_file_of_keys_all_is_open(client):
    assert client.get("/v1/models").status_code == 200
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]
