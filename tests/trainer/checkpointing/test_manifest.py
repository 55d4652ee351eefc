from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import BLOCK_BYTES, MANIFEST, BrokenCheckpointError, seal, verify


def fill(folder):
    (folder / "shards" / "empty").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "shards" / "0.bin").write_bytes(b"shard")
    (folder / "nothing.txt").write_text("")


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    fill(folder)
    seal(folder, run_id="run", step=5, committed_at=123)
    return folder


def test_a_sealed_folder_verifies_and_its_manifest_lists_every_file(checkpoint):
    manifest = verify(checkpoint)

    assert {key: manifest[key] for key in ("format", "run_id", "step", "committed_at")} == {
        "format": 1,
        "run_id": "run",
        "step": 5,
        "committed_at": 123,
    }
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {
        "nothing.txt": 0,
        "shards/0.bin": 5,
        "weights.bin": 1024,
    }
    assert manifest == json.loads((checkpoint / MANIFEST).read_text())


def test_digests_are_those_of_the_whole_file_however_many_blocks_it_has(tmp_path):
    import hashlib

    content = bytes(range(251)) * (3 * BLOCK_BYTES // 251)
    (tmp_path / "large.bin").write_bytes(content)

    seal(tmp_path, run_id="run", step=1, committed_at=1)

    assert verify(tmp_path)["files"]["large.bin"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_names_that_are_no_text_are_kept(tmp_path):
    (tmp_path / "caf\udce9 \u2713").write_text("x")

    seal(tmp_path, run_id="run", step=1, committed_at=1)

    assert list(verify(tmp_path)["files"]) == ["caf\udce9 \u2713"]


def test_every_missing_file_is_named(checkpoint):
    shutil.rmtree(checkpoint / "shards")
    (checkpoint / "nothing.txt").unlink()

    with pytest.raises(BrokenCheckpointError) as caught:
        verify(checkpoint)

    assert caught.value.reason == "lacks nothing.txt; lacks shards/0.bin"
    assert str(caught.value) == f"checkpoint {checkpoint} lacks nothing.txt; lacks shards/0.bin"


def test_a_truncated_file_is_named_with_both_sizes(checkpoint):
    (checkpoint / "weights.bin").write_bytes(b"short")

    with pytest.raises(CheckpointError, match=r"has 5 bytes in weights\.bin, its manifest says 1024"):
        verify(checkpoint)


def test_other_content_of_the_same_size_is_named(checkpoint):
    (checkpoint / "shards" / "0.bin").write_bytes(b"shArd")

    with pytest.raises(
        CheckpointError, match=r"has other content in shards/0\.bin than was written \(SHA-256 differs\)"
    ):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / MANIFEST).unlink(), "has no manifest (manifest.json)"),
        (lambda folder: (folder / MANIFEST).write_text(""), "has a damaged manifest: JSONDecodeError"),
        (lambda folder: (folder / MANIFEST).write_bytes(b'["\xff"]'), "has a damaged manifest: UnicodeDecodeError"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "has a damaged manifest: RecursionError"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "has a manifest.json that trackside did not write"),
        (
            lambda folder: (folder / MANIFEST).write_text('{"format": 2, "digest": ""}'),
            "has a manifest of format 2; this version reads format 1",
        ),
    ],
)
def test_a_manifest_that_does_not_serve_is_described(checkpoint, damage, reason):
    damage(checkpoint)

    with pytest.raises(BrokenCheckpointError) as caught:
        verify(checkpoint)

    assert caught.value.reason.startswith(reason)


def test_a_file_in_the_place_of_a_checkpoint_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-5").write_text("")

    with pytest.raises(CheckpointError, match="is not a folder"):
        verify(tmp_path / "checkpoint-5")


def test_a_file_that_was_added_later_does_no_harm(checkpoint):
    (checkpoint / "notes.txt").write_text("the good one")

    assert "notes.txt" not in verify(checkpoint)["files"]


def test_a_folder_that_holds_a_manifest_of_its_own_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_text("mine")

    with pytest.raises(CheckpointError, match="give yours another name"):
        seal(tmp_path, run_id="run", step=1, committed_at=1)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    fill(folder)
    seal(folder, run_id="run", step=5, committed_at=123)
    return folder


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_and_no_cut_goes_unnoticed(sealed, tmp_path_factory, data):
    folder = shutil.copytree(sealed, tmp_path_factory.mktemp("flipped") / "checkpoint-5")
    manifest = verify(sealed)
    path = folder / data.draw(st.sampled_from(["weights.bin", "shards/0.bin", MANIFEST]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path.write_bytes(content)

    try:
        found = verify(folder)
    except CheckpointError:
        return

    assert path.name == MANIFEST  # white space, or the escaping of a name
    assert found == manifest
