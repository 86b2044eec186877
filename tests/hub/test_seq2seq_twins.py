"""Encoder-decoders against transformers' own BART, mBART, Pegasus, T5 and mT5: equal logits and generated text with the
same weights, in both directions, and after training."""

import json
from pathlib import Path

import helpers
import pytest
import torch
import transformers
from helpers.models import lift_norms, randomise, tiny_seq2seq
from helpers.native import SEQ2SEQ, native_with, untie_head
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from scratch_gpt import export_native, import_native
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.native.registry import TWINS
from scratch_gpt.models.compatibility import RELEASE, cache_of

CASES = {
    **{family: (family, {}) for family in SEQ2SEQ},
    "bart-untied": ("bart", {"tie_word_embeddings": False}),
    "mbart-scaled": ("mbart", {"scale_embedding": True, "encoder_layers": 3, "decoder_layers": 1}),
    "pegasus-xsum": ("pegasus", {"scale_embedding": True, "activation_function": "relu"}),
    "t5-gated-silu": ("t5", {"feed_forward_proj": "gated-silu"}),
    "t5-many-buckets": ("t5", {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
}
PUBLISHED = json.loads(Path(helpers.__file__).with_name("published_configs").joinpath("seq2seq.json").read_text())
LENGTHS = (14, 9, 3)  # tokens in each row of a batch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch(left: bool = False) -> dict[str, torch.Tensor]:
    """Padded sources, and targets of 8 tokens."""
    ids, mask = torch.randint(3, 99, (3, 14)), torch.zeros(3, 14, dtype=torch.long)
    for row, real in enumerate(LENGTHS):
        mask[row, 14 - real :] = 1 if left else 0
        mask[row, :real] = 1 if not left else mask[row, :real]
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": torch.randint(3, 99, (3, 8))}


def logits(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_equal_after_import_and_export(name, attention, tmp_path):
    family, fields = CASES[name]
    native = native_with(family, **fields)
    ours = import_native(native)
    out = export_native(ours)
    assert type(out) is type(native)
    for model in (native, ours, out):
        model.set_attn_implementation(attention)
    inputs = batch()
    expected = logits(native, **inputs)
    assert expected.std() > 0.1  # the comparison is meaningful
    for model in (ours, out):
        torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-4, rtol=0)
    ours.save_pretrained(tmp_path / "ours")
    out.save_pretrained(tmp_path / "native")
    for folder in ("ours", "native"):
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / folder).eval()
        torch.testing.assert_close(logits(again, **inputs), expected, atol=1e-4, rtol=0)
    assert type(again) is type(native)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_padding_on_either_side_of_source_and_target(family):
    """transformers' BART, mBART and Pegasus count padding on the left as positions, ours does not: a padded row has the
    logits of the row alone."""
    native = native_with(family)
    ours = import_native(native)
    for left in (False, True):
        inputs = batch(left)
        target_mask = torch.ones(3, 8, dtype=torch.long)
        target_mask[1, 5:] = 0
        found = logits(ours, **inputs, decoder_attention_mask=target_mask)
        for row in range(3):
            real, rows = inputs["attention_mask"][row].bool(), slice(row, row + 1)
            alone = {
                "input_ids": inputs["input_ids"][rows, real],
                "decoder_input_ids": inputs["decoder_input_ids"][rows, target_mask[row].bool()],
            }
            expected = logits(native, **alone)
            torch.testing.assert_close(found[rows, target_mask[row].bool()], expected, atol=1e-4, rtol=0)
    if ours.config.position_type != "relative":
        return
    target_mask = target_mask.flip(1)
    inputs["decoder_attention_mask"] = target_mask
    real = target_mask.bool()
    torch.testing.assert_close(logits(ours, **inputs)[real], logits(native, **inputs)[real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_cached_decoding_equals_the_full_forward(family):
    native = native_with(family)
    ours, inputs = import_native(native), batch()
    expected = logits(native, **inputs)
    target = inputs.pop("decoder_input_ids")
    encoded, cache, steps = ours.model.encoder(inputs["input_ids"], inputs["attention_mask"]), None, []
    for first, last in ((0, 1), (1, 4), (4, 5), (5, 8)):  # one token at a time, and several
        with torch.no_grad():
            step = ours(
                encoder_outputs=encoded,
                attention_mask=inputs["attention_mask"],
                decoder_input_ids=target[:, first:last],
                cache=cache,
                use_cache=True,
            )
        cache = cache_of(step)
        steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("beams", [1, 4])
def test_generated_text_is_equal(family, beams):
    # transformers' T5 with more decoder than encoder layers can't decode with a cache.
    native = native_with(family, **({"num_layers": 3} if "t5" in family else {}))
    ours, inputs = import_native(native), batch()
    del inputs["decoder_input_ids"]
    how = {"num_beams": beams, "do_sample": False, "max_new_tokens": 20, "length_penalty": 0.6}
    how["no_repeat_ngram_size"] = 2  # otherwise random weights soon repeat a token
    expected = native.generate(**inputs, **how)
    assert len(set(expected.flatten().tolist())) > 8
    assert torch.equal(ours.generate(**inputs, **how), expected)
    assert torch.equal(ours.generate(**inputs, **how, use_cache=False), expected)
    assert torch.equal(export_native(ours).generate(**inputs, **how), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_model_trained_after_import_is_exported(name):
    family, fields = CASES[name]
    ours, inputs = import_native(native_with(family, **fields)), batch()
    before = logits(ours, **inputs)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-2)
    for _ in range(10):
        ours.train()(
            **{n: x for n, x in inputs.items() if "decoder" not in n}, labels=inputs["decoder_input_ids"]
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = logits(ours.eval(), **inputs)
    assert (found - before).abs().max() > 0.1
    torch.testing.assert_close(logits(export_native(ours), **inputs), found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", ["bart", "mbart", "pegasus", "t5"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_new_model_of_each_preset_has_its_native_class(preset, tied):
    ours, inputs = tiny_seq2seq(preset, tie_word_embeddings=tied), batch()
    native = export_native(ours)
    assert native.config.model_type == preset
    torch.testing.assert_close(logits(native, **inputs), logits(ours, **inputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("bart", {"encoder_ffn_dim": 40}, "encoder_ffn_dim is 40 and its decoder_ffn_dim 48"),
        ("mbart", {"decoder_attention_heads": 2}, "encoder_attention_heads is 4 and its decoder_attention_heads 2"),
        ("pegasus", {"activation_function": "mish"}, "activation is 'mish'"),
        ("t5", {"feed_forward_proj": "gated-mish"}, "activation is 'mish'"),
    ],
)
def test_import_refuses_by_name(family, fields, reason):
    with pytest.raises(ScratchError, match=reason):
        import_native(native_with(family, **fields))


def test_umt5_is_refused_by_name():
    """Each of its layers has its own relative positions."""
    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    with pytest.raises(ScratchError, match="cannot import a UMT5ForConditionalGeneration"):
        import_native(UMT5ForConditionalGeneration(UMT5Config(**sizes)))


def test_a_tied_head_that_differs_from_the_embedding_is_refused():
    """Otherwise the embedding would silently be replaced by the head."""
    model = native_with("t5")
    untie_head(model)
    model.lm_head.weight.data += 1
    with pytest.raises(
        ScratchError, match=r"lm_head\.weight and shared\.weight differ: set tie_word_embeddings to False"
    ):
        import_native(model)


@pytest.mark.parametrize(
    ("preset", "fields", "reason"),
    [
        ("bart", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        ("bart", {"head_dim": 4}, "head_dim is 4"),
        ("bart", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings is False"),
        ("bart", {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 50, "tie_word_embeddings": False},
         "decoder_vocab_size is 50"),
        ("bart", {"embedding_norm": False, "qk_norm": True}, "qk_norm is True"),
        ("pegasus", {"mlp_gated": True}, "mlp_gated is True"),
        ("t5", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        ("t5", {"hidden_act": "gelu"}, "hidden_act is 'gelu', .* has 'gelu_new' with mlp_gated"),
        ("t5", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings is False"),
        ("t5", {"lm_head_bias": True}, "lm_head_bias is True"),
    ],
)  # fmt: skip
def test_export_refuses_by_name(preset, fields, reason):
    with pytest.raises(ScratchError, match=reason):
        export_native(tiny_seq2seq(preset, **fields))


def test_language_codes_of_mbart_stay_in_the_generation_config():
    native = native_with("mbart")
    native.generation_config.forced_bos_token_id, native.generation_config.decoder_start_token_id = 17, 2
    ours, inputs = import_native(native), batch()
    del inputs["decoder_input_ids"]
    how = {"max_new_tokens": 6, "num_beams": 3}
    expected = native.generate(**inputs, **how)
    assert expected[:, :2].tolist() == [[2, 17]] * 3
    assert torch.equal(ours.generate(**inputs, **how), expected)
    assert export_native(ours).generation_config.forced_bos_token_id == 17


def test_exported_t5_v1_1_says_in_its_config_that_the_head_is_not_tied(tmp_path):
    """Releases before 5 read `tie_word_embeddings`, those of 5.0 to 5.3 `scale_decoder_outputs`."""
    export_native(import_native(native_with("t5_v1.1"))).save_pretrained(tmp_path)
    config = T5Config.from_pretrained(tmp_path)
    assert config.scale_decoder_outputs is False
    text = (tmp_path / "config.json").read_text()
    assert '"tie_word_embeddings": false' in text
    assert '"scale_decoder_outputs": false' in text


def test_bias_of_t5_is_shared_by_the_layers_of_a_stack():
    """A change of the one table of a stack reaches the logits through all its layers."""
    ours = import_native(native_with("t5"))
    tables = [name for name, _ in ours.named_parameters() if "relative_bias" in name]
    assert tables == ["model.encoder.relative_bias.weight", "model.decoder.relative_bias.weight"]
    source, deep = (
        torch.randint(3, 99, (1, 9)),
        T5ForConditionalGeneration(T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=5, num_heads=4)),
    )
    native = randomise(deep, seed=1).eval()
    inputs = {"input_ids": source, "decoder_input_ids": source}
    torch.testing.assert_close(logits(import_native(native), **inputs), logits(native, **inputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_imported(name, tmp_path):
    """The whole config is accepted, and a model of its width and heads with one layer on each side has the
    native logits."""
    if "flan" in name and RELEASE < (5, 4):
        pytest.skip("these releases take the head of T5 v1.1 for a tied one, unless its config was saved by them")
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    config = AutoConfig.from_pretrained(tmp_path)
    model_class = getattr(
        transformers, PUBLISHED[name]["architectures"][0].replace("BartModel", "BartForConditionalGeneration")
    )
    twin = next(twin for twin in TWINS if twin.model_class is model_class)
    assert twin.import_incompatibilities(config) == []
    ours = twin.config_from_native(config)
    assert ours.encoder_layers == config.num_hidden_layers
    assert ours.position_type == {"bart": "learned", "mbart": "learned", "pegasus": "sinusoidal"}.get(
        config.model_type, "relative"
    )
    assert ours.tie_word_embeddings == PUBLISHED[name].get("tie_word_embeddings", True)
    assert twin.export_incompatibilities(ours) == []

    one = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
    one |= {"max_position_embeddings": 64}  # of thousands, Pegasus computes its sinusoids for seconds
    one = {"num_layers": 1, "num_decoder_layers": 1} if "t5" in name else one
    native = model_class(type(config)(**{**PUBLISHED[name], "vocab_size": 200, **one}))
    if not ours.tie_word_embeddings:
        untie_head(native)
    fixed = {n: w.clone() for n, w in native.state_dict().items() if "pegasus" in name and "embed_positions" in n}
    lift_norms(randomise(native, std=0.05))
    native.load_state_dict(fixed, strict=False)
    inputs = {n: torch.randint(3, 200, (2, 40)) for n in ("input_ids", "decoder_input_ids")}
    expected = logits(native, **inputs)
    assert expected.std() > 0.03
    imported = import_native(native)
    for model in (imported, export_native(imported)):
        torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-4, rtol=0)
