"""The service as clients meet it: real HTTP to real Ray Serve."""

import csv
import itertools
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from tritonclient import http
from tritonclient.utils import InferenceServerException

from serve.metrics import INSTRUMENTS

MEGABYTE = 1 << 20


def inspect(url, files, model="pcb"):
    return httpx.post(f"{url}/v1/models/{model}/inspect", files=files, timeout=60)


def test_the_score_is_the_inspectors(service, inspectors, pictures):
    answer = inspect(service, {"test": pictures[0], "golden": pictures[1]}).json()
    verdict = inspectors["pcb"].inspect(pictures[0], pictures[1])
    assert answer["score"] == pytest.approx(verdict.score, abs=1e-5)
    assert (answer["threshold"], answer["prediction"]) == (verdict.threshold, verdict.prediction)
    assert (answer["model"], answer["engine"]) == ("pcb", inspectors["pcb"].engine_name)
    assert answer["version"] == inspectors["pcb"].bundle.version
    assert answer["golden_cached"] is False
    assert all(milliseconds >= 0 for milliseconds in answer["timing_ms"].values())


def test_sixteen_requests_at_once_get_their_own_scores(service, inspectors, pictures):
    pairs = list(zip(pictures[:16], pictures[20:36], strict=True))
    expected = [verdict.score for verdict in inspectors["pcb"].inspect_many(pairs)]
    gaps = [abs(one - other) for one, other in itertools.combinations(expected, 2)]
    assert min(gaps) > 1e-4, "scores too alike to tell a mix-up"
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda pair: inspect(service, {"test": pair[0], "golden": pair[1]}).json(), pairs))
    assert [answer["score"] for answer in answers] == pytest.approx(expected, abs=1e-5)


def test_every_light_is_a_part(service, inspectors, pictures):
    test = {"SolderLight": pictures[0], "WhiteLight": pictures[1]}
    golden = {"SolderLight": pictures[2], "WhiteLight": pictures[3]}
    parts = [(f"golden.{light}", content) for light, content in golden.items()]
    parts += [(f"test.{light}", content) for light, content in reversed(test.items())]
    answer = inspect(service, parts, "lights").json()
    assert answer["score"] == pytest.approx(inspectors["lights"].inspect(test, golden).score, abs=1e-5)


def test_a_registered_golden_gives_the_same_score_without_being_sent(service, inspectors, pictures):
    url = f"{service}/v1/models/pcb/goldens/R1"
    assert httpx.put(url, files={"golden": pictures[1]}, timeout=60).status_code == 201
    expected = inspectors["pcb"].inspect(pictures[0], pictures[1]).score
    answers = [
        httpx.post(
            f"{service}/v1/models/pcb/inspect", files={"test": pictures[0]}, data={"golden_id": "R1"}, timeout=60
        ).json()
        for _ in range(2)
    ]
    assert [answer["score"] for answer in answers] == pytest.approx([expected] * 2, abs=1e-5)
    assert answers[-1]["golden_cached"] is True
    assert httpx.delete(url, timeout=60).status_code == 204


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("model", ["pcb", "lights"])
def test_a_generic_client_runs_the_pair_graph(service, inspectors, model, binary):
    client = http.InferenceServerClient(urlsplit(service).netloc)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(model)
    facts = client.get_model_metadata(model)
    shape = [3, *facts["inputs"][0]["shape"][1:]]
    pictures = np.random.default_rng(3).standard_normal((2, *shape)).astype(np.float32)
    inputs = [http.InferInput(name, shape, "FP32") for name in ("input_1", "input_2")]
    for tensor, values in zip(inputs, pictures, strict=True):
        tensor.set_data_from_numpy(values, binary_data=binary)
    outputs = [http.InferRequestedOutput("output", binary_data=binary)]
    answer = client.infer(model, inputs, outputs=outputs, request_id="7").as_numpy("output")
    np.testing.assert_allclose(answer, inspectors[model].engine.pair(*pictures), atol=1e-5)
    assert list(answer.shape[1:]) == facts["outputs"][0]["shape"][1:]
    with pytest.raises(InferenceServerException, match="No model 'nope'"):
        client.infer("nope", inputs)


def test_a_board_of_300_components_in_one_request(service, inspectors, pictures):
    pairs = [(n % 16, 16 + n % 24) for n in range(300)]
    rows = [{"id": f"C{n}", "test": {"": f"p{t}"}, "golden": {"": f"p{g}"}} for n, (t, g) in enumerate(pairs)]
    rows[7]["test"] = {"": "broken"}
    files = [(f"p{n}", (f"p{n}", content)) for n, content in enumerate(pictures)]
    files += [("broken", ("broken", b"\x89PNG"))]
    data = {"manifest": json.dumps(rows)}
    answer = httpx.post(f"{service}/v1/models/pcb/inspect_batch", data=data, files=files, timeout=120)
    results = answer.json()["results"]
    assert [result["id"] for result in results] == [row["id"] for row in rows]
    assert [n for n, result in enumerate(results) if result["error"]] == [7]
    expected = inspectors["pcb"].inspect_many([(pictures[t], pictures[g]) for t, g in pairs])
    gaps = [
        abs(each.score - result["score"]) for each, result in zip(expected, results, strict=True) if result["score"]
    ]
    assert len(gaps) == 299 and max(gaps) < 1e-5


@pytest.mark.parametrize(
    ("files", "model", "status"),
    [
        ({"test": b"no picture", "golden": b"no picture"}, "pcb", 415),
        ({"test": b"\x89PNG broken", "golden": b"\x89PNG broken"}, "pcb", 400),
        ({"test": b"\x89PNG"}, "pcb", 422),
        ({"test": b"\x89PNG"}, "nope", 404),
    ],
)
def test_errors_are_problems(service, files, model, status):
    response = inspect(service, files, model)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_32_mib_is_413(service, announced):
    head = b'--x\r\nContent-Disposition: form-data; name="test"; filename="a"\r\n\r\n'
    chunks = [head, *[b"\0" * MEGABYTE] * 33, b"\r\n--x--\r\n"]
    headers = {"content-type": "multipart/form-data; boundary=x"}
    content = b"".join(chunks) if announced else iter(chunks)
    response = httpx.post(f"{service}/v1/models/pcb/inspect", content=content, headers=headers, timeout=60)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


def test_models_health_and_page(service, bundles):
    assert [model["name"] for model in httpx.get(f"{service}/v1/models").json()["models"]] == list(bundles)
    facts = httpx.get(f"{service}/v1/models/lights").json()
    assert facts["difference_module"] == "euclidean" and facts["input"]["lights"] == ["SolderLight", "WhiteLight"]
    assert httpx.get(f"{service}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{service}/v2/health/ready").json() == {"ready": True}
    page = httpx.get(f"{service}/")
    assert "<option>pcb</option>" in page.text and "default-src 'none'" in page.headers["content-security-policy"]


def test_it_listens_on_the_given_interface_only(service):
    port = urlsplit(service).port
    rows = [
        line.split() for path in ("/proc/net/tcp", "/proc/net/tcp6") for line in Path(path).read_text().splitlines()
    ]
    listening = {row[1] for row in rows if row[3:4] == ["0A"] and row[1].endswith(f":{port:04X}")}
    assert listening == {f"0100007F:{port:04X}"}


def test_ray_reports_no_usage(service):
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


def test_a_port_in_use_is_refused(service, bundles):
    from changenet.errors import SpecError
    from ray_jobs.serve import run

    with pytest.raises(SpecError, match="cannot listen"):
        run(models=[f"pcb={bundles['pcb']}"], port=urlsplit(service).port)


def test_the_log_has_a_line_a_request_and_no_pictures(service, pictures):
    import ray

    answer = inspect(service, {"test": pictures[0], "golden": pictures[1]})
    folder = Path(ray._private.worker._global_node.get_logs_dir_path(), "serve")
    text = ""
    for _ in range(50):
        text = "\n".join(path.read_text() for path in folder.glob("replica_*.log"))
        if answer.headers["x-request-id"] in text:
            break
        # Ray Serve buffers a few lines before it writes them.
        httpx.get(f"{service}/v2/health/live")
    line = next(line for line in text.splitlines() if answer.headers["x-request-id"] in line)
    record = json.loads(line)
    assert record["path"] == "/v1/models/pcb/inspect" and record["score"] == answer.json()["score"]
    assert "PNG" not in text


def test_prometheus_finds_what_was_counted(service, pictures):
    import ray

    inspect(service, {"test": pictures[0], "golden": pictures[1]})
    inspect(service, {"test": b"no picture", "golden": pictures[1]})
    (node,) = ray.nodes()
    counted = {f"ray_{name}{'_total' if each.kind == 'counter' else ''}" for name, each in INSTRUMENTS.items()}
    expected = counted - {"ray_changenet_score_drift"}  # it takes more scores
    deadline = time.monotonic() + 180
    found = set()
    while not expected <= found:
        assert time.monotonic() < deadline, expected - found
        time.sleep(1)  # Ray hands the numbers on every few seconds
        text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30).text
        found = set(re.findall(r"^# TYPE (ray_changenet_\w+)", text, re.MULTILINE))
    assert re.search(r'ray_changenet_picture_errors_total{[^}]*problem="not-a-picture"', text)
    assert re.search(r'ray_changenet_requests_total{[^}]*route="/v1/models/{model}/inspect"', text)


def test_bulk_scores_of_the_bundle_are_those_of_the_service(service, bundles, pictures, tmp_path):
    from ray_jobs import inference

    for folder, contents in (("test", pictures[:12]), ("golden", pictures[20:32])):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number, content in enumerate(contents):
            (tmp_path / "images" / folder / f"C{number}.png").write_bytes(content)
    rows = "".join(f"test,golden,PASS,C{number}\n" for number in range(12))
    (tmp_path / "pairs.csv").write_text("input_path,golden_path,label,object_name\n" + rows)
    data = {"csv_path": str(tmp_path / "pairs.csv"), "images_dir": str(tmp_path / "images")}
    values = {
        "results_dir": str(tmp_path / "results"),
        # The replica has the other CPU.
        "inference": {"checkpoint": bundles["pcb"], "ray": {"resources_per_worker": {"CPU": 1}}},
        "dataset": {"classify": {"infer_dataset": data, "image_ext": ".png"}},
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(values))
    assert inference.run(str(tmp_path / "spec.yaml")) == 0
    with (tmp_path / "results" / "inference" / "inference.csv").open(encoding="utf-8") as file:
        scores = [float(row["siamese_score"]) for row in csv.DictReader(file)]
    pairs = zip(pictures[:12], pictures[20:32], strict=True)
    answers = [inspect(service, {"test": test, "golden": golden}).json() for test, golden in pairs]
    assert [answer["score"] for answer in answers] == pytest.approx(scores, abs=1e-5)
