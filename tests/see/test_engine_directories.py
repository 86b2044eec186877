"""Model directories, as training writes them, in a page's engine: text in, text out."""

import pytest
import torch
from helpers.models import lift_norms, randomise, tiny_config, tiny_encoder, tiny_seq2seq
from helpers.page_engine import close, needs_node, run_engine

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.data.corpora.german_english import pairs as german_english
from scratch_gpt.evaluation.translation import translate
from scratch_gpt.hub.model_directory import TARGET_TOKENIZER
from scratch_gpt.models.modeling_scratch_encoder import ScratchEncoderForMaskedLM
from scratch_gpt.see.payload import model_payload

pytestmark = needs_node


def test_language_model(tmp_path, story_tokenizer):
    config = tiny_config("llama", vocab_size=len(story_tokenizer), eos_token_id=story_tokenizer.eos_token_id)
    model = lift_norms(randomise(ScratchGPTForCausalLM(config)))
    model.save_pretrained(tmp_path)
    story_tokenizer.save_pretrained(tmp_path)
    text = "One day, Anna found zwei Körbe \U0001f9fa."
    ids = story_tokenizer(text).input_ids
    calls = [{"method": "encode", "text": text}, {"method": "generate", "ids": ids, "count": 30}]
    calls += [{"method": "logits", "ids": [ids]}]
    payload = model_payload(tmp_path, "float32")
    encoded, generated, logits = run_engine(payload, calls)
    assert encoded == ids
    with torch.no_grad():
        close(logits, model(torch.tensor([ids])).logits[0, -1])
        expected = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids) :]
    assert generated == expected.tolist()
    (decoded,) = run_engine(payload, [{"method": "decode", "ids": generated}])
    assert decoded == story_tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_translator(tmp_path, shared):
    """Greedy and beam-search translations of a model whose target may have a tokenizer of its own."""
    pairs = list(german_english(seed=0, count=60))
    sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    tokenizer = train_tokenizer(sources + targets, "unigram", 150, model_max_length=64)
    target = tokenizer if shared else train_tokenizer(targets, "bpe", 300, model_max_length=64)
    fields = {"vocab_size": len(tokenizer), "decoder_vocab_size": len(target), "target_tokenizer": not shared}
    ids_of = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = tiny_seq2seq("modern", share_encoder_decoder_embeddings=shared, **fields, **ids_of)
    model.generation_config.update(
        num_beams=4, early_stopping=True, decoder_start_token_id=tokenizer.pad_token_id, **ids_of
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if not shared:
        target.save_pretrained(tmp_path / TARGET_TOKENIZER)
    payload = model_payload(tmp_path, "float32")
    texts = sources[:3]
    encoded = run_engine(payload, [{"method": "encode", "text": text} for text in texts])
    assert encoded == tokenizer(texts).input_ids
    for num_beams in (1, 4):
        call = {"method": "generate", "count": 20, "options": {"numBeams": num_beams}}
        generated = run_engine(payload, [{**call, "ids": ids} for ids in encoded])
        decoded = run_engine(payload, [{"method": "decode", "ids": ids} for ids in generated])
        expected = translate(
            model, tokenizer, texts, target, 1, max_new_tokens=20, max_length=None, num_beams=num_beams
        )
        assert [text.strip() for text in decoded] == expected


def test_masked_language_model(tmp_path):
    tokenizer = train_tokenizer(["the cat sat on the mat"], "word", 60, model_max_length=64)
    model = tiny_encoder(
        ScratchEncoderForMaskedLM, "bert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("the cat on the mat").input_ids
    payload = model_payload(tmp_path, "float32")
    encoded, trace = run_engine(
        payload, [{"method": "encode", "text": "the cat on the mat"}, {"method": "forward", "ids": ids}]
    )
    assert encoded == ids
    with torch.no_grad():
        close(trace["logits"], model(torch.tensor([ids])).logits[0])
