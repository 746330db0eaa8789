"""The one road from pictures to a verdict."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import changenet
from changenet.data.kinds import Kind, PictureError
from changenet.errors import DataError, EngineError
from changenet.inspection import Inspector, Verdict


@pytest.fixture(scope="module")
def inspector(bundle_folder: Path) -> Inspector:
    return changenet.load(str(bundle_folder))


@pytest.fixture(scope="module")
def lights_inspector(make_checkpoint) -> Inspector:
    from changenet.engines.torch import TorchEngine

    checkpoint = make_checkpoint(lights=("Solder", "White"), classes=("PASS", "open", "short"))
    return Inspector(TorchEngine.from_checkpoint(checkpoint), checkpoint.description)


def picture(seed: int, side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def as_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind_of_picture_gives_the_same_verdict(inspector: Inspector, tmp_path: Path) -> None:
    test, golden = picture(1), picture(2)
    test.save(tmp_path / "test.png")
    golden.save(tmp_path / "golden.png")
    wanted = inspector.inspect(test, golden)
    for pair in (
        (tmp_path / "test.png", str(tmp_path / "golden.png")),
        (as_bytes(test), as_bytes(golden)),
        (np.asarray(test), np.asarray(golden)),
        ({"": test}, [golden]),
    ):
        assert inspector.inspect(*pair) == wanted


def test_a_verdict_is_score_threshold_and_prediction(inspector: Inspector) -> None:
    verdict = inspector.inspect(picture(1), picture(2))
    assert isinstance(verdict, Verdict)
    assert 0 <= verdict.score <= 1
    assert verdict.threshold == 0.5
    assert verdict.prediction == ("FAIL" if verdict.score > 0.5 else "PASS")
    assert verdict.passed == (verdict.prediction == "PASS")


def test_a_score_that_is_no_number_does_not_pass() -> None:
    assert not Verdict(float("nan"), 0.5, "FAIL").passed


def test_the_threshold_itself_still_passes(inspector: Inspector) -> None:
    score = inspector.inspect(picture(1), picture(2)).score
    assert inspector.with_threshold(score).inspect(picture(1), picture(2)).prediction == "PASS"
    assert inspector.with_threshold(np.nextafter(score, 0)).inspect(picture(1), picture(2)).prediction == "FAIL"
    assert inspector.description.threshold.value == 0.5


def test_many_keep_their_order_in_any_batch(inspector: Inspector) -> None:
    pairs = [(picture(seed), picture(seed + 100)) for seed in range(7)]
    alone = [inspector.inspect(*pair).score for pair in pairs]
    for batch_size in (1, 3, 16):
        found = inspector.inspect_many(iter(pairs), batch_size=batch_size)
        np.testing.assert_allclose([verdict.score for verdict in found], alone, atol=1e-5)
    assert inspector.inspect_many([]) == []


def test_checkpoint_and_bundle_agree(inspector: Inspector, checkpoint_file: str) -> None:
    other = changenet.load(checkpoint_file)
    assert (inspector.engine_name, other.engine_name) == ("onnxruntime", "torch")
    pairs = [(picture(seed), picture(seed + 100)) for seed in range(4)]
    found = [[verdict.score for verdict in each.inspect_many(pairs)] for each in (inspector, other)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_prepared_pictures_give_the_scores_of_whole_ones(inspector: Inspector) -> None:
    test, golden = inspector.prepare_picture(picture(1)), inspector.prepare_picture(picture(2))
    assert test.shape == (3, 32, 32)
    assert test.dtype == np.uint8
    wanted = inspector.inspect(picture(1), picture(2))
    assert inspector.inspect_prepared(test, [golden]) == wanted
    assert inspector.inspect_arrays(test[None], golden[None]) == [wanted]
    assert inspector.score_arrays(test[None], golden[None, None])[0] == np.float32(wanted.score)
    assert inspector.score_arrays(test[None][:0], golden[None][:0]).shape == (0,)


def test_wrong_arrays_and_goldens_are_refused(inspector: Inspector) -> None:
    good = np.zeros((2, 3, 32, 32), np.uint8)
    for test, golden in ((good.astype(np.float32), good), (good, good[:1]), (good[..., :16], good)):
        with pytest.raises(DataError, match="not"):
            inspector.score_arrays(test, golden)
    for goldens in ([], [picture(1), picture(2)]):
        with pytest.raises(DataError, match="goldens for a network that compares with 1"):
            inspector.inspect(picture(1), goldens)


def test_all_problems_of_many_pairs_are_told_at_once(inspector: Inspector, tmp_path: Path) -> None:
    absent = tmp_path / "absent.png"
    with pytest.raises(DataError) as caught:
        inspector.inspect_many([(picture(1), absent), (b"no picture", picture(2)), (picture(1), picture(2))])
    first, second = map(str, caught.value.problems)
    assert first.startswith(f"pair 0: golden {absent}")
    assert second.startswith("pair 1: test")


def test_one_bad_picture_keeps_its_kind(inspector: Inspector) -> None:
    with pytest.raises(PictureError) as caught:
        inspector.prepare_picture(as_bytes(picture(1)), where="test", max_pixels=100)
    assert caught.value.kind is Kind.TOO_LARGE


def test_lights_are_given_by_name_in_any_order(lights_inspector: Inspector) -> None:
    test = {"White": picture(1), "Solder": picture(2)}
    assert np.array_equal(
        lights_inspector.prepare_picture(test), lights_inspector.prepare_picture(dict(reversed(test.items())))
    )
    swapped = {"White": picture(2), "Solder": picture(1)}
    assert not np.array_equal(lights_inspector.prepare_picture(test), lights_inspector.prepare_picture(swapped))
    assert lights_inspector.inspect(test, test).prediction in ("PASS", "open", "short")


def test_missing_and_unknown_lights_are_told_at_once(lights_inspector: Inspector) -> None:
    with pytest.raises(DataError) as caught:
        lights_inspector.prepare_picture({"Solder": picture(1), "Blue": picture(2)}, where="test")
    assert "test: no picture of the light 'White'" in str(caught.value)
    assert "test: there is no light 'Blue'" in str(caught.value)
    with pytest.raises(DataError, match="mapping of each light to its picture: Solder, White"):
        lights_inspector.prepare_picture(picture(1))


def test_real_classes_name_the_defect(lights_inspector: Inspector) -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.45, 0.5, 0.05]], np.float32))
    verdicts = lights_inspector.verdicts(logits)
    assert [verdict.prediction for verdict in verdicts] == ["PASS", "short", "open"]
    np.testing.assert_allclose([verdict.score for verdict in verdicts], [0.4, 0.8, 0.55], atol=1e-6)


def test_the_device_is_chosen_where_a_network_is_loaded(bundle_folder: Path, checkpoint_file: str) -> None:
    assert changenet.load(str(bundle_folder), device="cpu").engine.device == "CPUExecutionProvider"
    assert changenet.load(checkpoint_file, device="cpu").engine.device == "cpu"
    for path in (str(bundle_folder), checkpoint_file):
        with pytest.raises(EngineError, match="cannot use the device 'cuda:77'"):
            changenet.load(path, device="cuda:77")


def test_self_test_passes_here_and_tells_when_scores_are_off(inspector: Inspector, monkeypatch) -> None:
    assert inspector.self_test() <= 1e-4
    monkeypatch.setattr(inspector.engine, "score", lambda test, _: np.full(len(test), 0.123, np.float32))
    with pytest.raises(EngineError, match="self-test"):
        inspector.self_test()
