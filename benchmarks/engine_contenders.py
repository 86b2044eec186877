"""Contenders of `decoding_speed.py --engines`: our models exported to llama.cpp, CTranslate2 and ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
CLASSIFIER_LAYERS = {"4x256": (4, 256, 4), "6x384": LAYERS["6x384"]}
SHORTEST, LONGEST = 8, 128  # tokens of a text to classify
Action = Callable[[], None]


def tokenizer_for_engines() -> PreTrainedTokenizerFast:
    """A small tokenizer, which the formats require; the benchmark passes token ids."""
    return ours.train_tokenizer(["abcdefghijklmnopqrstuvwxyz ."] * 2, "char")


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Ids of the special tokens, for a config."""
    return {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


@contextmanager
def decoders(shape: str, new: int, rows: int, folder: Path) -> Iterator[dict[str, Action]]:
    """Greedy decoding of `new` tokens per row by a Llama of this shape: an action per contender. llama.cpp gets as many
    requests at the same time, which it decodes in one batch.

    Args:
        shape: one of `LAYERS`.
        new: number of tokens to generate.
        rows: number of texts.
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
    prompt = torch.randint(5, 60, (rows, 16), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}

    def generate_with(chosen: Any) -> Action:
        def action() -> None:
            assert chosen.generate(prompt, attention_mask=torch.ones_like(prompt), **options).shape == (rows, 16 + new)

        return action

    def complete_with(server: LlamaCppServer) -> Action:
        def complete(row: list[int]) -> dict[str, Any]:
            return server.post(
                "/completion", prompt=row, n_predict=new, temperature=0, ignore_eos=True, cache_prompt=False,
                return_tokens=True,
            )  # fmt: skip

        def action() -> None:
            with ThreadPoolExecutor(rows) as pool:
                assert all(len(answer["tokens"]) == new for answer in pool.map(complete, prompt.tolist()))

        return action

    with ExitStack() as stack:
        actions = {"transformers": generate_with(native)}
        actions |= {name: generate_with(chosen) for name, chosen in compiled_and_not(model).items()}
        for quantization in ("f32", "f16", "q8_0"):
            gguf.write(source, folder, quantization)
            path = folder / f"model-{quantization}.gguf"
            server = stack.enter_context(running_llama_cpp(path, 1024 * rows, exact=False, parallel=rows))
            actions[f"llama.cpp {quantization}"] = complete_with(server)
        if rows == 1:
            with torch.inference_mode():
                onnx.write(source, folder, "float32")
            actions["onnxruntime"] = onnx_decoder(OnnxModel(folder), prompt.numpy(), new)
        yield actions


def compiled_and_not(model: Any) -> dict[str, Any]:
    """Our model with the readable step, and with the compiled one in float32, bfloat16 and int8."""
    found = {"ours": model}
    for name, convert in {"": lambda x: x, " bfloat16": lambda x: x.bfloat16(), " int8": ours.quantize_int8}.items():
        found[f"ours compiled{name}"] = convert(copy.deepcopy(model))
    for name, each in found.items():
        each.decoding_compilation = "off" if name == "ours" else "on"
    return found


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

    actions = {"transformers": generate_with(ours.export_native(model))}
    actions |= {name: generate_with(chosen) for name, chosen in compiled_and_not(model).items()}
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


def text_lengths(texts: int) -> list[int]:
    """Lengths of texts to classify in tokens, drawn uniformly; a single text has the mean length."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(SHORTEST, LONGEST + 1, (texts,), generator=generator).tolist()
    return drawn if texts > 1 else [(SHORTEST + LONGEST) // 2]


@contextmanager
def classifiers(shape: str, texts: int, folder: Path) -> Iterator[dict[str, Action]]:
    """Classification of a padded batch of texts of different lengths by a BERT of this shape: an action per contender.
    With many texts, ONNX Runtime also gets them sorted by length in batches of 8, which have less padding.

    Args:
        shape: one of `CLASSIFIER_LAYERS`.
        texts: number of texts.
        folder: an empty folder for the export.
    """
    layers, width, heads = CLASSIFIER_LAYERS[shape]
    tokenizer = tokenizer_for_engines()
    fields = {"vocab_size": VOCAB_SIZE, "hidden_size": width, "num_hidden_layers": layers, **special_ids(tokenizer)}
    config = ours.ScratchEncoderConfig.from_preset("bert", num_attention_heads=heads, num_labels=4, **fields)
    torch.manual_seed(0)
    model: Any = ours.ScratchEncoderForSequenceClassification(config).eval()
    lengths = text_lengths(texts)
    ids = torch.randint(5, VOCAB_SIZE, (texts, max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()

    def classify_with(chosen: Any) -> Action:
        def action() -> None:
            with torch.inference_mode():
                assert chosen(ids, attention_mask=mask).logits.shape == (texts, 4)

        return action

    with torch.inference_mode():
        onnx.write(Source("benchmark", model, Tokenizers(tokenizer, tokenizer)), folder, "float32")
    onnx_model = OnnxModel(folder)

    def classify_with_onnx(size: int) -> Action:
        order = sorted(range(texts), key=lengths.__getitem__) if size < texts else list(range(texts))
        batches = []
        for rows in (order[start : start + size] for start in range(0, texts, size)):
            longest = max(lengths[row] for row in rows)
            inputs = {"input_ids": ids[rows, :longest].numpy(), "attention_mask": mask[rows, :longest].numpy()}
            batches.append({name: np.ascontiguousarray(value) for name, value in inputs.items()})

        def action() -> None:
            for batch in batches:
                onnx_model.run("model", **batch)

        return action

    actions = {"transformers": classify_with(ours.export_native(model).eval()), "ours": classify_with(model)}
    actions["onnxruntime"] = classify_with_onnx(texts)
    if texts > 8:
        actions["onnxruntime, sorted"] = classify_with_onnx(8)
    yield actions
