"""Model directories with files of invalid content."""

import json

import pytest
from helpers.models import save_tiny

from scratch_gpt import export_native
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.directory_checks import INDEX, check_files
from scratch_gpt.hub.loading import load_model, open_tokenizer


@pytest.mark.parametrize("content", [[], 5, "x", None, {}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_invalid_index_of_weights_is_rejected(content, tmp_path):
    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps(content))
    with pytest.raises(ScratchError, match="can't be used, want a weight_map with the file of each weight"):
        check_files(folder)


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("value", [2.5, "yes", 1, {}])
def test_a_boolean_config_field_is_true_or_false(value, tmp_path):
    """A number passed the checks of the config, and the first step failed."""
    folder = save_tiny(tmp_path / "model")
    edit(folder / "config.json", output_hidden_states=value)
    with pytest.raises(ScratchError, match=r"output_hidden_states is .*, want true or false"):
        load_model(folder)
    edit(folder / "config.json", output_hidden_states=True)
    load_model(folder)


def test_return_dict_false_is_rejected(tmp_path):
    """The model would pass a tuple to its head, and the first step failed."""
    folder = save_tiny(tmp_path / "model")
    edit(folder / "config.json", return_dict=False)
    with pytest.raises(ScratchError, match="return_dict is False, want true"):
        load_model(folder)


def test_a_number_of_any_length_is_rejected(tmp_path):
    """The error formatted it as a float, which overflows beyond 308 digits."""
    folder = save_tiny(tmp_path / "model")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"hidden_size": 32', f'"hidden_size": {"9" * 400}'))
    with pytest.raises(ScratchError, match="hidden_size is a number of 1,329 bits, want at most 1,099,511,627,776"):
        check_files(folder)


def test_padding_beyond_the_embedding_can_not_be_exported(tmp_path):
    """transformers' classes need an embedding row for the padding token; ours do not."""
    folder = save_tiny(tmp_path / "model")
    edit(folder / "config.json", pad_token_id=10**6)
    with pytest.raises(ScratchError, match="pad_token_id is 1000000, LlamaForCausalLM wants less than 99"):
        export_native(load_model(folder))


def test_auto_class_in_a_config_is_a_string(tmp_path):
    """A number became a key of the auto_map, which was then saved with keys of two types."""
    folder = save_tiny(tmp_path / "model")
    edit(folder / "config.json", _auto_class=0)
    with pytest.raises(ScratchError, match="_auto_class is 0, want the name of a class"):
        load_model(folder)


def test_model_max_length_is_a_number(tmp_path):
    folder = save_tiny(tmp_path / "model")
    edit(folder / "tokenizer_config.json", model_max_length="gpt2")
    with pytest.raises(ScratchError, match="model_max_length is 'gpt2', want a number"):
        open_tokenizer(str(folder))


def test_a_special_token_with_the_name_of_a_method_is_rejected(tmp_path):
    """The tokenizer opened, but a saved copy of it did not."""
    folder = save_tiny(tmp_path / "model")
    edit(folder / "tokenizer_config.json", extra_special_tokens={"from_pretrained": "x"})
    with pytest.raises(ScratchError, match="a special token of it is called from_pretrained"):
        open_tokenizer(str(folder))
    edit(folder / "tokenizer_config.json", extra_special_tokens={"image_token": "x"})
    assert open_tokenizer(str(folder)).image_token == "x"
