"""What `changenet serve` refuses before Ray starts."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from changenet.errors import SpecError
from ray_jobs.cli import app
from ray_jobs.listening import free_port, is_loopback
from ray_jobs.serve import run
from ray_jobs.serve_build import config
from ray_jobs.serve_check import is_remote
from ray_jobs.serve_settings import choose, parse_models
from ray_jobs.tls import Tls
from serve.keys import digest_of, read_keys


def test_models_are_name_and_bundle():
    models = parse_models(["pcb=/a/b", "old.v1=s3://x/y=z"])
    assert {name: model.bundle for name, model in models.items()} == {"pcb": "/a/b", "old.v1": "s3://x/y=z"}


def test_every_wrong_option_is_named():
    with pytest.raises(SpecError) as caught:
        parse_models(["pcb", "=x", "a=1", "a=2"])
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("name", ["a b", "ä", "x" * 129, "../x", "a/b"])
def test_names_that_do_not_fit_a_route_are_refused(name):
    with pytest.raises(SpecError, match="no model name"):
        run(models=[f"{name}=somewhere"])


def test_nothing_to_serve_is_an_error():
    with pytest.raises(SpecError, match="no model to serve"):
        run()


def test_overrides_need_a_spec():
    with pytest.raises(SpecError, match=r"serve\.port"):
        run(models=["pcb=somewhere"], overrides=["serve.port=9000"])


def test_missing_bundles_and_a_taken_port_are_told_together(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SpecError) as caught:
            run(models=[f"a={tmp_path}/a", f"b={tmp_path}/b"], port=other.getsockname()[1])
    text = str(caught.value)
    assert f"{tmp_path}/a" in text and f"{tmp_path}/b" in text and "cannot listen" in text


def test_loopback_is_recognised():
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.5", "factory.example")))


def test_free_port_can_be_bound():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


def test_models_of_the_spec_and_of_the_options_come_together(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"results_dir: {tmp_path}/results\nserve: {{models: [{{name: a, bundle: {tmp_path}/a}}, "
        f"{{name: b, bundle: {tmp_path}/b}}]}}\n"
    )
    with pytest.raises(SpecError) as caught:
        run(spec=str(spec), models=[f"b={tmp_path}/better", f"c={tmp_path}/c"], port=free_port())
    named = {problem.where for problem in caught.value.problems}
    assert named == {f"{tmp_path}/{name}" for name in ("a", "better", "c")}
    assert not (tmp_path / "results").exists(), "nothing is written for a service that cannot start"


def test_models_of_the_options_must_fit_the_spec_too(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("serve: {max_ongoing_requests: 16, models: [{name: a, bundle: /a}]}\n")
    assert choose(spec=str(spec)).settings.limits.inspections == 16
    with pytest.raises(SpecError, match="2 models"):
        choose(spec=str(spec), models=["b=/b"])


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        (None, False),
        ("local", False),
        ("127.0.0.1:6379", False),
        ("ray://head:10001", True),
        ("192.0.2.7:6379", True),  # an address that is never anybody's
    ],
)
def test_the_head_of_another_machine_is_told_apart_however_it_is_named(address, remote, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert is_remote(address) is remote
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert is_remote(None) is remote


@pytest.fixture
def certificate(self_signed):
    return self_signed("127.0.0.1")


def test_a_certificate_and_its_key_come_together(certificate):
    with pytest.raises(SpecError, match="one of them is missing"):
        run(models=["pcb=somewhere"], tls_certificate=certificate[0])


def test_keys_and_tls_files_are_checked_before_ray_starts(tmp_path, certificate, self_signed):
    (tmp_path / "keys.txt").write_text("not ours")
    with pytest.raises(SpecError) as caught:
        run(
            models=[f"a={tmp_path}/a"],
            port=free_port(),
            keys_file=str(tmp_path / "keys.txt"),
            tls_certificate=certificate[0],
            tls_key=self_signed("other")[1],
        )
    text = str(caught.value)
    assert "is no file of keys" in text and "cannot be used for HTTPS" in text and f"{tmp_path}/a" in text


def test_files_that_belong_together_are_taken(certificate):
    tls = Tls.chosen(*certificate)
    assert tls.problems() == []
    assert tls.http_options() == {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}


def test_a_config_file_has_keys_and_tls(certificate):
    from ray.serve.schema import ServeDeploySchema

    chosen = choose(
        models=["pcb=/a"], keys_file="/etc/keys.txt", tls_certificate=certificate[0], tls_key=certificate[1]
    )
    written = ServeDeploySchema(**config(chosen))
    assert (written.http_options.ssl_certfile, written.http_options.ssl_keyfile) == certificate
    assert written.applications[0].args["keys_file"] == "/etc/keys.txt"


def test_a_private_key_with_a_passphrase_is_refused_without_asking(certificate):
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(Path(certificate[1]).read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    Path(certificate[1]).write_bytes(locked)
    assert len(Tls.chosen(*certificate).problems()) == 1


def test_an_api_key_is_alone_on_stdout(tmp_path):
    file = str(tmp_path / "keys.txt")
    done = CliRunner().invoke(app, ["api-key", file, "line-3"])
    assert done.exit_code == 0
    key = done.stdout.strip()
    assert "\n" not in key and read_keys(file)[0].digest == digest_of(key)
    assert CliRunner().invoke(app, ["api-key", file, "line-3"]).exit_code == 2
