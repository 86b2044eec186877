"""In a real Chromium, for every tokenizer, preset and family: the ids of Python, the logits and texts of torch. Node
computes the same in `test_engine.py` and `test_page_tokenizers.py`, with a Unicode version of its own.

All models are in one page, `window.models`, since a page takes longer to open than a tiny model to run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.browser import opened
from helpers.decoders import VARIANTS, native_decoder
from helpers.hostile_texts import hostile_texts
from helpers.models import lift_norms, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.native import SEQ2SEQ, native_with
from helpers.native_encoders import FAMILIES, native_encoder
from helpers.page_tokenizers import TOKENIZERS
from helpers.pages import Shown, rounded_to_float16, tokenizer_of

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification, import_native
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.models.configuration_scratch_encoder import PRESETS as ENCODERS
from scratch_gpt.models.configuration_scratch_gpt import PRESETS as DECODERS
from scratch_gpt.models.configuration_scratch_seq2seq import PRESETS as TRANSLATORS
from scratch_gpt.see.page import page_html, write_page
from scratch_gpt.see.payload import payload_of

pytestmark = pytest.mark.slow
NUM_TEXTS, NEW_TOKENS = 500, 64
TOLERANCE = {"float32": 1e-4, "float16": 1e-3}


def decoder(preset: str) -> Any:
    """A tiny decoder of a preset, with windows and experts as small as it is."""
    own = DECODERS[preset]
    fields = {"num_experts": 4, "num_experts_per_tok": 2} if own.get("num_experts") else {}
    fields |= {"sliding_window": 5} if own.get("sliding_window") else {}
    return lift_norms(tiny_model(preset, max_position_embeddings=96, **fields))


def classifier(preset: str) -> Any:
    """A tiny classifier of a preset of encoders."""
    fields = {"num_hidden_layers": 0, "ngram_buckets": 64} if preset == "fasttext" else {}
    return tiny_encoder(ScratchEncoderForSequenceClassification, preset, **fields)


MODELS: dict[str, Callable[[], Any]] = {
    **{f"preset {name}": lambda name=name: decoder(name) for name in DECODERS},
    **{f"preset {name}": lambda name=name: tiny_seq2seq(name, max_position_embeddings=96) for name in TRANSLATORS},
    **{f"classifier {name}": lambda name=name: classifier(name) for name in ENCODERS},
    **{
        f"masked {name}": lambda name=name: tiny_encoder(ScratchEncoderForMaskedLM, name)
        for name in ENCODERS
        if name != "fasttext"
    },
    **{
        f"{family} {variant}": lambda pair=(family, variant): import_native(
            native_decoder(*pair, max_position_embeddings=96)
        )
        for family, variants in VARIANTS.items()
        for variant in variants
    },
    **{family: lambda family=family: import_native(native_with(family)) for family in (*SEQ2SEQ, "marian")},
    **{
        f"{family} {head}": lambda pair=(family, head): import_native(native_encoder(*pair))
        for family in FAMILIES
        for head in ("masked_lm", "classifier")
    },
}


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: build() for kind, build in TOKENIZERS.items()}


@pytest.fixture(scope="module")
def models():
    found = {name: build() for name, build in MODELS.items()}
    for model in found.values():
        if model.can_generate():
            model.generation_config.eos_token_id = None
    return found


@pytest.fixture(scope="module")
def page(browser, tokenizers, models, tmp_path_factory):
    """A page of a tiny model with each tokenizer, and of each model with weights of each data type."""
    payloads = [payload_of(*with_tokenizer(each), kind) for kind, each in tokenizers.items()]
    characters = Tokenizers(tokenizer_of("char", "encoder"), tokenizer_of("char", "encoder"))
    payloads += [payload_of(model, characters, name, dtype) for name, model in models.items() for dtype in TOLERANCE]
    path = tmp_path_factory.mktemp("page") / "see.html"
    write_page(path, page_html(payloads, "a"))
    with opened(browser, path) as page:
        yield page
        assert page.problems == []


def with_tokenizer(tokenizer: Any) -> Shown:
    """The smallest model with a tokenizer, whose ids may have gaps."""
    size = {"vocab_size": len(tokenizer) + 50, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    return Shown(tiny_model("llama", **size), Tokenizers(tokenizer, tokenizer))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_those_of_python(kind, page, tokenizers):
    tokenizer = tokenizers[kind]
    names = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    texts = hostile_texts(NUM_TEXTS, seed=9, names=names[:40], letters="abdeghilmnorstuwy ")
    ids = [tokenizer(text)["input_ids"] for text in texts]
    model = f"window.models[{list(tokenizers).index(kind)}]"
    found = page.call(f"argument.map((text) => {model}.encode(text))", texts)
    wrong = [case for case in zip(texts, found, ids, strict=True) if case[1] != case[2]]
    assert not wrong, f"{len(wrong)} differ, first {wrong[0]}"
    expected = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert page.call(f"argument.map((ids) => {model}.decode(ids))", ids) == expected


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_text_are_those_of_torch(name, page, tokenizers, models):
    model = models[name]
    ids = torch.randint(6, 99, (1, 12), generator=torch.Generator().manual_seed(0))
    target = torch.randint(6, 99, (1, 7), generator=torch.Generator().manual_seed(1))
    has_target = model.config.is_encoder_decoder
    arguments = [ids[0].tolist(), *([target[0].tolist()] if has_target else [])]
    first = len(tokenizers) + len(TOLERANCE) * list(models).index(name)
    for index, (dtype, tolerance) in enumerate(TOLERANCE.items(), start=first):
        if dtype == "float16":
            rounded_to_float16(model)
        with torch.no_grad():
            logits = model(ids, **({"decoder_input_ids": target} if has_target else {})).logits[0]
        found = torch.tensor(page.call(f"[...window.models[{index}].logits(...argument)]", arguments))
        expected = logits if logits.ndim == 1 else logits[-1]
        assert expected.std() > 1e-3
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
        if model.can_generate():
            written = page.call(f"window.models[{index}].generate(argument, {NEW_TOKENS})", arguments[0])
            options = {"max_new_tokens": len(written), "do_sample": False, "num_beams": 1, "pad_token_id": 0}
            start = 1 if has_target else ids.shape[1]
            assert written == model.generate(ids, **options)[0, start:].tolist()
            assert len(written) == min(NEW_TOKENS, page.call(f"window.models[{index}].maxPositions") - start)
