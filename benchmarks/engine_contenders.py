"""Contenders of `decoding_speed.py --engines`: our models exported to llama.cpp, CTranslate2 and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

import scratch_gpt as ours
from scratch_gpt.hub.engines import ctranslate2, gguf, onnx
from scratch_gpt.hub.engines.export import Source
from scratch_gpt.hub.engines.llama_cpp import LlamaCppServer, running_llama_cpp
from scratch_gpt.hub.engines.onnx_comparison import OnnxModel, past_of
from scratch_gpt.hub.loading import Tokenizers

VOCAB_SIZE = 8192
SOURCE_LENGTH, TARGET_LENGTH = 20, 64  # tokens of a translation
LAYERS = {"4x128": (4, 128, 4), "6x384": (6, 384, 6), "12x768": (12, 768, 12)}  # layers, width, heads
Action = Callable[[], None]


def tokenizer_for_engines() -> PreTrainedTokenizerFast:
    """A small tokenizer, which the formats require; the benchmark passes token ids."""
    return ours.train_tokenizer(["abcdefghijklmnopqrstuvwxyz ."] * 2, "char")


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Ids of the special tokens, for a config."""
    return {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


@contextmanager
def decoders(shape: str, new: int, folder: Path) -> Iterator[dict[str, Action]]:
    """Greedy decoding of one row of `new` tokens by a Llama of this shape: an action per contender.

    Args:
        shape: one of `LAYERS`.
        new: number of tokens to generate.
        folder: an empty folder for the exports.
    """
    layers, width, heads = LAYERS[shape]
    tokenizer = tokenizer_for_engines()
    fields = {"vocab_size": VOCAB_SIZE, "hidden_size": width, "num_hidden_layers": layers, **special_ids(tokenizer)}
    fields |= {"num_attention_heads": heads, "max_position_embeddings": 1024}
    torch.manual_seed(0)
    model: Any = ours.ScratchGPTForCausalLM(ours.ScratchGPTConfig.from_preset("llama", **fields)).eval()
    native = ours.export_native(model)
    source = Source("benchmark", model, Tokenizers(tokenizer, tokenizer))
    prompt = torch.randint(5, 60, (1, 16), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}

    def generate_with(chosen: Any) -> Action:
        def action() -> None:
            assert chosen.generate(prompt, attention_mask=torch.ones_like(prompt), **options).shape[1] == 16 + new

        return action

    def complete_with(server: LlamaCppServer) -> Action:
        def action() -> None:
            answer = server.post(
                "/completion", prompt=prompt[0].tolist(), n_predict=new, temperature=0, ignore_eos=True,
                cache_prompt=False, return_tokens=True,
            )  # fmt: skip
            assert len(answer["tokens"]) == new

        return action

    with ExitStack() as stack:
        actions = {"transformers": generate_with(native), "ours": generate_with(model)}
        for quantization in ("f32", "f16", "q8_0"):
            gguf.write(source, folder, quantization)
            path = folder / f"model-{quantization}.gguf"
            server = stack.enter_context(running_llama_cpp(path, 1024, exact=False))
            actions[f"llama.cpp {quantization}"] = complete_with(server)
        with torch.inference_mode():
            onnx.write(source, folder, "float32")
        actions["onnxruntime"] = onnx_decoder(OnnxModel(folder), prompt.numpy(), new)
        yield actions


def onnx_decoder(model: OnnxModel, prompt: np.ndarray, new: int) -> Action:
    """Greedy decoding by ONNX Runtime with the cache."""

    def action() -> None:
        past, step, mask = model.empty_past(1), prompt, np.ones_like(prompt)
        for _ in range(new):
            outputs = model.run("model", input_ids=step, attention_mask=mask, **past)
            step, past = outputs["logits"][:, -1:].argmax(-1), past_of(outputs)
            mask = np.concatenate((mask, mask[:, :1]), axis=1)

    return action


@contextmanager
def translators(rows: int, beams: int, folder: Path) -> Iterator[dict[str, Action]]:
    """Translation of sources of 20 tokens to 64 tokens by a Transformer of 3 + 3 layers of width 256: an action per
    contender. ONNX Runtime has no beam search here, so it takes part with one beam only.

    Args:
        rows: number of sources.
        beams: number of beams.
        folder: an empty folder for the exports.
    """
    tokenizer = tokenizer_for_engines()
    fields = {"vocab_size": VOCAB_SIZE, "hidden_size": 256, "encoder_layers": 3, "decoder_layers": 3}
    fields |= {"num_attention_heads": 4, **special_ids(tokenizer)}
    torch.manual_seed(0)
    config = ours.ScratchSeq2SeqConfig.from_preset("vaswani2017", **fields)
    model: Any = ours.ScratchSeq2SeqForConditionalGeneration(config).eval()
    source = Source("benchmark", model, Tokenizers(tokenizer, tokenizer))
    ids = torch.randint(5, 30, (rows, SOURCE_LENGTH), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "num_beams": beams, "eos_token_id": None, "max_length": TARGET_LENGTH + 1}

    def generate_with(chosen: Any) -> Action:
        def action() -> None:
            found = chosen.generate(ids, attention_mask=torch.ones_like(ids), early_stopping=beams > 1, **options)
            assert found.shape == (rows, TARGET_LENGTH + 1)

        return action

    actions = {"transformers": generate_with(ours.export_native(model)), "ours": generate_with(model)}
    for quantization in ("float32", "int8"):
        target = folder / quantization
        target.mkdir()
        ctranslate2.write(source, target, quantization)
        actions[f"CTranslate2 {quantization}"] = ctranslate2_translator(target, ids, beams)
    if beams == 1:
        with torch.inference_mode():
            onnx.write(source, folder, "float32")
        actions["onnxruntime"] = onnx_translator(OnnxModel(folder), ids.numpy(), model.config.decoder_start_token_id)
    yield actions


def ctranslate2_translator(folder: Path, ids: torch.Tensor, beams: int) -> Action:
    """Translation by CTranslate2 to a fixed length."""
    import ctranslate2

    threads = torch.get_num_threads()
    translator = ctranslate2.Translator(str(folder), device="cpu", intra_threads=threads)
    names = tokenizer_for_engines().convert_ids_to_tokens
    sources = [names(row) for row in ids.tolist()]
    lengths = {"max_decoding_length": TARGET_LENGTH, "min_decoding_length": TARGET_LENGTH}

    def action() -> None:
        found = translator.translate_batch(sources, beam_size=beams, **lengths)
        assert all(len(result.hypotheses[0]) == TARGET_LENGTH for result in found)

    return action


def onnx_translator(model: OnnxModel, ids: np.ndarray, start: int) -> Action:
    """Greedy translation by ONNX Runtime to a fixed length."""

    def action() -> None:
        state, step = model.start(ids, np.ones_like(ids)), np.full((len(ids), 1), start, np.int64)
        for _ in range(TARGET_LENGTH):
            logits, state = model.decode(step, state)
            step = logits[:, -1:].argmax(-1)

    return action
