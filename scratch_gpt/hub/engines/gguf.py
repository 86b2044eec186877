"""GGUF, the file format of llama.cpp: one file with weights, tokenizer and chat template, and a `Modelfile` for Ollama.

Written from the model in transformers' own class, under the names of GGUF: `gguf_architectures` has what differs
between architectures. llama.cpp's converter recognises tokenizers by a hash of their output, and so none that was
trained here; `gguf_tokenizer` describes them by their parts instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ...errors import ScratchError
from ...tokenization.chat import CHAT_TEMPLATE
from ..native.convert import export_native, is_native
from .export import ExportFormat, Source
from .gguf_architectures import find_architecture
from .gguf_tokenizer import adds_bos, all_tokens, chat_template, read_vocabulary, token_types
from .gguf_weights import quantize, tensors
from .llama_cpp import compare

QUANTIZATIONS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}  # to the names of GGUF


def check(source: Source) -> None:
    """Check that llama.cpp can run a model and its tokenizer.

    Raises:
        ScratchError: it can't; the message has the reason.
    """
    find_architecture(source.model)
    tokenizer = source.tokenizers.source
    read_vocabulary(tokenizer)
    adds_bos(tokenizer)
    if len(stops := stop_tokens(tokenizer, source.model)) > 1:
        names = ", ".join(tokenizer.convert_ids_to_tokens(stops))
        raise ScratchError(f"a GGUF file has one token besides <eos> that ends a turn, this model has {names}")


def write(source: Source, folder: Path, quantization: str) -> None:
    """Write `model-<quantization>.gguf` and `Modelfile` into a folder."""
    from gguf import GGUFWriter, LlamaFileType

    architecture, config = find_architecture(source.model)
    model: Any = source.model if is_native(source.model) else export_native(source.model, architecture.twin)
    tokenizer = source.tokenizers.source
    path = folder / f"model-{quantization}.gguf"
    kind = QUANTIZATIONS[quantization]
    file_types = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
    writer = GGUFWriter(path, architecture.name)
    writer.add_name(Path(source.name).name)
    writer.add_file_type(LlamaFileType[file_types[kind]])
    writer.add_quantization_version(2)
    for name, value in architecture.hyperparameters(config):
        getattr(writer, f"add_{name}")(value)
    _write_tokenizer(writer, tokenizer, model)
    for name, weight in tensors(model, architecture.name, architecture.changes, architecture.separate_head):
        data, dtype = quantize(name, weight, kind)
        writer.add_tensor(name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "Modelfile").write_text(modelfile(path.name, tokenizer, model), encoding="utf-8")


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
