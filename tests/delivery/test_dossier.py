"""The dossier names everything, and anything changed is found."""

import hashlib
import json
import shutil

import pytest

from hilum.delivery import dossier
from hilum.errors import ReleaseError


@pytest.fixture
def copy(xr_release, tmp_path):
    return shutil.copytree(xr_release, tmp_path / "release")


def test_chain_by_the_words_of_its_own_description(xr_release):
    written = json.loads((xr_release / "dossier.json").read_text())
    chain = ""
    for link in written["links"]:
        own = {key: value for key, value in link.items() if key != "chain"}
        chain = hashlib.sha256(
            (chain + "\n" + json.dumps(own, sort_keys=True, separators=(",", ":"))).encode()
        ).hexdigest()
        assert link["chain"] == chain
    assert written["id"] == chain == dossier.verify(xr_release)


def test_names_every_file_and_the_run(xr_release):
    links = json.loads((xr_release / "dossier.json").read_text())["links"]
    named = {link["file"] for link in links if "file" in link}
    there = {str(path.relative_to(xr_release)) for path in xr_release.rglob("*") if path.is_file()}
    assert named == there - {"dossier.json", "embeddings.mar", "pneumonia.mar"}
    facts = {link["fact"]: link["value"] for link in links if "fact" in link}
    assert facts["data_digest"] == "ab" * 32
    assert facts["judged_validation.json"] == "absent"
    assert (facts["gate_verdict"], facts["gate_override_by"]) == ("pass", "absent")
    assert (
        facts["judged_scores.csv"] == hashlib.sha256((xr_release / "evidence" / "scores.csv").read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("name", ["encoder.onnx", "card.json", "limits.npz", "golden/001.png", "evidence/head.json"])
def test_a_changed_file_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ReleaseError, match=name):
        dossier.verify(copy)


def test_a_missing_or_added_file_is_named(copy):
    (copy / "golden" / "extra.png").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"golden/extra\.png"):
        dossier.verify(copy)
    (copy / "golden" / "extra.png").unlink()
    (copy / "limits.npz").unlink()
    with pytest.raises(ReleaseError, match=r"limits\.npz is missing"):
        dossier.verify(copy)


def test_a_dossier_that_was_edited_is_refused(copy):
    path = copy / "dossier.json"
    written = json.loads(path.read_text())
    written["links"][1]["value"] = "other"
    path.write_text(json.dumps(written))
    with pytest.raises(ReleaseError, match="source_digest"):
        dossier.verify(copy)
    written = json.loads((copy / "dossier.json").read_text())
    del written["links"][-1]
    path.write_text(json.dumps({**written, "links": written["links"][:1]}))
    with pytest.raises(ReleaseError, match="not at its id"):
        dossier.verify(copy)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "x", "links": [{}]}', '{"id": "x", "links": []}'])
def test_what_is_no_dossier_is_refused(copy, content):
    (copy / "dossier.json").write_text(content)
    with pytest.raises(ReleaseError, match=r"dossier\.json"):
        dossier.verify(copy)


def test_a_path_out_of_the_release_is_not_followed(copy):
    (copy.parent / "outside").write_bytes(b"x")
    link = {"file": "../outside", "sha256": hashlib.sha256(b"x").hexdigest()}
    chain = hashlib.sha256(("\n" + json.dumps(link, sort_keys=True, separators=(",", ":"))).encode()).hexdigest()
    (copy / "dossier.json").write_text(json.dumps({"id": chain, "links": [{**link, "chain": chain}]}))
    with pytest.raises(ReleaseError, match="outside the release"):
        dossier.verify(copy)


def test_a_link_instead_of_a_file_is_refused(copy):
    shutil.move(copy / "card.json", copy.parent / "card.json")
    (copy / "card.json").symlink_to(copy.parent / "card.json")
    with pytest.raises(ReleaseError, match=r"card\.json is missing"):
        dossier.verify(copy)
