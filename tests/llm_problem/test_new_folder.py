"""A folder appears whole or not at all, over nothing, and for those whom the umask lets in."""

import os
import stat

import pytest

from llm_problem.new_folder import new_folder


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "model") as draft:
        (draft / "half").touch()
        (draft / "missing").read_text()
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "deep" / "model") as draft:
        (draft / "whole").write_text("done")
        assert not (tmp_path / "deep" / "model").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "model", "whole"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "model", tmp_path / "file" / "deep" / "model", "/proc/model"):
        message = r"model cannot be made, as .* is no folder that can be written to"
        with pytest.raises(OSError, match=message), new_folder(path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="not overwritten"), new_folder(tmp_path / "link"):
        pass
    with pytest.raises(FileExistsError, match="not overwritten"), new_folder(tmp_path / "model") as draft:
        (draft / "mine").touch()
        (tmp_path / "model").mkdir()  # by somebody else, meanwhile
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "model"]


@pytest.mark.parametrize(("umask", "folders", "files"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_who_may_read_is_what_the_umask_says(umask, folders, files, tmp_path):
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "model") as draft:
            (draft / "inside").mkdir()
            for name in ("own", "inside/open"):
                (draft / name).touch()
            (draft / "own").chmod(0o600)  # as safetensors does
    finally:
        os.umask(before)
    paths = [tmp_path / "model", *tmp_path.rglob("model/**/*")]
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert found == {"model": folders, "inside": folders, "own": files, "open": files}
