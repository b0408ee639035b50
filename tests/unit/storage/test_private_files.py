# SPDX-License-Identifier: Apache-2.0
"""Private files are readable only by their owner unless the site configures another mode."""

from __future__ import annotations

import os

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.storage.private_files import FILE_MODE, open_private


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("mode", "mask", "expected"),
    [
        (None, 0o000, 0o600),
        (None, 0o277, 0o400),
        ("0640", 0o022, 0o640),
        ("664", 0o000, 0o664),
        ("0640", 0o077, 0o600),
    ],
)
def test_modes(tmp_path, monkeypatch, umask, mode, mask, expected):
    monkeypatch.setenv(FILE_MODE, mode) if mode else monkeypatch.delenv(FILE_MODE, raising=False)
    umask(mask)
    with open_private(tmp_path / "new", "w") as file:
        file.write("ä")
    assert (tmp_path / "new").stat().st_mode & 0o777 == expected
    assert (tmp_path / "new").read_bytes() == "ä".encode()


def test_an_existing_file_keeps_its_mode_and_content(tmp_path):
    (tmp_path / "old").write_text("a")
    (tmp_path / "old").chmod(0o644)
    with open_private(tmp_path / "old", "ab") as file:
        file.write(b"b")
    assert (tmp_path / "old").read_text() == "ab" and (tmp_path / "old").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("mode", ["", "rw", "0400", "0755", "0o640", "1666", "888"])
def test_invalid_modes(tmp_path, monkeypatch, mode):
    monkeypatch.setenv(FILE_MODE, mode)
    with pytest.raises(ConfigError) as caught:
        open_private(tmp_path / "new", "w")
    assert (caught.value.where, caught.value.got) == (FILE_MODE, repr(mode))
    assert "0640" in str(caught.value.expected) and caught.value.fix.startswith(f"export {FILE_MODE}=")
    assert not (tmp_path / "new").exists()
