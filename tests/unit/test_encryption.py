"""Sealed files: what goes in comes out, and nothing else does."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changenet import encryption
from changenet.encryption import SealedWriter, is_sealed, read_model, read_sealed, seal, unseal, write_model
from changenet.errors import CheckpointError

KEY = "correct horse"
CHUNK = 32


def cheap_header() -> encryption._Header:
    return encryption._Header(log2_cost=10, parallelism=1, chunk_size=CHUNK)


def cheap_seal(content: bytes, key: str = KEY, pieces: int = 1) -> bytes:
    sealed = io.BytesIO()
    with SealedWriter(sealed, key, header=cheap_header()) as writer:
        step = max(1, len(content) // pieces)
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
    return sealed.getvalue()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=4 * CHUNK), st.integers(1, 9))
def test_what_is_sealed_comes_back_however_it_was_written(content: bytes, pieces: int) -> None:
    assert unseal(cheap_seal(content, pieces=pieces), KEY) == content


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK])
def test_every_changed_bit_position_is_found(size: int) -> None:
    sealed = cheap_seal(bytes(range(256))[:size] if size < 256 else bytes(size))
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(CheckpointError):
            unseal(bytes(changed), KEY)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4 * CHUNK), st.data())
def test_every_cut_and_every_addition_is_found(size: int, data: st.DataObject) -> None:
    sealed = cheap_seal(bytes(size))
    cut = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(CheckpointError):
        unseal(sealed[:cut], KEY)
    with pytest.raises(CheckpointError):
        unseal(sealed + data.draw(st.binary(min_size=1, max_size=80)), KEY)


def test_swapped_chunks_are_found() -> None:
    sealed = cheap_seal(bytes(range(3 * CHUNK)))
    start, step = encryption._HEADER.size, CHUNK + 16
    swapped = sealed[:start] + sealed[start + step : start + 2 * step] + sealed[start : start + step]
    with pytest.raises(CheckpointError):
        unseal(swapped + sealed[start + 2 * step :], KEY)


def test_a_wrong_or_empty_key_is_a_clear_error() -> None:
    sealed = cheap_seal(b"weights")
    with pytest.raises(CheckpointError, match=r"model\.pth: wrong encryption key"):
        read_sealed(io.BytesIO(sealed), "another", where="model.pth")
    with pytest.raises(CheckpointError, match="empty"):
        seal(b"weights", "")


def test_two_files_never_share_salt_or_nonce() -> None:
    first, second = cheap_seal(b"same"), cheap_seal(b"same")
    assert first[16:] != second[16:]


def test_a_newer_format_and_a_forged_cost_are_refused() -> None:
    sealed = bytearray(cheap_seal(b"weights"))
    with pytest.raises(CheckpointError, match="Upgrade"):
        unseal(bytes(sealed[:8]) + b"\x02" + bytes(sealed[9:]), KEY)
    with pytest.raises(CheckpointError, match="damaged"):  # log2 of the cost: would ask for terabytes
        unseal(bytes(sealed[:9]) + b"\x28" + bytes(sealed[10:]), KEY)


def test_default_cost_and_chunks_of_a_large_file(tmp_path) -> None:
    content = bytes(range(256)) * 10_000
    path = tmp_path / "model.onnx"
    with write_model(path, KEY) as file:
        file.write(content)
    assert is_sealed(path)
    assert is_sealed(path.read_bytes())
    assert content[:64] not in path.read_bytes()
    assert read_model(path, KEY).read() == content
    with pytest.raises(CheckpointError, match="Set encryption_key"):
        read_model(path, None)


def test_a_plain_file_is_read_with_or_without_a_key(tmp_path) -> None:
    path = tmp_path / "model.pth"
    with write_model(path, None) as file:
        file.write(b"plain")
    assert not is_sealed(path)
    assert not is_sealed(tmp_path / "absent")
    assert read_model(path, KEY).read() == read_model(path, None).read() == b"plain"
    with pytest.raises(CheckpointError, match="no such file"):
        read_model(tmp_path / "absent", None)


def test_an_interrupted_writer_leaves_nothing(tmp_path) -> None:
    path = tmp_path / "model.pth"
    with pytest.raises(RuntimeError), write_model(path, KEY) as file:
        file.write(bytes(3 << 20))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_stream_is_refused() -> None:
    sealed = io.BytesIO()
    with pytest.raises(RuntimeError), SealedWriter(sealed, KEY, header=cheap_header()) as writer:
        writer.write(bytes(3 * CHUNK))
        raise RuntimeError
    with pytest.raises(CheckpointError):
        unseal(sealed.getvalue(), KEY)


def test_torch_saves_straight_into_a_sealed_file(tmp_path) -> None:
    import torch

    path = tmp_path / "weights.pth"
    with write_model(path, KEY) as file:
        torch.save({"weight": torch.arange(100_000)}, file)
    state = torch.load(read_model(path, KEY), weights_only=True)
    assert torch.equal(state["weight"], torch.arange(100_000))
