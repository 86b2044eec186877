"""Model directories whose files are no such thing as their names say."""

import json

import pytest
from conftest import save_tiny

from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.directory_checks import INDEX, check_files


@pytest.mark.parametrize("content", [[], 5, "x", None, {}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_of_weights_that_is_none_is_refused(content, tmp_path):
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps(content))
    with pytest.raises(ScratchError, match="can't be used, want a weight_map with the file of each weight"):
        check_files(folder)
