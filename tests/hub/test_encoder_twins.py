"""Encoders of transformers and ours: equal outputs with the same weights in both directions, for every family, head and
setting; also after training."""

import pytest
import torch
from helpers.models import tiny_encoder
from helpers.native_encoders import FAMILIES, HEADS, largest_difference, native_encoder, outputs_of, rows_of
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
    export_native,
    import_native,
)
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model
from scratch_gpt.hub.native.importing import import_to_folder, import_to_memory, plan_import
from scratch_gpt.models.compatibility import RELEASE

AUTO_CLASSES = {
    "trunk": AutoModel,
    "masked_lm": AutoModelForMaskedLM,
    "classifier": AutoModelForSequenceClassification,
}
TOLERANCE = 1e-4
LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good", 3: "fine"}}
LABELS |= {"label2id": {name: number for number, name in LABELS["id2label"].items()}}


def rope(full: dict, sliding: dict) -> dict:
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


DEFAULT = {"rope_type": "default", "rope_theta": 300.0}
YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 16}
# Settings by family; each is tried with all heads, or with those named.
ALL = tuple(HEADS)
SETTINGS = {
    "Bert": [
        ({"layer_norm_eps": 0.3, "hidden_act": "relu"}, ALL),
        ({"type_vocab_size": 1, "max_position_embeddings": 30}, ALL),
        ({"type_vocab_size": 5, "pad_token_id": 5}, ALL),
        ({"tie_word_embeddings": False}, ("masked_lm",)),
        ({**LABELS, "classifier_dropout": 0.3, "problem_type": "multi_label_classification"}, ("classifier",)),
    ],
    "Roberta": [
        ({"layer_norm_eps": 0.3, "type_vocab_size": 2}, ALL),
        ({"pad_token_id": 4, "max_position_embeddings": 30}, ALL),
        ({"tie_word_embeddings": False}, ("masked_lm",)),
        ({"hidden_act": "relu"}, ("trunk", "classifier")),
        (LABELS, ("classifier",)),
    ],
    "DistilBert": [
        ({"activation": "relu", "max_position_embeddings": 30}, ALL),
        ({"pad_token_id": 5}, ALL),
        ({"tie_word_embeddings": False}, ("masked_lm",)),
        ({**LABELS, "seq_classif_dropout": 0.4}, ("classifier",)),
    ],
    "ModernBert": [
        ({"norm_bias": True, "norm_eps": 0.3}, ALL),
        ({"attention_bias": True, "mlp_bias": True, "classifier_bias": True}, ALL),
        ({"local_attention": 3}, ALL),
        ({"local_attention": 14, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}, ALL),
        ({"layer_types": ["full_attention"] * 3}, ALL),
        ({"hidden_activation": "silu", "classifier_activation": "silu"}, ALL),
        ({"hidden_activation": "gelu_pytorch_tanh", "classifier_activation": "gelu_new"}, ALL),
        (rope(DEFAULT, YARN), ALL),
        (rope(YARN, {**DEFAULT, "rope_theta": 20.0}), ALL),
        ({"decoder_bias": False, "tie_word_embeddings": False}, ("masked_lm",)),
        ({"classifier_pooling": "mean", "classifier_activation": "relu", **LABELS}, ("classifier",)),
        ({"embedding_dropout": 0.1, "attention_dropout": 0.2, "classifier_dropout": 0.3}, ("classifier",)),
    ],
}
CASES = [pytest.param(family, head, {}, id=f"{family}-{head}") for family in FAMILIES for head in HEADS]
CASES += [
    pytest.param(family, head, fields, id=f"{family}-{head}-{i}")
    for family, settings in SETTINGS.items()
    for i, (fields, heads) in enumerate(settings)
    for head in heads
]


@pytest.mark.parametrize(("family", "head", "fields"), CASES)
def test_outputs_are_equal_after_import_and_export(family, head, fields, tmp_path):
    if RELEASE < (5, 1) and fields.keys() & {"layer_types", "rope_parameters"}:
        pytest.skip("ModernBERT of 5.0 ignores layer_types for its windows, and rejects yarn for one layer type")
    native = native_encoder(family, head, **fields)
    rows = rows_of(native.config)
    expected = outputs_of(native, rows)
    assert all(value.std() > 0.05 for row in expected for value in row.values())  # the comparison is meaningful
    ours = import_native(native)
    assert [list(row) for row in outputs_of(ours, rows)] == [list(row) for row in expected]
    for left in (None, False, True):  # each row alone, padded on the right, and on the left
        assert largest_difference(outputs_of(ours, rows, left), expected) <= TOLERANCE
    export_native(ours).save_pretrained(tmp_path)
    out = AUTO_CLASSES[head].from_pretrained(tmp_path).eval()
    assert type(out) is type(native)
    for left in (None, False):
        assert largest_difference(outputs_of(out, rows, left), expected) <= TOLERANCE
    for name in fields:
        assert getattr(out.config, name) == getattr(native.config, name), name
    assert {name: tuple(w.shape) for name, w in out.state_dict().items()} == {
        name: tuple(w.shape) for name, w in native.state_dict().items()
    }


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "ModernBert"])
def test_an_encoder_is_imported_from_files(family, head, tmp_path):
    """Files have one copy of tied weights, and the layers are converted one by one."""
    native = native_encoder(family, head)
    native.save_pretrained(tmp_path / "native")
    rows = rows_of(native.config)
    expected = outputs_of(native, rows)
    plan = plan_import(tmp_path / "native")
    (tmp_path / "ours").mkdir()
    assert import_to_folder(plan, tmp_path / "ours").ignored == []
    for ours in (import_to_memory(plan), load_model(tmp_path / "ours")):
        assert largest_difference(outputs_of(ours.eval(), rows), expected) <= TOLERANCE
    classifier = import_to_memory(plan_import(tmp_path / "native", "classifier"))
    trunk = getattr(ours, "model", ours)
    for name, weight in trunk.state_dict().items():
        assert torch.equal(classifier.model.state_dict()[name], weight), name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "ModernBert"])
def test_a_model_trained_after_import_is_exported(family, head):
    native = native_encoder(family, head)
    rows = rows_of(native.config)
    before, ours = outputs_of(native, rows), import_native(native)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
    for _ in range(10):
        outputs = ours(rows[0][None])
        target = outputs.logits if head != "trunk" else outputs.get("pooler_output", outputs.last_hidden_state)
        loss = (target - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = outputs_of(ours, rows)
    assert largest_difference(trained, before) > 0.1
    out = export_native(ours)
    assert type(out) is type(native)
    assert largest_difference(outputs_of(out, rows), trained) <= TOLERANCE


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("preset", "class_name"),
    [("bert", "Bert"), ("roberta", "Bert"), ("distilbert", "DistilBert"), ("modernbert", "ModernBert")],
)
def test_a_new_model_is_exported(preset, class_name, head, tmp_path):
    """A model that was not imported goes to the first class that computes the same: BERT's for a RoBERTa, and for a
    DistilBERT without its pooler."""
    classes = (ScratchEncoderModel, ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification)
    ours_class = dict(zip(HEADS, classes, strict=True))[head]
    fields = {"pooler": False} if head == "trunk" and preset in ("distilbert", "modernbert") else {}
    ours = tiny_encoder(ours_class, preset, num_hidden_layers=3, **fields)
    if preset == "modernbert":
        ours = tiny_encoder(ours_class, preset, num_hidden_layers=3, sliding_window=3, **fields)
    out = export_native(ours)
    expected = "Bert" if (preset, head) == ("distilbert", "masked_lm") else class_name
    assert type(out).__name__ == expected + HEADS[head]
    rows = rows_of(ours.config)
    mine = outputs_of(ours, rows)
    assert largest_difference(outputs_of(out, rows), mine) <= TOLERANCE
    out.save_pretrained(tmp_path)
    again = import_native(AUTO_CLASSES[head].from_pretrained(tmp_path))
    assert largest_difference(outputs_of(again, rows), mine) <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "head", "fields", "reason"),
    [
        ("Bert", "trunk", {"is_decoder": True}, "is_decoder is True, ours is always False"),
        ("Bert", "masked_lm", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("Bert", "classifier", {"hidden_act": "mish"}, "activation is 'mish'"),
        ("Roberta", "masked_lm", {"is_decoder": True}, "is_decoder is True"),
        ("Roberta", "masked_lm", {"hidden_act": "relu"}, "hidden_act is 'relu', the head of RobertaForMaskedLM has"),
        ("Roberta", "trunk", {"max_position_embeddings": 2}, "max_position_embeddings is 2, RobertaModel wants more"),
        ("DistilBert", "trunk", {"activation": "mish"}, "activation is 'mish'"),
        ("ModernBert", "masked_lm", {"classifier_activation": "relu"}, "classifier_activation is 'relu', ours is"),
        ("ModernBert", "classifier", {"classifier_activation": "mish"}, "classifier_activation is 'mish', ours are"),
    ],
)
def test_import_rejects_unsupported_settings(family, head, fields, reason):
    with pytest.raises(ScratchError, match=reason):
        import_native(native_encoder(family, head, **fields))


def test_import_rejects_roberta_without_a_padding_token():
    native = native_encoder("Roberta", "trunk")
    native.config.pad_token_id = None
    with pytest.raises(ScratchError, match="pad_token_id is None, but positions of RobertaModel count from it"):
        import_native(native)


@pytest.mark.parametrize(
    ("model_class", "preset", "fields", "reason"),
    [
        (ScratchEncoderModel, "bert", {"pooler": False, "type_vocab_size": 2}, "pooler is False, BertModel has True"),
        (ScratchEncoderModel, "distilbert", {}, "pooler_activation is 'relu', BertModel has 'tanh'"),
        (ScratchEncoderModel, "modernbert", {}, "pooler is True, ModernBertModel has False"),
        (ScratchEncoderForMaskedLM, "bert", {"head_bias": False}, "head_bias is False"),
        (ScratchEncoderForSequenceClassification, "bert", {"pooler_norm": True}, "pooler_norm is True"),
        (ScratchEncoderForSequenceClassification, "distilbert", {"norm_eps": 1e-5}, "pooler_activation is 'relu'"),
        (ScratchEncoderForMaskedLM, "modernbert", {"first_attention_norm": True}, "first_attention_norm is True"),
        (ScratchEncoderForMaskedLM, "modernbert", {"norm_type": "rms_norm"}, "norm_type is 'rms_norm', ModernBertForM"),
        (ScratchEncoderForMaskedLM, "modernbert", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        (ScratchEncoderForMaskedLM, "modernbert", {"type_vocab_size": 2}, "type_vocab_size is 2"),
        (
            ScratchEncoderForSequenceClassification,
            "modernbert",
            {"classifier_pooling": "sum"},
            "classifier_pooling is 'sum', ModernBertForSequenceClassification has 'cls' or 'mean'",
        ),
    ],
)
def test_export_rejects_unsupported_settings(model_class, preset, fields, reason):
    with pytest.raises(ScratchError, match=reason):
        export_native(tiny_encoder(model_class, preset, **fields))


def test_flash_attention_gets_the_window_of_modernbert():
    """Its bound on each side is one less than its argument."""
    native = native_encoder("ModernBert", "trunk", local_attention=10)
    windows = [layer.self_attn.sliding_window for layer in import_native(native).layers]
    assert windows == [None, 6, 6]
    assert RELEASE < (5, 1) or windows == [layer.attn.sliding_window for layer in native.layers]


def test_releases_before_5_1_find_the_layers_of_modernbert():
    """They read other fields; the exports of all families were tried in 4.56 and 5.0."""
    native = native_encoder("ModernBert", "trunk", num_hidden_layers=5, global_attn_every_n_layers=2)
    ours = import_native(native)
    config = export_native(ours).config.to_dict()
    assert config["global_attn_every_n_layers"] == 2
    assert (config["global_rope_theta"], config["local_rope_theta"]) == (160000.0, 10000.0)
    ours.config.layer_types[1] = "full_attention"  # a pattern that they do not know
    ours.config.imported_from = None
    assert "global_attn_every_n_layers" not in export_native(ours).config.to_dict()


def test_unused_position_embeddings_of_roberta_are_zero_after_export():
    out = export_native(import_native(native_encoder("Roberta", "masked_lm", pad_token_id=3)))
    table = out.roberta.embeddings.position_embeddings.weight
    assert len(table) == 66
    assert (table[:4] == 0).all()
    assert (table[4:].abs().sum(-1) > 0).all()


def test_a_relu_in_roberta_is_exported_to_bert():
    """Where the class that the weights came from can't express a changed model, another one does."""
    ours = import_native(native_encoder("Roberta", "masked_lm"))
    ours.config.hidden_act = "relu"
    changed = type(ours)(ours.config)
    changed.load_state_dict(ours.state_dict())
    changed.eval()
    out = export_native(changed)
    assert type(out).__name__ == "BertForMaskedLM"
    rows = rows_of(ours.config)
    assert largest_difference(outputs_of(out, rows), outputs_of(changed, rows)) <= TOLERANCE
