"""A translation model with one tokenizer per language."""

import pytest
from helpers.models import tiny_seq2seq
from helpers.processes import run_here

from scratch_gpt import train_tokenizer
from scratch_gpt.hub.loading import open_tokenizers


@pytest.mark.parametrize("separate", [True, False])
def test_each_side_uses_its_own_tokenizer(separate, tmp_path):
    source, target = (train_tokenizer([text], "char", template="seq2seq") for text in ("abcdef", "uvwxyz"))
    model = tiny_seq2seq(
        "vaswani2017",
        vocab_size=len(source),
        decoder_vocab_size=len(target),
        share_encoder_decoder_embeddings=not separate,
        source_lang="de",
        target_lang="en",
        target_tokenizer=separate,
    )
    model.save_pretrained(tmp_path)
    source.save_pretrained(tmp_path)
    if separate:
        target.save_pretrained(tmp_path / "target_tokenizer")
    opened = open_tokenizers(str(tmp_path), model.config)
    assert opened.source.get_vocab() == source.get_vocab()
    assert opened.target.get_vocab() == (target if separate else source).get_vocab()
    written = run_here("scratch-gpt", "translate", str(tmp_path), "abc", "--num_beams", "1").stdout.strip()
    assert set(written) <= set("uvwxyz" if separate else "abcdef")
