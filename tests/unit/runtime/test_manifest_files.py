"""Manifests from directories: order, links, special files, everything that can't be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidegate.api.manifests import ManifestError
from sidegate.runtime.manifest_files import MAX_BYTES, MAX_FILES, read_manifests

POLICY = """\
apiVersion: sidegate.dev/v1alpha1
kind: AccessPolicy
metadata: {name: NAME}
spec:
  targets: {names: [shop-db]}
  subjects: [{groups: [developers]}]
  grants: [{postgres: {databases: [shop], role: readonly, allow: [Read]}}]
"""


def write(path: Path, name: str = "policy") -> Path:
    path.write_text(POLICY.replace("NAME", name), "utf-8")
    return path


def problem_of(place: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifests(place)
    (problem,) = caught.value.problems
    return str(problem)


def test_reads_yaml_files_in_the_order_of_their_names_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "b.yml", "second")
    write(tmp_path / "a.yaml", "first")
    (tmp_path / "notes.txt").write_text("a: [", "utf-8")
    (tmp_path / ".hidden.yaml").write_text("a: [", "utf-8")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.yaml").write_text("a: [", "utf-8")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]", "utf-8")
    manifests = read_manifests(tmp_path)
    assert [each.resource.metadata.name for each in manifests.policies] == ["first", "second"]
    assert manifests.policies[0].origin.file == str(tmp_path / "a.yaml")
    assert manifests.notes == (f"{tmp_path / 'kustomization.yaml'}: left alone: kustomize's own",)


def test_reads_several_places_and_single_files(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "a.yaml", "first")
    single = write(tmp_path / "single", "second")
    assert len(read_manifests([tmp_path / "one", single]).policies) == 2


def test_a_link_inside_is_followed_as_in_a_mounted_configmap(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    write(tmp_path / "..data" / "a.yaml")
    (tmp_path / "a.yaml").symlink_to(Path("..data") / "a.yaml")
    assert len(read_manifests(tmp_path).policies) == 1


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.yaml")
    inside = tmp_path / "manifests"
    inside.mkdir()
    (inside / "a.yaml").symlink_to(outside)
    assert f"leads out of `{inside}`" in problem_of(inside)


def test_a_link_that_leads_nowhere_or_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "missing.yaml")
    assert "can't be read" in problem_of(tmp_path)
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.yaml").symlink_to(tmp_path / "a.yaml")
    assert "can't be read" in problem_of(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    assert "is not a plain file" in problem_of(tmp_path)


def test_a_directory_with_a_manifests_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    assert "is not a plain file" in problem_of(tmp_path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "the file is larger than" in problem_of(tmp_path)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    for index in range(MAX_FILES + 1):
        (tmp_path / f"{index}.yaml").touch()
    assert f"has more than {MAX_FILES} manifests" in problem_of(tmp_path)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    assert problem_of(tmp_path) == f"{tmp_path / 'a.yaml'}:2: the file is not UTF-8; fix: save it as UTF-8"


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + POLICY.replace("NAME", "x").encode())
    assert len(read_manifests(tmp_path).policies) == 1


def test_a_place_that_has_no_manifest_is_a_problem(tmp_path: Path) -> None:
    assert "has no manifest" in problem_of(tmp_path)
    assert "can't be read" in problem_of(tmp_path / "missing")


def test_unreadable_files_and_wrong_manifests_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    (tmp_path / "b.yaml").write_text(POLICY.replace("NAME", "Bad"), "utf-8")
    with pytest.raises(ManifestError) as caught:
        read_manifests(tmp_path)
    assert [Path(problem.file).name for problem in caught.value.problems] == ["a.yaml", "b.yaml"]
