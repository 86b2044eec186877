"""The encoder: masks, heads, losses, tied embeddings, n-grams, and equivalence with transformers' BERT."""

import numpy as np
import pytest
import torch
from helpers.models import lift_norms, randomise, tiny_encoder
from huggingface_hub.errors import StrictDataclassError
from sklearn.naive_bayes import MultinomialNB
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
    export_native,
    import_native,
)
from scratch_gpt.data.batching.encoding import LabelledTokens
from scratch_gpt.data.batching.token_lists import Tokens
from scratch_gpt.errors import ScratchError
from scratch_gpt.models.compatibility import RELEASE
from scratch_gpt.train.tasks.classification.token_weights import count_token_weights

HEADS = (ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification)
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 2}
STYLES = [
    ("bert", {"type_vocab_size": 2}),
    ("modern", {}),
    ("roberta", {}),
    ("distilbert", {}),
    ("modernbert", WINDOWED),
    ("modernbert", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 3, "no_rope_layers": [1, 0]}),
    ("bert", {"classifier_pooling": "mean", "pooler": False}),
    ("modern", {"position_type": "sinusoidal", "classifier_pooling": "cls", "masked_lm_transform": True}),
    ("fasttext", {"num_hidden_layers": 0, "ngram_sizes": [2, 4], "ngram_buckets": 64}),
]


def texts(rows: int = 3, length: int = 14, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 99, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts of 9, 5 and 2 tokens, padded on the right with random tokens."""
    ids = texts(seed=1)
    return ids, (torch.arange(14) < torch.tensor([[9], [5], [2]])).long()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("preset", "more"), STYLES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_padded_row_equals_the_row_alone(head, preset, more, attention):
    model = tiny_encoder(head, preset, attn_implementation=attention, **more)
    ids, mask = padded()
    logits = model(ids, attention_mask=mask).logits
    other = torch.where(mask == 1, ids, (ids + 7) % 99)
    changed = model(other, attention_mask=mask).logits
    left = torch.stack([row.roll(int((real == 0).sum())) for row, real in zip(ids, mask, strict=True)])
    left_logits = model(left, attention_mask=mask.flip(1)).logits
    for row, real in enumerate((9, 5, 2)):
        alone = model(ids[row : row + 1, :real]).logits[0]
        tokens = head is ScratchEncoderForMaskedLM
        here = logits[row, :real] if tokens else logits[row]
        torch.testing.assert_close(here, alone, atol=2e-5, rtol=1e-4)
        assert torch.equal(changed[row, :real] if tokens else changed[row], here)
        shifted = left_logits[row, 14 - real :] if tokens else left_logits[row]
        torch.testing.assert_close(shifted, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", ["bert", "modern"])
def test_every_token_attends_to_every_other(preset):
    model = tiny_encoder(ScratchEncoderForMaskedLM, preset)
    ids = texts()
    logits = model(ids).logits
    for position in (0, 13):
        touched = ids.clone()
        touched[:, position] = (touched[:, position] + 1) % 99
        moved = (model(touched).logits - logits).abs().amax((0, 2))
        assert (moved > 1e-4).all()  # of the tokens before and after it


def test_masked_lm_loss_scores_masked_positions_only():
    model = tiny_encoder(ScratchEncoderForMaskedLM, "bert")
    ids, mask = padded()
    truth = (ids + 5) % 99
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[0, [2, 7]] = chosen[1, 4] = True
    labels = torch.where(chosen, truth, -100)
    outputs = model(ids, attention_mask=mask, labels=labels)
    expected = F.cross_entropy(outputs.logits[chosen], truth[chosen])
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    # The loss without logits is the same; the label of a masked position changes it.
    model.zero_grad()
    other = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=3, skip_logits=True)
    assert other.logits is None
    torch.testing.assert_close(other.loss, outputs.loss)
    other.loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4, msg=name)
    labels[0, 2] = (labels[0, 2] + 1) % 99
    assert model(ids, attention_mask=mask, labels=labels).loss != outputs.loss
    assert model(ids, attention_mask=mask, labels=torch.full_like(ids, -100)).loss == 0


@pytest.mark.parametrize(("preset", "more"), STYLES)
def test_heads_are_saved_and_loaded_with_the_same_trunk(preset, more, tmp_path):
    masked = tiny_encoder(ScratchEncoderForMaskedLM, preset, **more)
    for buffer in masked.model.token_weights.buffers() if masked.config.token_weights else ():
        buffer.uniform_()  # token weights are saved with the model
    masked.save_pretrained(tmp_path)
    ids, mask = padded()
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(ids, attention_mask=mask).logits, masked(ids, attention_mask=mask).logits)
    trunk = AutoModel.from_pretrained(tmp_path).eval()
    assert type(trunk) is ScratchEncoderModel
    hidden = masked.model(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(trunk(ids, attention_mask=mask).last_hidden_state, hidden)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(classifier.model(ids, attention_mask=mask).last_hidden_state, hidden)
    outputs = masked(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    if masked.config.num_hidden_layers:
        assert len(outputs.hidden_states) == masked.config.num_hidden_layers + 1


BAG = {"num_hidden_layers": 0, "ngram_sizes": [2, 3]}


def bucket_of(ngram: tuple[int, ...], buckets: int) -> int:
    """The bucket of an n-gram: a polynomial of its token ids."""
    return sum(token * 16_777_619**power for power, token in enumerate(reversed(ngram))) % buckets


def ngrams_of(text: list[int], size: int) -> set[tuple[int, ...]]:
    """The distinct n-grams of a text."""
    return {tuple(text[start : start + size]) for start in range(len(text) - size + 1)}


def test_bag_is_the_weighted_sum_of_distinct_tokens_and_ngrams():
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "fasttext", ngram_buckets=4096, **BAG)
    trunk, generator = model.model, torch.Generator().manual_seed(1)
    trunk.token_weights.tokens.copy_(torch.rand(99, generator=generator))
    trunk.token_weights.ngrams.copy_(torch.rand(2, 4096, generator=generator))
    ignored = 7
    trunk.token_weights.tokens[[0, ignored]] = 0  # padding, and one more
    text = [5, 9, 12, ignored, 9, 12, 5, 9, 12]
    total = sum(trunk.token_weights.tokens[token] * trunk.embed_tokens.weight[token] for token in set(text))
    for weights, table, size in zip(trunk.token_weights.ngrams, trunk.embed_ngrams, (2, 3), strict=True):
        for ngram in ngrams_of(text, size):
            if ignored not in ngram:
                bucket = bucket_of(ngram, 4096)
                total = total + weights[bucket] * table.embedding.weight[bucket]
    expected = model.classifier(total / 9**0.5)
    torch.testing.assert_close(model(torch.tensor([text])).logits[0], expected)
    trunk.config.boundary_token_id, trunk.config.eos_token_id = 12, [1, 5]
    edges = [12 if token == 5 else token for token in text]  # the boundary token replaces others in n-grams only
    extra = model(torch.tensor([edges])).logits[0] - model(torch.tensor([text])).logits[0]
    own = trunk.token_weights.tokens[5] * trunk.embed_tokens.weight[5]
    torch.testing.assert_close(extra, -(model.classifier.weight @ own) / 9**0.5)
    trunk.config.boundary_token_id = None
    hidden, shown = [0, 9], [1] * len(text)  # masked tokens are not counted as first occurrences
    for padded, mask in (([*text, *hidden], [*shown, 0, 0]), ([*hidden, *text], [0, 0, *shown])):
        outputs = model(torch.tensor([padded]), attention_mask=torch.tensor([mask]))
        torch.testing.assert_close(outputs.logits[0], expected)


def test_bag_is_exported_for_texts_of_any_length():
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "fasttext", ngram_buckets=64, **BAG).eval()
    model.model.token_weights.ngrams.uniform_()
    dynamic = {"input_ids": {1: torch.export.Dim("length", min=2, max=64)}}
    program = torch.export.export(model, (), {"input_ids": torch.tensor([[5, 9, 12, 5, 9]])}, dynamic_shapes=dynamic)
    for length in (2, 3, 30):
        ids = torch.randint(1, 99, (1, length), generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(program.module()(input_ids=ids).logits, model(ids).logits)


def test_token_weights_equal_those_of_naive_bayes():
    texts = [[3, 4, 4, 5, 9], [3, 6], [5, 5, 4], [6, 3, 7], [7, 6, 4, 9], [8, 3], [9, 3, 10]]
    labels = np.array([0, 0, 0, 1, 1, 3, 3])  # none has label 2
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "fasttext", ngram_buckets=1024, **BAG)
    model.config.bos_token_id, model.config.boundary_token_id = 9, 4
    weights, ignored = model.model.token_weights, [0, 8]
    count_token_weights(model.model, LabelledTokens(Tokens.of(texts), labels, 0), ignored)

    def spread(features: list[list[int]], size: int) -> torch.Tensor:
        table = np.zeros((len(texts), size))
        for row, found in enumerate(features):
            table[row, found] = 1
        log_probabilities = MultinomialNB(alpha=1.0).fit(table, labels).feature_log_prob_
        return torch.tensor(np.ptp(log_probabilities, axis=0) * (table.sum(0) > 0), dtype=torch.float32)

    plain = [[token for token in text if token not in ignored] for text in texts]
    torch.testing.assert_close(weights.tokens, spread(plain, 99))
    texts = [[4 if token == 9 else token for token in text] for text in texts]
    for size, found in ((2, weights.ngrams[0]), (3, weights.ngrams[1])):
        buckets = [[bucket_of(n, 1024) for n in ngrams_of(text, size) if not set(n) & set(ignored)] for text in texts]
        torch.testing.assert_close(found, spread(buckets, 1024))
    assert weights.tokens[5] > weights.tokens[4] > 0

    # A token that is equally frequent with every label has a small weight, but not 0, which would exclude its n-grams.
    even = LabelledTokens(Tokens.of([[3, 4], [3, 5]]), np.array([0, 1]), 0)
    count_token_weights(model.model, even, ignored)
    assert 0 < weights.tokens[3] < 1e-5 < weights.tokens[4]


def test_invalid_inputs_are_refused():
    model = tiny_encoder(ScratchEncoderModel, "bert")
    ids = texts()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="learned positions for 64"):
        model(texts(length=65))
    model(ids, token_type_ids=torch.zeros_like(ids))
    with pytest.raises(ValueError, match="token_type_ids are not all 0"):
        model(ids, token_type_ids=torch.ones_like(ids))
    bag = tiny_encoder(ScratchEncoderModel, "fasttext", num_hidden_layers=0, ngram_buckets=64)
    with pytest.raises(ValueError, match="n-gram embeddings or token weights and needs input_ids"):
        bag(inputs_embeds=bag.embed_tokens(ids))
    with pytest.raises(ValueError, match="computed for this vocabulary"):
        bag.resize_token_embeddings(120)
    with pytest.raises(StrictDataclassError, match=r"num_hidden_layers is -1, want 0 or more"):
        tiny_encoder(ScratchEncoderModel, "modern", num_hidden_layers=-1)
    with pytest.raises(StrictDataclassError, match=r"classifier_dropout is 1.0"):
        tiny_encoder(ScratchEncoderModel, "modern", classifier_dropout=1.0)
    with pytest.raises(StrictDataclassError, match=r"ngram_sizes are \[2, 9\], want different ones from 2 to 8"):
        tiny_encoder(ScratchEncoderModel, "fasttext", ngram_sizes=[2, 9])
    with pytest.raises(StrictDataclassError, match=r"boundary_token_id is 99, want a token from 0 to 98"):
        tiny_encoder(ScratchEncoderModel, "fasttext", num_hidden_layers=0, boundary_token_id=99)
    with pytest.raises(StrictDataclassError, match=r"ngram_sizes are \[2\], but ngram_buckets is 0"):
        tiny_encoder(ScratchEncoderModel, "modern", ngram_sizes=[2])


SHAPE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"max_position_embeddings": 64, "intermediate_size": 48}
NATIVES = {
    "masked": lambda: BertForMaskedLM(BertConfig(**SHAPE)),
    "masked-untied-relu": lambda: BertForMaskedLM(BertConfig(**SHAPE, tie_word_embeddings=False, hidden_act="relu")),
    "classifier": lambda: BertForSequenceClassification(
        BertConfig(**SHAPE, id2label={0: "bad", 1: "good", 2: "fair"}, classifier_dropout=0.3)
    ),
}


@pytest.mark.parametrize("name", NATIVES)
def test_bert_has_the_same_logits_after_import_and_export(name, tmp_path):
    native = lift_norms(randomise(NATIVES[name]()))
    native.tie_weights()
    ours = import_native(native)
    out = export_native(ours)
    assert type(out) is type(native)
    ids, mask = padded()
    expected = native(ids, attention_mask=mask).logits
    found = ours(ids, attention_mask=mask).logits
    if name != "classifier":
        expected, found = expected[mask.bool()], found[mask.bool()]
    assert expected.std() > 0.05  # otherwise the comparison is meaningless
    assert (found - expected).abs().max() <= 1e-4
    out.save_pretrained(tmp_path)
    auto_class = AutoModelForSequenceClassification if name == "classifier" else AutoModelForMaskedLM
    again = auto_class.from_pretrained(tmp_path).eval()
    assert again.__class__.__module__.startswith("transformers.")
    back = again(ids, attention_mask=mask).logits
    assert (back if name == "classifier" else back[mask.bool()]).sub(expected).abs().max() <= 1e-4
    assert again.config.id2label == ours.config.id2label == native.config.id2label


@pytest.mark.parametrize(
    ("head", "preset", "fields", "reason"),
    [
        (ScratchEncoderForMaskedLM, "modern", {}, "norm_type is 'rms_norm'"),
        (ScratchEncoderForMaskedLM, "bert", {"masked_lm_transform": False}, "masked_lm_transform is False"),
        (
            ScratchEncoderForSequenceClassification,
            "bert",
            {"classifier_pooling": "mean"},
            "classifier_pooling is 'mean'",
        ),
        (ScratchEncoderForSequenceClassification, "bert", {"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        (
            ScratchEncoderForSequenceClassification,
            "bert",
            {"ngram_sizes": [2], "ngram_buckets": 64},
            "ngram_buckets is 64",
        ),
    ],
)
def test_export_of_what_no_class_supports_is_refused(head, preset, fields, reason):
    with pytest.raises(ScratchError, match=reason):
        export_native(tiny_encoder(head, preset, **fields))


def test_fields_of_another_head_do_not_prevent_export():
    export_native(tiny_encoder(ScratchEncoderForMaskedLM, "bert", classifier_pooling="mean", pooler=False))
    export_native(tiny_encoder(ScratchEncoderForSequenceClassification, "bert", masked_lm_transform=False))
    with pytest.raises(ScratchError, match="is_decoder is True"):
        import_native(BertForMaskedLM(BertConfig(**SHAPE, is_decoder=True)))


@pytest.mark.skipif((5, 2) <= RELEASE < (5, 5), reason="Trainer of these releases divides an accumulated loss twice")
@pytest.mark.parametrize("head", HEADS)
def test_transformers_trainer_trains_it_unchanged(head, tmp_path):
    ids = texts(rows=16, length=10)
    labels = ids if head is ScratchEncoderForMaskedLM else ids[:, 0] % 3
    rows = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    weights = []
    for size, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        model = head(tiny_encoder(head, "modern", embedding_dropout=0.0, residual_dropout=0.0).config)
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            learning_rate=0.1,
            optim="sgd",  # Adam divides by gradients, and with them by their rounding
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=rows).train()
        weights.append(model.model.layers[0].mlp.up_proj.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-3)
