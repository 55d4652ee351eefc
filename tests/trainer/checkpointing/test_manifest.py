from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damages import strip_roles

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import (
    MANIFEST,
    BrokenCheckpointError,
    contents_of,
    open_checkpoint,
    seal,
    verify,
)


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

    content = bytes(range(251)) * (3 * (1 << 20) // 251)
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


# -- roles --------------------------------------------------------------------------------------------------------


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_files_have_the_roles_that_their_writer_gave_them(tmp_path):
    files(tmp_path, "a.bin", "optimizer.pt", "shards/0")
    seal(tmp_path, run_id="run", step=1, committed_at=1, roles={"a.bin": "weights"})
    files(tmp_path, "scheduler.pt")

    contents = open_checkpoint(tmp_path)

    assert contents.roles == {"a.bin": "weights", "optimizer.pt": "other", "shards/0": "other"}
    assert contents.names("weights") == ["a.bin"]
    assert contents.names("shards") == []
    assert contents.find("optimizer.pt") is None  # a user's own file of that name
    assert contents.find("scheduler.pt") is None  # not in the manifest


def test_an_older_manifest_goes_by_the_standard_names_of_the_files_it_lists(tmp_path):
    files(tmp_path, "model.safetensors", "rng_state_0.pt", "shards/0", "card.md")
    seal(tmp_path, run_id="run", step=1, committed_at=1)
    strip_roles(tmp_path)
    files(tmp_path, "optimizer.pt")

    contents = open_checkpoint(tmp_path)

    assert contents.roles == {
        "model.safetensors": "weights",
        "rng_state_0.pt": "rng",
        "shards/0": "shards",
        "card.md": "other",
    }
    assert contents.find("rng_state_0.pt") == tmp_path / "rng_state_0.pt"


def test_a_folder_without_a_manifest_goes_by_standard_names_and_a_checkpoint_without_one_is_told(tmp_path, caplog):
    files(tmp_path, "model.weights.h5", "checkpoint-5/model.safetensors")

    assert open_checkpoint(tmp_path).roles == {"model.weights.h5": "weights"}
    (tmp_path / "trainer_state.json").write_text('{"global_step": 5}')  # as beside a final model
    open_checkpoint(tmp_path)
    assert caplog.messages == []

    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text('{"global_step": 5}')
    open_checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "optimizer.pt").touch()
    open_checkpoint(tmp_path)
    told = [f"{path} has no manifest, so it cannot be verified" for path in (tmp_path / "checkpoint-5", tmp_path)]
    assert caplog.messages == told


def test_no_door_leads_into_a_checkpoint_that_is_gone_or_damaged(checkpoint, tmp_path):
    (checkpoint / "weights.bin").write_bytes(b"short")

    with pytest.raises(BrokenCheckpointError, match=r"has 5 bytes in weights\.bin"):
        open_checkpoint(checkpoint)
    with pytest.raises(BrokenCheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "gone")
    assert contents_of(checkpoint).names("other") == ["nothing.txt", "shards/0.bin", "weights.bin"]


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
