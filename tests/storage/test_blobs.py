from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.contract import Artifact
from agent_forge.errors import ArtifactCorrupt, ArtifactMissing, DataError, DiskFull
from agent_forge.storage import durable
from agent_forge.storage.blobs import Blobs
from agent_forge.storage.home import Home

Store = Callable[..., Artifact]


def test_a_file_is_stored_under_the_sha256_of_its_bytes(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    sha256, size = home.blobs.put_file(tmp_path / "a")
    assert sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert size == 3
    with home.blobs.open(sha256) as stream:
        assert stream.read() == b"abc"


@settings(max_examples=25, deadline=None)
@given(contents=st.lists(st.binary(max_size=200), min_size=1, max_size=6))
def test_equal_bytes_are_stored_once_and_all_come_back(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("blobs")
    blobs = Blobs(root / "blobs", root / "views", reserve_bytes=0)
    digests = []
    for index, content in enumerate(contents):
        (root / str(index)).write_bytes(content)
        digests.append(blobs.put_file(root / str(index))[0])
    assert len(list(blobs.names())) == len(set(contents))
    assert [blobs.path(digest).read_bytes() for digest in digests] == contents


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_each_way_in_gives_the_same_artifact_and_only_a_move_empties_the_source(
    how: str, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights").write_bytes(b"w" * 1000)
    artifact = home.blobs.put_folder("checkpoint", folder, {}, how=how)  # type: ignore[arg-type]
    assert dict(artifact.files) == {
        "config.json": (hashlib.sha256(b"{}").hexdigest(), 2),
        "sub/weights": (hashlib.sha256(b"w" * 1000).hexdigest(), 1000),
    }
    assert folder.exists() == (how != "move")


def test_a_move_across_file_systems_becomes_a_copy(home: Home) -> None:
    folder = Path("/dev/shm") / f"forge-test-{os.getpid()}"  # another file system is the point
    if not folder.parent.is_dir() or folder.parent.stat().st_dev == home.path.stat().st_dev:
        folder = home.path / "same"
    folder.mkdir()
    (folder / "weights").write_bytes(b"far away")
    artifact = home.blobs.put_folder("checkpoint", folder, {}, how="move")
    assert (home.blobs.view(artifact) / "weights").read_bytes() == b"far away"
    assert not folder.exists()


def test_a_symbolic_link_is_stored_as_the_bytes_behind_it(home: Home, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"bytes")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "weights").symlink_to(tmp_path / "real")
    artifact = home.blobs.put_folder("checkpoint", tmp_path / "snapshot", {}, how="move")
    assert (home.blobs.view(artifact) / "weights").read_bytes() == b"bytes"
    assert (tmp_path / "real").read_bytes() == b"bytes"


def test_an_empty_folder_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        home.blobs.put_folder("checkpoint", tmp_path / "empty", {})


def test_a_view_shows_the_files_and_is_built_once(home: Home, store: Store) -> None:
    artifact = store(config=b"{}", weights=b"w")
    view = home.blobs.view(artifact)
    inode = (view / "weights").stat().st_ino
    assert {path.name: path.read_bytes() for path in view.iterdir()} == {"config": b"{}", "weights": b"w"}
    assert home.blobs.view(artifact) == view
    assert (view / "weights").stat().st_ino == inode == home.blobs.location(artifact.files["weights"][0]).stat().st_ino


def test_a_view_that_lost_or_changed_a_file_is_built_again(home: Home, store: Store) -> None:
    artifact = store(config=b"{}", weights=b"w")
    view = home.blobs.view(artifact)
    view.chmod(0o755)
    (view / "weights").unlink()
    (view / "weights").write_bytes(b"an intruder")
    assert (home.blobs.view(artifact) / "weights").read_bytes() == b"w"


def test_a_missing_blob_is_named(home: Home, store: Store) -> None:
    artifact = store()
    home.blobs.location(artifact.files["weights"][0]).unlink()
    with pytest.raises(ArtifactMissing, match=artifact.files["weights"][0]):
        home.blobs.view(artifact)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "append", "swap"])
def test_every_damage_is_found_and_the_error_names_path_and_both_digests(damage: str, home: Home, store: Store) -> None:
    artifact = store(weights=bytes(range(256)) * 40)
    other = store(weights=b"x" * 10240)
    sha256 = artifact.files["weights"][0]
    location = home.blobs.location(sha256)
    data = bytearray(location.read_bytes())
    if damage == "flip":
        data[5000] ^= 1
    elif damage == "truncate":
        del data[-1:]
    elif damage == "empty":
        data.clear()
    elif damage == "append":
        data += b"\0"
    else:
        data = bytearray(home.blobs.location(other.files["weights"][0]).read_bytes())
    location.chmod(0o644)
    location.write_bytes(data)
    with pytest.raises(ArtifactCorrupt) as caught:
        home.blobs.view(artifact)
    for part in (str(location), sha256, hashlib.sha256(data).hexdigest()):
        assert part in str(caught.value)


def test_a_thousand_mutations_are_all_found(home: Home, store: Store) -> None:
    artifact = store(weights=bytes(random.Random(1).randbytes(4096)))
    sha256 = artifact.files["weights"][0]
    location, intact = home.blobs.location(sha256), home.blobs.location(sha256).read_bytes()
    location.chmod(0o644)
    dice, found = random.Random(2), 0
    for _ in range(1000):
        data = bytearray(intact)
        if dice.random() < 0.7:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        else:
            del data[dice.randrange(len(data)) :]
        location.write_bytes(data)
        try:
            # As another process would: no cache of what was checked before.
            Blobs(home.blobs.folder, home.blobs.views).path(sha256)
        except ArtifactCorrupt:
            found += 1
    assert found == 1000


def test_damage_after_a_check_in_the_same_process_is_found_too(home: Home, store: Store) -> None:
    artifact = store(weights=b"good")
    sha256 = artifact.files["weights"][0]
    location = home.blobs.path(sha256)
    location.chmod(0o644)
    location.write_bytes(b"evil")
    os.utime(location, ns=(1, 1))
    with pytest.raises(ArtifactCorrupt):
        home.blobs.path(sha256)


def test_storing_again_heals_a_damaged_blob(home: Home, store: Store) -> None:
    artifact = store(weights=b"good")
    location = home.blobs.location(artifact.files["weights"][0])
    location.chmod(0o644)
    location.write_bytes(b"evil")
    assert store(weights=b"good").digest == artifact.digest
    assert location.read_bytes() == b"good"


def test_a_save_that_would_eat_the_reserve_is_refused_before_its_first_byte(home: Home, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"w" * 1000)
    greedy = Blobs(home.blobs.folder, home.blobs.views, reserve_bytes=durable.free_bytes(tmp_path) + 10**12)
    with pytest.raises(DiskFull, match="in reserve"):
        greedy.put_folder("checkpoint", tmp_path / "model", {})
    assert list(home.blobs.folder.rglob("*")) == []


def test_a_source_that_changes_while_it_is_stored_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "growing"
    source.write_bytes(b"first")
    honest = durable.pieces_of

    def growing(path: Path):  # type: ignore[no-untyped-def]
        path.write_bytes(b"second")
        return honest(path)

    monkeypatch.setattr(durable, "pieces_of", growing)
    with pytest.raises(DataError, match="changed while"):
        home.blobs.put_file(source)
    assert list(home.blobs.names()) == []
