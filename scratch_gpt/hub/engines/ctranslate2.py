"""Export of encoder-decoders to CTranslate2, by their native twin in transformers: Marian, BART, mBART, Pegasus, T5 or
mT5.

CTranslate2's own Marian converter expects `<pad>` as the last token and drops it, since Marian's decoder starts from a
zero embedding. Our decoder starts from the embedding of `<pad>`, so that all tokens are kept, with their ids.

The beam search of CTranslate2 is that of `generate` with `early_stopping=True`: it ends when `num_beams` hypotheses are
finished, and it divides the score of a hypothesis by its length, including `<eos>`, to the power of `length_penalty`.
Two settings differ by default: `min_decoding_length` is 1, which forbids an empty translation, and lengths do not count
the start token, as `max_length` of `generate` does.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BartForConditionalGeneration,
    GenerationConfig,
    MarianMTModel,
    MBartForConditionalGeneration,
    MT5ForConditionalGeneration,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    T5ForConditionalGeneration,
)
from transformers.utils import GENERATION_CONFIG_NAME

from ...errors import ScratchError
from ...tokenization.saving import save_tokenizer
from ...untrusted import read_json
from ..model_directory import TARGET_TOKENIZER
from ..native.convert import export_native, find_twin
from .export import MAX_LENGTH, SAMPLE_TEXTS, ExportFormat, Source

# The engine's converter of each class of transformers, and the fields of BART that its class has as constants.
CONVERTERS: dict[type[PreTrainedModel], tuple[str, dict[str, bool]]] = {
    MarianMTModel: ("BartLoader", {"normalize_before": False, "normalize_embedding": False}),
    BartForConditionalGeneration: ("BartLoader", {"normalize_before": False, "normalize_embedding": True}),
    MBartForConditionalGeneration: ("BartLoader", {"normalize_before": True, "normalize_embedding": True}),
    PegasusForConditionalGeneration: ("BartLoader", {"normalize_before": True, "normalize_embedding": False}),
    T5ForConditionalGeneration: ("T5Loader", {}),
    MT5ForConditionalGeneration: ("T5Loader", {}),
}
# Activations that the engine computes: GELU exactly or by tanh, SiLU (also called Swish), ReLU.
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "swish")
# Settings of `generate` that change its translations and that a CTranslate2 model can't record, with the values that
# change nothing; so do None, 0 and an empty list.
UNSUPPORTED_SETTINGS = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale"), 1),
    **{"do_sample": False, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0},
    **{"min_length": 1, "min_new_tokens": 0, "exponential_decay_length_penalty": None, "forced_bos_token_id": None},
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"), None),
}
TOLERANCE = 1e-3  # of the log-probability of a token in float32


def check(source: Source) -> None:
    """Check that CTranslate2 can express a model.

    Raises:
        ScratchError: the model has no twin that the engine reads, or a setting that it does not support.
    """
    reasons = _reasons_without_converter(source.model) or _unsupported_settings(source)
    if reasons:
        raise ScratchError(f"cannot export {source.name} to CTranslate2: {'; '.join(reasons)}")


def write(source: Source, folder: Path, quantization: str) -> None:
    """Write an exported model: the engine's files, the tokenizers and `generation_config.json`.

    Args:
        source: the model, which stays as it is.
        folder: an empty folder.
        quantization: "float32", "float16" or "int8".
    """
    from ctranslate2.converters import transformers as converters

    # A copy, since the engine quantises weights in place.
    native: Any = copy.deepcopy(source.model) if type(source.model) in CONVERTERS else export_native(source.model)
    loader, constants = CONVERTERS[type(native)]
    config = native.config
    config.update(constants)
    config.tie_word_embeddings = getattr(config, "scale_decoder_outputs", False)  # the converter's test for T5's factor
    spec = getattr(converters, loader)().get_model_spec(native)
    tokenizer, target = source.tokenizers
    spec.register_source_vocabulary(_tokens(tokenizer, config.vocab_size))
    spec.register_target_vocabulary(target_tokens := _tokens(target, _target_size(config)))
    spec.config.eos_token = target.eos_token
    spec.config.decoder_start_token = spec.config.bos_token = target_tokens[_start_token(source.model)]
    # The engine would add a token that is in no vocabulary, with an id without an embedding.
    spec.config.unk_token = tokenizer.unk_token or tokenizer.eos_token
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))

    _save_tokenizer(tokenizer, folder, source.model)
    if target is not tokenizer:
        _save_tokenizer(target, folder / TARGET_TOKENIZER, source.model)
    _settings(source.model).save_pretrained(folder)


def compare(source: Source, folder: Path, quantization: str) -> dict[str, Any]:
    """Compare an exported model with its source: log-probabilities of given tokens, and translations of `SAMPLE_TEXTS`.

    Args:
        source: the model.
        folder: the exported model.
        quantization: its quantization; only float32 must agree.

    Returns:
        The number of texts, of equal translations with greedy decoding and with 5 beams, and the largest difference of
        the log-probability of a token, where each text is its own translation.

    Raises:
        ScratchError: the quantization is float32, and translations or log-probabilities differ.
    """
    texts, engine = list(SAMPLE_TEXTS), _Engine(folder, quantization)
    found: dict[str, Any] = {"texts": len(texts)}
    for name, num_beams in (("equal_greedy", 1), ("equal_beams", 5)):
        pairs = zip(_generate(source, texts, num_beams), engine.translate(texts, num_beams), strict=True)
        found[name] = sum(expected == translation for expected, translation in pairs)
    difference = found["largest_log_probability_difference"] = _largest_difference(source, engine, texts)
    if quantization == "float32":
        if not difference <= TOLERANCE:
            raise ScratchError(
                f"CTranslate2's log-probabilities differ by up to {difference:.2g}, want {TOLERANCE:.0e}"
            )
        greedy, beams = (len(texts) - found[name] for name in ("equal_greedy", "equal_beams"))
        if greedy or beams:
            raise ScratchError(
                f"of {len(texts)} translations by CTranslate2, {greedy} differ from the model's with greedy decoding, "
                f"and {beams} with 5 beams"
            )
    return found


def _reasons_without_converter(model: PreTrainedModel) -> list[str]:
    """Why a model can't be converted to a class that the engine has a converter for; none if it can, or is one."""
    if type(model) in CONVERTERS:
        return []
    twin, reasons = find_twin(model)
    if twin is None or twin.model_class not in CONVERTERS:
        known = ", ".join(model_class.__name__ for model_class in CONVERTERS)
        return [f"it converts {known}, and this is a {type(model).__name__}"]
    return reasons


def _target_size(config: Any) -> int:
    """Vocabulary size of the target, which only some configs distinguish from that of the source."""
    return getattr(config, "decoder_vocab_size", None) or config.vocab_size


def _start_token(model: PreTrainedModel) -> int:
    """Id of the decoder's first input token. A T5 from the Hub has it in its generation config."""
    config, settings = model.config, model.generation_config
    return next(
        token
        for token in (
            getattr(config, "decoder_start_token_id", None),
            settings.decoder_start_token_id,
            config.pad_token_id,
        )
        if token is not None
    )


def _max_positions(model: PreTrainedModel) -> int:
    """Maximum length in tokens. T5 has no limit; older configs have one for the tokenizer."""
    config = model.config
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 512


def _unsupported_settings(source: Source) -> list[str]:
    """Settings of a model that the engine does not support."""
    config: Any = source.model.config
    names = ("activation_function", "dense_act_fn", "hidden_act")
    activation = next(getattr(config, name) for name in names if getattr(config, name, None) is not None)
    reasons = [] if activation in ACTIVATIONS else [f"its activation is {activation!r}, want one of {ACTIVATIONS}"]
    heads = [getattr(config, f"{side}_attention_heads", 0) for side in ("encoder", "decoder")]
    if heads[0] != heads[1]:
        reasons.append(f"its encoder has {heads[0]} attention heads and its decoder {heads[1]}, want them equal")
    sizes = (config.vocab_size, _target_size(config))
    for side, tokenizer, size in zip(("source", "target"), source.tokenizers, sizes, strict=True):
        if (largest := max(tokenizer.get_vocab().values())) >= size:
            reasons.append(f"its {side} tokenizer has the token id {largest}, the model has {size} tokens")
    settings: Any = source.model.generation_config
    if (eos := settings.eos_token_id) not in (expected := source.tokenizers.target.eos_token_id, [expected]):
        reasons.append(f"eos_token_id is {eos}, want that of the tokenizer, {expected}")
    for name, neutral in UNSUPPORTED_SETTINGS.items():
        if (value := getattr(settings, name, None)) and value != neutral:
            reasons.append(f"its generation config sets {name} to {value}, which the exported model can't record")
    return reasons


def _tokens(tokenizer: Any, size: int) -> list[str]:
    """The tokens of a vocabulary by their ids, with a name for each embedding that has no token."""
    names = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    return [names.get(token_id, f"<unused{token_id}>") for token_id in range(size)]


def _settings(model: PreTrainedModel) -> GenerationConfig:
    """The generation config of a model, with a value for each setting that the engine needs."""
    settings: Any = copy.deepcopy(model.generation_config)
    positions = _max_positions(model)
    length = settings.max_new_tokens + 1 if settings.max_new_tokens else settings.max_length or positions
    settings.max_length, settings.max_new_tokens = min(length, positions), None
    settings.num_beams = settings.num_beams or 1
    settings.early_stopping = settings.num_beams > 1
    settings.length_penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
    settings.forced_eos_token_id = None  # only replaces the last token of a translation of `max_length`
    return settings


def _save_tokenizer(tokenizer: Any, folder: Path, model: PreTrainedModel) -> None:
    """Save a tokenizer that truncates to the positions of the model."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = _max_positions(model)
    tokenizer.backend_tokenizer.no_truncation()  # left by an earlier call, which would be saved
    tokenizer.backend_tokenizer.no_padding()
    save_tokenizer(tokenizer, folder)


class _Engine:
    """An exported model in the engine, on the CPU, with the tokenizers and generation config of its folder."""

    def __init__(self, folder: Path, quantization: str):
        import ctranslate2

        self.source = self.target = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if (folder / TARGET_TOKENIZER).exists():
            self.target = AutoTokenizer.from_pretrained(folder / TARGET_TOKENIZER, trust_remote_code=False)
        self.settings: Any = GenerationConfig.from_dict(read_json(folder / GENERATION_CONFIG_NAME))
        # CPUs have no float16 arithmetic: the engine would convert the weights too, with a warning.
        compute_type = "float32" if quantization == "float16" else "default"
        self.translator = ctranslate2.Translator(str(folder), device="cpu", compute_type=compute_type)

    def translate(self, texts: list[str], num_beams: int) -> list[str]:
        """Translate texts to at most `MAX_LENGTH` tokens."""
        results = self.translator.translate_batch(
            [self.source.convert_ids_to_tokens(ids) for ids in self.source(texts, truncation=True).input_ids],
            beam_size=num_beams,
            length_penalty=self.settings.length_penalty,
            max_decoding_length=min(self.settings.max_length, MAX_LENGTH) - 1,
            min_decoding_length=0,
            max_input_length=0,  # the tokenizer has truncated
        )
        rows: Any = [self.target.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        return self.target.batch_decode(rows, skip_special_tokens=True)

    def log_probs(self, texts: list[str], labels: list[list[int]]) -> list[torch.Tensor]:
        """Log-probabilities (T + 1,) of each row of T labels, and of `<eos>` after it."""
        results = self.translator.score_batch(
            [self.source.convert_ids_to_tokens(ids) for ids in self.source(texts, truncation=True).input_ids],
            [self.target.convert_ids_to_tokens(ids) for ids in labels],
            max_input_length=0,
        )
        return [torch.tensor(result.log_probs) for result in results]


def _generate(source: Source, texts: list[str], num_beams: int) -> list[str]:
    """Translate texts with the source model to at most `MAX_LENGTH` tokens."""
    model: Any = source.model
    settings = _settings(model)
    settings.num_beams, settings.early_stopping = num_beams, num_beams > 1
    settings.max_length = min(settings.max_length, MAX_LENGTH)
    tokens = model.generate(**_encode(source, texts), generation_config=settings)
    return source.tokenizers.target.batch_decode(tokens, skip_special_tokens=True)


def _encode(source: Source, texts: list[str]) -> dict[str, torch.Tensor]:
    """Encode texts as `input_ids` and `attention_mask`, each (B, S), padded on the right."""
    config: Any = source.model.config
    rows = source.tokenizers.source(texts, truncation=True, max_length=_max_positions(source.model)).input_ids
    longest = max(map(len, rows))
    ids = torch.tensor([row + [config.pad_token_id] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(longest) < lengths[:, None]).long()}


def _largest_difference(source: Source, engine: _Engine, texts: list[str]) -> float:
    """Largest difference of the log-probability of a token, where each text is its own translation."""
    model: Any = source.model
    target = source.tokenizers.target
    longest = _max_positions(model) - 1
    labels = [ids[:longest] for ids in target(texts, add_special_tokens=False).input_ids]
    differences = []
    for text, ids, found in zip(texts, labels, engine.log_probs(texts, labels), strict=True):
        decoder_ids = torch.tensor([[_start_token(model), *ids]])
        logits = model(**_encode(source, [text]), decoder_input_ids=decoder_ids).logits[0]  # (T + 1, V)
        expected = logits.log_softmax(-1).gather(1, torch.tensor([*ids, target.eos_token_id])[:, None])[:, 0]
        differences.append((found - expected).abs())
    return torch.cat(differences).max().item()


CTRANSLATE2 = ExportFormat(
    name="ctranslate2",
    quantizations=("float32", "float16", "int8"),
    packages=("ctranslate2",),
    runtime="ctranslate2",
    check=check,
    write=write,
    compare=compare,
)
