"""GGUF, the file format of llama.cpp: one file with weights, tokenizer and chat template, and a `Modelfile` for Ollama.

Written from the model in transformers' own class (Llama or GPT-2), under llama.cpp's names. llama.cpp's converter
recognises tokenizers by a hash of their output, and so none that was trained here; `gguf_tokenizer` describes them by
their parts instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ...errors import ScratchError
from ...tokenization.chat import CHAT_TEMPLATE
from ..native.convert import NoNativeClassError, export_native, is_native, native_twin
from ..native.gpt import GPT2Twin, LlamaTwin
from .export import ExportFormat, Source
from .gguf_tokenizer import adds_bos, all_tokens, chat_template, read_vocabulary, token_types
from .llama_cpp import compare

QUANTIZATIONS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}  # to the names of GGUF
BLOCK_SIZE = 32  # weights that share a scale in q8_0
BLOCK_NAMES = {  # of a block, our names to those of GGUF, which are the same for Llama and GPT-2
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
MODEL_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}
# Types of rotary positions that llama.cpp has, and their settings that are written.
ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
ARCHITECTURES = (LlamaTwin(), GPT2Twin())


def native_model(source: Source) -> PreTrainedModel:
    """The model in transformers' own class."""
    return source.model if is_native(source.model) else export_native(source.model)


def native_config(source: Source) -> Any:
    """The config of the model in transformers' own class.

    Raises:
        ScratchError: llama.cpp has no architecture for it.
    """
    model: Any = source.model
    twin = next((twin for twin in ARCHITECTURES if isinstance(model, twin.model_class)), None)
    if twin is not None:  # a model of transformers
        if reasons := twin.import_incompatibilities(model.config):
            raise ScratchError(f"llama.cpp has no architecture for this {type(model).__name__}: {'; '.join(reasons)}")
        return model.config
    if is_native(model):
        raise ScratchError(f"llama.cpp has no architecture for a {type(model).__name__}: want a Llama or GPT-2")
    try:
        found = native_twin(model)
    except NoNativeClassError as error:
        raise ScratchError(f"llama.cpp has no architecture for this model: {error}") from error
    if not isinstance(found, tuple(type(twin) for twin in ARCHITECTURES)):
        name = found.model_class.__name__
        raise ScratchError(f"llama.cpp has no architecture for a {name}: want a Llama or GPT-2")
    return found.config_to_native(model.config)


def check(source: Source) -> None:
    """Check that llama.cpp can run a model and its tokenizer.

    Raises:
        ScratchError: it can't; the message has the reason.
    """
    config = native_config(source)
    if config.model_type == "llama":
        if config.hidden_act != "silu":
            raise ScratchError(f"hidden_act is {config.hidden_act!r}, the architecture llama of llama.cpp has 'silu'")
        rope_type = config.rope_parameters["rope_type"]
        if rope_type not in ROPE_FIELDS:
            raise ScratchError(f"rope_type is {rope_type!r}, llama.cpp has {', '.join(ROPE_FIELDS)}")
        known = {"rope_type", "rope_theta", *ROPE_FIELDS[rope_type]}
        if others := sorted(name for name, value in config.rope_parameters.items() if name not in known and value):
            raise ScratchError(f"rope_parameters has {', '.join(others)}, which is not exported for {rope_type!r}")
    elif config.activation_function != "gelu_new":
        found = config.activation_function
        raise ScratchError(f"the activation is {found!r}, the architecture gpt2 of llama.cpp has 'gelu_new'")
    tokenizer = source.tokenizers.source
    read_vocabulary(tokenizer)
    adds_bos(tokenizer)
    if len(stops := stop_tokens(tokenizer, source.model)) > 1:
        names = ", ".join(tokenizer.convert_ids_to_tokens(stops))
        raise ScratchError(f"a GGUF file has one token besides <eos> that ends a turn, this model has {names}")


def write(source: Source, folder: Path, quantization: str) -> None:
    """Write `model-<quantization>.gguf` and `Modelfile` into a folder."""
    from gguf import GGUFWriter, LlamaFileType

    model: Any = native_model(source)
    tokenizer = source.tokenizers.source
    path = folder / f"model-{quantization}.gguf"
    kind = QUANTIZATIONS[quantization]
    file_types = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
    writer = GGUFWriter(path, model.config.model_type)
    writer.add_name(Path(source.name).name)
    writer.add_file_type(LlamaFileType[file_types[kind]])
    writer.add_quantization_version(2)
    _write_config(writer, model.config)
    _write_tokenizer(writer, tokenizer, model)
    for name, weight in tensors(model):
        data, dtype = quantize(weight, kind)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "Modelfile").write_text(modelfile(path.name, tokenizer, model), encoding="utf-8")


def _write_config(writer: Any, config: Any) -> None:
    """Write the hyperparameters."""
    from gguf import RopeScalingType

    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        )


def _write_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerFast, model: Any) -> None:
    """Write the vocabulary, special tokens and chat template."""
    vocabulary, size = read_vocabulary(tokenizer), model.config.vocab_size
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(all_tokens(tokenizer, vocabulary, size))
    writer.add_token_types(token_types(tokenizer, vocabulary, size))
    if vocabulary.scores:
        writer.add_token_scores([*vocabulary.scores, *[0.0] * (size - len(vocabulary.scores))])
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for name, value in vocabulary.options.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number < size:
            getattr(writer, f"add_{name}_token_id")(number)
    stops = stop_tokens(tokenizer, model)
    if stops:  # the end of a turn in a chat
        writer.add_eot_token_id(stops[0])
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(False)
    if template := chat_template(tokenizer):
        writer.add_chat_template(template)


def stop_tokens(tokenizer: PreTrainedTokenizerFast, model: Any) -> list[int]:
    """The tokens besides `<eos>` that end a generated text."""
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    return [token for token in stops if token is not None and token != tokenizer.eos_token_id]


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a Llama or GPT-2 with their names in GGUF, in float32."""
    config = model.config
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp then uses the embeddings
        module, _, suffix = name.rpartition(".")
        weight = weight.detach().float()
        if config.model_type == "gpt2" and weight.ndim == 2 and ".h." in name:
            weight = weight.T  # a Conv1D
        if config.model_type == "llama" and module.endswith(("q_proj", "k_proj")):
            weight = interleave_halves(weight, config.head_dim)
        if module in MODEL_NAMES:
            yield f"{MODEL_NAMES[module]}.{suffix}", weight
        else:
            _, _, index, block_module = module.split(".", 3)  # model.layers.0.… or transformer.h.0.…
            yield f"blk.{index}.{BLOCK_NAMES[block_module]}.{suffix}", weight
    if config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", llama3_factors(model)


def interleave_halves(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder the rows of each head of a query or key projection, (H * D, C) or (H * D,): transformers rotates feature
    i with i + D/2, llama.cpp 2i with 2i + 1."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def llama3_factors(model: Any) -> torch.Tensor:
    """What Llama 3's scaling divides each rotary frequency by (D/2,)."""
    config = model.config
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    return config.rope_parameters["rope_theta"] ** -exponents / model.model.rotary_emb.inv_freq.float().cpu()


def quantize(weight: torch.Tensor, kind: str) -> tuple[np.ndarray, Any]:
    """A weight in a type of GGUF, and the type. Vectors stay in float32; matrices whose rows are not a multiple of 32
    can't be q8_0 and are f16."""
    from gguf import GGMLQuantizationType, quants

    if weight.ndim == 1:
        kind = "F32"
    elif kind == "Q8_0" and weight.shape[-1] % BLOCK_SIZE:
        kind = "F16"
    dtype = GGMLQuantizationType[kind]
    return quants.quantize(np.ascontiguousarray(weight.numpy()), dtype), dtype


def modelfile(gguf_name: str, tokenizer: PreTrainedTokenizerFast, model: Any) -> str:
    """A `Modelfile`, with which `ollama create NAME -f Modelfile` imports the model."""
    settings = model.generation_config
    lines = [f"FROM ./{gguf_name}"]
    if tokenizer.chat_template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif tokenizer.chat_template == CHAT_TEMPLATE:  # Ollama detects some others in the file by itself
        lines.append(f'TEMPLATE """{OLLAMA_TEMPLATE}"""')
    lines += [f'PARAMETER stop "{token}"' for token in tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer, model))]
    # Settings of which Ollama has other defaults than transformers.
    values = {"repeat_penalty": settings.repetition_penalty or 1.0, "temperature": 0}
    if settings.do_sample:
        defaults = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
        found = {name: getattr(settings, name, None) for name in defaults}
        values |= {name: default if found[name] is None else found[name] for name, default in defaults.items()}
    lines += [f"PARAMETER {name} {value}" for name, value in values.items()]
    lines.append(f"PARAMETER num_ctx {model.config.max_position_embeddings}")
    return "\n".join(lines) + "\n"


# `CHAT_TEMPLATE` as Ollama writes templates, in Go.
OLLAMA_TEMPLATE = (
    "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}"
    '{{- range .ToolCalls }}<|tool_call|>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}'
    "{{- end }}<|end|>{{- end }}<|assistant|>"
)

GGUF = ExportFormat(
    name="gguf",
    quantizations=tuple(QUANTIZATIONS),
    packages=("gguf", "sentencepiece"),
    runtime="xllamacpp",
    check=check,
    write=write,
    compare=compare,
)
