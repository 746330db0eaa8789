"""Which requests of browsers are let in."""

import pytest
from fastapi.testclient import TestClient

from ray_jobs.serve_settings import choose
from serve.keys import KeyRing, add_key

ROLLBACK = "/v1/models/pcb/rollback"
HOSTS = ("127.0.0.1", "localhost", "[::1]")


@pytest.fixture
def client(app_of, models):
    return TestClient(app_of(*models.values(), hosts=HOSTS), base_url="http://127.0.0.1:8000")


def kind(response):
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["type"].rpartition(":")[2]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9000"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://127.0.0.1"},
        {"origin": "null"},
        {"origin": ""},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_another_page_can_change_nothing_and_ask_for_nothing(client, headers, method):
    for path in (ROLLBACK, "/v1/models/pcb/inspect", "/v1/models/pcb/goldens/R1", "/nowhere"):
        assert kind(client.request(method, path, headers=headers, content=b"x" * 999)) == (403, "other-origin")


@pytest.mark.parametrize(
    "headers",
    [
        {},  # curl, tritonclient
        {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"},  # the page
        {"sec-fetch-site": "same-origin", "origin": "https://inspect.example"},  # a proxy in front has changed the name
        {"sec-fetch-site": "none"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://LOCALHOST:8000", "host": "localhost:8000"},
    ],
)
def test_who_is_no_other_page_is_let_in(client, picture, headers):
    files = {"test": picture(9), "golden": picture(0)}
    assert client.post("/v1/models/pcb/inspect", files=files, headers=headers).status_code == 200


def test_links_from_elsewhere_lead_to_the_page(client):
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/", "/v2/health/live", "/page/style.css"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:8000@evil", "[::2]"]
)
def test_a_name_that_leads_here_is_not_enough(client, path, host):
    assert kind(client.get(path, headers={"host": host})) == (403, "wrong-host")
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    assert kind(client.post(ROLLBACK, headers=headers)) == (403, "wrong-host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LocalHost", "[::1]", "[::1]:8000"])
def test_its_own_names_are_taken_with_any_port(client, host):
    assert client.get("/v1/models", headers={"host": host}).status_code == 200


def test_with_keys_any_name_is_taken_and_browsers_still_say_where_they_come_from(app_of, models, picture, tmp_path):
    file = str(tmp_path / "keys.txt")
    key = {"Authorization": f"Bearer {add_key(file, 'line')}"}
    client = TestClient(app_of(*models.values(), hosts=HOSTS, keys=KeyRing(file)), base_url="http://a.example")
    files = {"test": picture(9), "golden": picture(0)}
    behind_a_proxy = {**key, "origin": "https://b.example"}
    assert client.post("/v1/models/pcb/inspect", files=files, headers=behind_a_proxy).status_code == 200
    foreign = {**key, "sec-fetch-site": "cross-site"}
    assert kind(client.post("/v1/models/pcb/inspect", files=files, headers=foreign)) == (403, "other-origin")


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ({}, HOSTS),
        ({"host": "127.0.0.5"}, ("127.0.0.5", *HOSTS)),
        ({"host": "0.0.0.0"}, ()),
        ({"keys_file": "keys.txt"}, ()),
    ],
)
def test_a_service_without_keys_for_this_machine_alone_knows_its_names(options, hosts):
    assert choose(models=["a=/b"], **options).settings.hosts == hosts
