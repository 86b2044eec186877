"""Import and export of each setting of a native twin, with a value that is neither its default nor ours: logits equal
those of transformers' own class, and its config is restored."""

import pytest
import torch
from helpers.native import FAMILIES, native_with

from scratch_gpt import export_native, import_native
from scratch_gpt.errors import ScratchError


def rope(rope_type: str, **more) -> dict:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 300.0, **more}}


ROPES = [
    rope("default"),
    rope("linear", factor=3.0),
    rope("dynamic", factor=3.0),
    rope("yarn", factor=4.0, original_max_position_embeddings=16),
    rope("yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=0.6, beta_fast=16.0, beta_slow=2.0),
    rope("longrope", factor=4.0, original_max_position_embeddings=16, short_factor=[1.0, 1.5, 2.0, 2.5],
         long_factor=[1.0, 3.0, 5.0, 7.0]),
    rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
]  # fmt: skip
SCALED_ROPES = [fields for fields in ROPES if fields["rope_parameters"]["rope_type"] in ("yarn", "longrope")]
# NanoChat normalises queries and keys after their rotation, which cancels any factor other than 1.
UNSCALED_ROPES = [fields for fields in ROPES if fields not in SCALED_ROPES]
UNSCALED_ROPES += [rope(**{**fields["rope_parameters"], "attention_factor": 1.0}) for fields in SCALED_ROPES]
# Settings that change the logits of the same weights; OTHER lists those that do not.
FORWARD = {
    "llama": [{"rms_norm_eps": 0.3}, {"hidden_act": "gelu"}, *ROPES],
    "nanochat": [{"rms_norm_eps": 0.3}, {"hidden_act": "silu"}, {"final_logit_softcapping": 0.5}, *UNSCALED_ROPES],
    "gpt2": [{"layer_norm_epsilon": 0.3}, {"activation_function": "relu"}],
    "marian": [{"activation_function": "relu"}, {"activation_function": "silu"}, {"scale_embedding": True}],
    "bart": [{"activation_function": "relu"}, {"activation_function": "silu"}, {"scale_embedding": True}],
    "mbart": [{"activation_function": "relu"}, {"scale_embedding": True}],
    "pegasus": [{"activation_function": "relu"}, {"scale_embedding": True}],
    "t5": [{"layer_norm_epsilon": 0.3}, {"feed_forward_proj": "gelu"}, {"relative_attention_max_distance": 30}],
    "t5_v1.1": [{"layer_norm_epsilon": 0.3}, {"feed_forward_proj": "gated-silu"}],
    "mt5": [{"layer_norm_epsilon": 0.3}, {"feed_forward_proj": "gated-relu"}, {"relative_attention_max_distance": 30}],
    "bert": [{"layer_norm_eps": 0.3}, {"hidden_act": "relu"}],
    "classifier": [{"layer_norm_eps": 0.3}, {"hidden_act": "relu"}],
}
LABELS = {
    "id2label": {0: "bad", 1: "fair", 2: "good", 3: "fine"},
    "label2id": {"bad": 0, "fair": 1, "good": 2, "fine": 3},
}
OTHER = {
    "llama": [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"num_key_value_heads": 2},
        {"head_dim": 12},
        {"tie_word_embeddings": True},
        {"intermediate_size": 48},
        {"max_position_embeddings": 40},
        {"attention_dropout": 0.3, "initializer_range": 0.5},
        {"pad_token_id": 5, "bos_token_id": 6, "eos_token_id": 7},
        {"eos_token_id": [7, 8]},
    ],
    "nanochat": [
        {"attention_bias": True},
        {"num_key_value_heads": 2},
        {"head_dim": 12},
        {"tie_word_embeddings": True},
        {"intermediate_size": 48},
        {"max_position_embeddings": 40},
        {"attention_dropout": 0.3, "initializer_range": 0.5},
        {"final_logit_softcapping": None},
        {"pad_token_id": 5, "bos_token_id": 6, "eos_token_id": 7},
    ],
    "gpt2": [
        {"tie_word_embeddings": False},
        {"n_inner": 48},
        {"max_position_embeddings": 40},
        {"embd_pdrop": 0.2, "attn_pdrop": 0.3, "resid_pdrop": 0.4, "initializer_range": 0.5},
        {"pad_token_id": 5, "bos_token_id": 6, "eos_token_id": 7},
    ],
    "marian": [
        {"encoder_layers": 1, "decoder_layers": 3},
        {"encoder_ffn_dim": 40, "decoder_ffn_dim": 40},
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 77},
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
        {"decoder_start_token_id": 4},
        {"dropout": 0.3, "attention_dropout": 0.2, "init_std": 0.5},
        {"pad_token_id": 5, "decoder_start_token_id": 5, "eos_token_id": 7},
    ],
    **{
        family: [
            {"encoder_layers": 1, "decoder_layers": 3},
            {"encoder_ffn_dim": 40, "decoder_ffn_dim": 40},
            {"tie_word_embeddings": False},
            {"max_position_embeddings": 40},
            {"decoder_start_token_id": 4},
            {"dropout": 0.3, "attention_dropout": 0.2, "init_std": 0.5, "activation_dropout": 0.1},
            {"pad_token_id": 5, "decoder_start_token_id": 5, "eos_token_id": 7, "forced_eos_token_id": 7},
        ]
        for family in ("bart", "mbart", "pegasus")
    },
    **{
        family: [
            {"num_layers": 1, "num_decoder_layers": 3},
            {"d_ff": 40},
            {"d_kv": 8},
            {"relative_attention_num_buckets": 16},
            {"n_positions": 300},
            {"decoder_start_token_id": 4},
            {"dropout_rate": 0.3, "initializer_factor": 0.5, "classifier_dropout": 0.2},
            {"pad_token_id": 5, "decoder_start_token_id": 5, "eos_token_id": 7},
        ]
        for family in ("t5", "t5_v1.1", "mt5")
    },
    "bert": [
        {"tie_word_embeddings": False},
        {"max_position_embeddings": 40},
        {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "initializer_range": 0.5},
        {"pad_token_id": 5},
    ],
    "classifier": [
        LABELS,
        {**LABELS, "problem_type": "multi_label_classification"},
        {"num_labels": 1, "problem_type": "regression"},
        {"classifier_dropout": 0.4, "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2},
        {"pad_token_id": 5, "initializer_range": 0.5},
    ],
}


SWEEP = [
    pytest.param(family, fields, changes, id=f"{family}-{'-'.join(map(str, fields))}-{i}")
    for table, changes in ((FORWARD, True), (OTHER, False))
    for family, cases in table.items()
    for i, fields in enumerate(cases)
]


def logits_of(model, length: int = 30) -> torch.Tensor:
    """Logits of two rows, of lengths within and beyond the original length of scaled rotary positions."""
    x = torch.randint(9, 70, (2, length), generator=torch.Generator().manual_seed(0))
    more = {"decoder_input_ids": x.flip(1)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(x, **more).logits


@pytest.mark.parametrize(("family", "fields", "changes"), SWEEP)
def test_a_setting_survives_import_and_export(family, fields, changes):
    native = native_with(family, **fields)
    if changes:
        plain = logits_of(native_with(family))
        assert (logits_of(native) - plain).abs().max() > 1e-2  # a lost field would be detected
    ours = import_native(native)
    out = export_native(ours)
    assert type(out) is type(native)
    for length in (12, 30):
        expected = logits_of(native, length)
        assert (logits_of(ours, length) - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item())
        assert (logits_of(out, length) - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max().item())
    for name in fields:
        assert getattr(out.config, name) == getattr(native.config, name), name


@pytest.mark.parametrize("fields", SCALED_ROPES, ids=lambda fields: fields["rope_parameters"]["rope_type"])
def test_nanochat_has_no_factor_on_cosines_and_sines(fields):
    """In both directions, the logits would silently differ by about 1."""
    with pytest.raises(ScratchError, match=r"attention_factor .*want 1"):
        import_native(native_with("nanochat", **fields))
    ours = import_native(native_with("nanochat"))
    ours.config.rope_parameters = fields["rope_parameters"]
    with pytest.raises(ScratchError, match=r"attention_factor .*want 1"):
        export_native(ours)


OURS = [
    (
        "llama",
        {"attention_dropout": 0.3, "initializer_range": 0.5},
        {"attention_dropout": 0.3, "initializer_range": 0.5},
    ),
    ("nanochat", {"attention_dropout": 0.3, "initializer_range": 0.5}, {"attention_dropout": 0.3}),
    (
        "gpt2",
        {"embd_pdrop": 0.2, "attn_pdrop": 0.3, "resid_pdrop": 0.4, "initializer_range": 0.5},
        {"embedding_dropout": 0.2, "attention_dropout": 0.3, "residual_dropout": 0.4, "initializer_range": 0.5},
    ),
    (
        "marian",
        {"dropout": 0.3, "attention_dropout": 0.2, "init_std": 0.5},
        {"embedding_dropout": 0.3, "residual_dropout": 0.3, "attention_dropout": 0.2, "initializer_range": 0.5},
    ),
    (
        "pegasus",
        {"dropout": 0.3, "attention_dropout": 0.2, "init_std": 0.5},
        {"embedding_dropout": 0.3, "residual_dropout": 0.3, "attention_dropout": 0.2, "initializer_range": 0.5},
    ),
    (
        "t5",
        {"dropout_rate": 0.3, "n_positions": 300},
        {
            **dict.fromkeys(("embedding_dropout", "residual_dropout", "attention_dropout"), 0.3),
            "max_position_embeddings": 300,
        },
    ),
    (
        "classifier",
        {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.4, **LABELS},
        {
            "embedding_dropout": 0.3,
            "residual_dropout": 0.3,
            "attention_dropout": 0.2,
            "classifier_dropout": 0.4,
            **LABELS,
        },
    ),
]


@pytest.mark.parametrize(("family", "theirs", "ours"), OURS)
def test_training_settings_are_imported(family, theirs, ours):
    config = import_native(native_with(family, **theirs)).config
    assert {name: getattr(config, name) for name in ours} == ours


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generation_settings_of_a_twin_are_copies(family):
    native = native_with(family)
    if not native.can_generate():
        pytest.skip("a classifier generates nothing")
    native.generation_config.max_new_tokens, native.generation_config.eos_token_id = 17, 9
    ours = import_native(native)
    assert (ours.generation_config.max_new_tokens, ours.generation_config.eos_token_id) == (17, 9)
    ours.generation_config.max_new_tokens = 3
    assert native.generation_config.max_new_tokens == 17
