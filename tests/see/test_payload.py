"""The content of a page: what it has of a model, and which models are refused."""

import json

import pytest
import torch
from helpers.decoders import native_decoder
from helpers.models import save_tiny, tiny_config, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.native import save_chat_model
from safetensors.torch import load_file, save_file

from scratch_gpt import ScratchGPTForCausalLM, import_native, train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.models.modeling_scratch_encoder import ScratchEncoderForSequenceClassification
from scratch_gpt.models.modeling_scratch_gpt import ScratchGPTModel
from scratch_gpt.see import payload, support
from scratch_gpt.see.payload import model_payload, open_model, payload_of


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_are_those_of_the_model(dtype):
    model = tiny_model("gpt2")
    content, weights = payload_of(model, None, "runs/gpt", dtype)
    bytes_of = getattr(torch, dtype).itemsize
    assert content["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}
    for name, weight in model.state_dict().items():
        tensor = content["tensors"].get(name)
        if name in content["tied"]:
            assert tensor is None
            continue
        part = weights[tensor["offset"] : tensor["offset"] + weight.numel() * bytes_of]
        found = torch.frombuffer(bytearray(part), dtype=getattr(torch, dtype)).view(tensor["shape"])
        assert torch.equal(found, weight.to(found.dtype)), name
        assert tensor["offset"] % 4 == 0
    unique = sum(parameter.numel() for parameter in model.parameters())
    assert len(weights) <= unique * bytes_of + 4 * len(content["tensors"])


def test_content_is_json_with_what_the_model_computes():
    model = tiny_seq2seq("modern")
    model.generation_config.update(num_beams=4, eos_token_id=2, forced_bos_token_id=7, length_penalty=0.8)
    content, _ = payload_of(model, None, "runs/seq2seq")
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["kind"] == "seq2seq"
    assert content["config"]["model_type"] == "scratch_seq2seq"
    assert content["config"]["decoder_layers"] == 3
    assert content["max_positions"] == 64
    settings = content["generation"]
    assert (settings["num_beams"], settings["eos_token_ids"], settings["forced_bos_token_id"]) == (4, [2], 7)
    assert (settings["length_penalty"], settings["no_repeat_ngram_size"]) == (0.8, 0)
    assert len(content["rotary"]["full_attention"]["inv_freq"]) == 4


def test_content_of_an_import_has_nothing_of_its_origin():
    model = import_native(native_decoder("Qwen2", "grouped"))
    assert model.config.imported_from
    content, _ = payload_of(model, None, "qwen")
    assert not {"imported_from", "auto_map", "architectures"} & set(content["config"])


def test_classifiers_have_labels():
    labels = {0: "negative", 1: "positive", 2: "</script>"}
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "bert", id2label=labels)
    content, _ = payload_of(model, None, "runs/classifier")
    assert content["labels"] == ["negative", "positive", "</script>"]
    assert content["generation"] is None


def test_frequencies_that_change_with_the_length_limit_the_page():
    assert payload_of(import_native(native_decoder("Phi3", "128k")), None, "")[0]["max_positions"] == 16
    assert payload_of(import_native(native_decoder("Phi3", "4k")), None, "")[0]["max_positions"] == 64


def test_frequencies_are_those_of_short_texts_after_a_long_one():
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    model = tiny_model("llama", max_position_embeddings=16, rope_parameters=rope)
    before = payload_of(model, None, "")[0]["rotary"]
    with torch.no_grad():
        model(torch.full((1, 40), 5))
    assert payload_of(model, None, "")[0]["rotary"] == before


def test_numbers_too_large_for_float16_are_refused():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[3, 4] = 70_000.0
    with pytest.raises(
        ScratchError, match=r"model.embed_tokens.weight has 70000, .* too large for float16: use float32"
    ):
        payload_of(model, None, "model")
    assert payload_of(model, None, "model", "float32")


def test_models_too_large_are_refused_before_their_weights_are_read(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path)
    monkeypatch.setattr(support, "MAX_PARAMETERS", 1000)
    count = sum(parameter.numel() for parameter in tiny_model("llama").parameters())
    monkeypatch.setattr(payload, "load_model", lambda *args: pytest.fail("the weights were read"))
    limit = "and a page has at most 1,000: show it by 'scratch-gpt see MODEL --serve'"
    with pytest.raises(ScratchError, match=f"the model has {count:,} parameters, {limit}"):
        open_model(folder)


def test_a_model_of_30_million_parameters_is_too_large():
    with torch.device("meta"):
        model = ScratchGPTForCausalLM(tiny_config("llama", hidden_size=512, num_hidden_layers=9, vocab_size=2000))
    with pytest.raises(ScratchError, match="a page has at most 30,000,000"):
        payload_of(model, None, "large")


def test_classes_and_settings_that_the_page_does_not_have_are_refused():
    with pytest.raises(ScratchError, match="a page can't show a ScratchGPTModel: want one of ScratchBigramForCausalLM"):
        payload_of(ScratchGPTModel(tiny_config("llama")), None, "trunk")
    model = tiny_model("llama")
    model.generation_config.encoder_no_repeat_ngram_size = 3
    with pytest.raises(ScratchError, match="a page can't generate with encoder_no_repeat_ngram_size=3"):
        payload_of(model, None, "model")


def test_a_model_directory_and_one_of_transformers(tmp_path):
    own = model_payload(save_tiny(tmp_path / "own"))
    assert own.content["name"] == str(tmp_path / "own")
    assert own.content["tokenizers"]["target"] is None
    native = model_payload(save_chat_model(tmp_path / "native"))
    assert native.content["config"]["model_type"] == "scratch_gpt"
    assert native.content["tokenizers"]["source"]


def test_bad_directories_are_one_line(tmp_path):
    folder = save_tiny(tmp_path / "without")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ScratchError, match="no model can be opened from"):
        model_payload(folder)
    with pytest.raises(ScratchError, match="there is no folder of that name here"):
        model_payload(str(tmp_path / "absent"))
    folder = save_tiny(tmp_path / "vocabulary")
    train_tokenizer(["".join(map(chr, range(32, 200)))], "char", model_max_length=64).save_pretrained(folder)
    with pytest.raises(ScratchError, match=r"the tokenizer has .* tokens and the model's vocabulary 99"):
        model_payload(folder)
    folder = save_tiny(tmp_path / "infinite")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ScratchError, match="not finite"):
        model_payload(folder)
