# SPDX-License-Identifier: Apache-2.0
"""Another recipe is refused by name, and the first damaged file is named."""

from __future__ import annotations

import json

import pytest

from nemo_mcpo.errors import DataError
from nemo_mcpo.storage.manifests import file_sizes, first_damage, refuse_another_recipe

RECIPE = {"seed": 1, "temperatures": (0.6, 1.0)}
KNOWN = json.loads(json.dumps(RECIPE))


def test_the_same_recipe_passes():
    refuse_another_recipe(KNOWN, RECIPE, DataError, "", "")
    refuse_another_recipe(KNOWN | {"older": 1}, RECIPE, DataError, "", "")


@pytest.mark.parametrize("change", [{"seed": 2}, {"temperatures": (0.6,)}, {"top_p": 0.9}])
@pytest.mark.parametrize("where", [None, "run"])
def test_another_recipe_is_refused(change, where):
    [(name, value)] = change.items()
    with pytest.raises(DataError, match=f"^{where or name}: another {name}") as raised:
        refuse_another_recipe(KNOWN, RECIPE | change, DataError, "another {name}", "restore it", where)
    error = raised.value
    assert (error.got, error.expected) == (json.loads(json.dumps(value)), KNOWN.get(name))
    assert error.fix == "restore it"


def test_damage(tmp_path):
    (tmp_path / "below").mkdir()
    for name, size in (("a", 1234), ("below/b", 0), ("list", 7)):
        (tmp_path / name).write_bytes(b"x" * size)
    sizes = file_sizes(tmp_path, without="list")
    assert sizes == {"a": 1234, "below/b": 0}
    (tmp_path / "more").touch()
    assert first_damage(tmp_path, sizes) is None
    (tmp_path / "a").write_bytes(b"")
    assert first_damage(tmp_path, sizes) == "a has 0 bytes instead of 1,234"
    (tmp_path / "below" / "b").unlink()
    assert first_damage(tmp_path, {"below/b": 0}) == "below/b is missing"
