"""Translation training of models that were imported from transformers' own BART, mBART and T5."""

import json

import pytest
import torch
from helpers.native import FAMILIES, native_with
from helpers.processes import run_here
from helpers.published import mbart_tokenizer
from helpers.translation import TRAIN, scratch_gpt
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MBart50Tokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.tables import ReadOptions
from scratch_gpt.hub.loading import load_model


@pytest.mark.parametrize("family", ["bart", pytest.param("mbart", marks=pytest.mark.slow), "t5_v1.1"])
def test_an_imported_model_is_trained_and_translates(family, tmp_path):
    pairs = open_pairs("grammar", "de", "en", ReadOptions(split="train"), num_pairs=400).read()
    texts = [text for pair in pairs for text in pair]
    tokenizer = train_tokenizer(texts, "bpe", 300, template="seq2seq")
    if family == "mbart":
        tokenizer = mbart_tokenizer(MBart50Tokenizer, " ".join(texts).split())
    native = native_with(family, vocab_size=len(tokenizer), **({"num_layers": 3} if "t5" in family else {}))
    beams = 1 if family == "bart" else 2  # the default, which generation_config.json does not have
    native.generation_config.update(max_new_tokens=12, decoder_start_token_id=0, num_beams=beams)
    native.save_pretrained(tmp_path / "native")
    tokenizer.save_pretrained(tmp_path / "native")
    result = scratch_gpt("import", "native", "ours", cwd=tmp_path)
    assert result.returncode == 0, result.stderr

    options = ("--num_pairs", "40", "--max_steps", "12", "--learning_rate", "1e-2", "--log_every", "1")
    options += ("--tokens_per_batch", "256", "--precision", "fp32", "--num_threads", "1")
    printed = run_here(TRAIN, "--init_from", "ours", "--output_dir", "tuned", *options, cwd=tmp_path).stdout
    assert ("1 beam " if beams == 1 else "2 beams") in printed
    lines = map(json.loads, (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines())
    losses = [line["train_loss"] for line in lines if "train_loss" in line]
    assert losses[-1] < losses[0] - 0.2
    tuned = load_model(str(tmp_path / "tuned"))
    code = tokenizer.convert_tokens_to_ids("en_XX") if family == "mbart" else None
    assert tuned.generation_config.forced_bos_token_id == code
    assert tuned.config.decoder_start_token_id == (tokenizer.eos_token_id if family == "mbart" else 0)
    for folder, languages in (("tuned", ()), ("ours", ("--source_lang", "de", "--target_lang", "en"))):
        translated = scratch_gpt("translate", folder, "Der Hund schläft.", *languages, cwd=tmp_path)
        assert translated.returncode == 0, translated.stderr
    opened = AutoTokenizer.from_pretrained(tmp_path / "tuned")
    assert getattr(opened, "src_lang", None) == ("de_DE" if family == "mbart" else None)

    result = scratch_gpt("export", "tuned", "exported", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    exported = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "exported").eval()
    assert type(exported) is FAMILIES[family][0]
    source = torch.randint(3, len(tokenizer), (2, 9))
    inputs = {"input_ids": source, "decoder_input_ids": source}
    with torch.no_grad():
        torch.testing.assert_close(exported(**inputs).logits, tuned.eval()(**inputs).logits, atol=1e-4, rtol=0)
