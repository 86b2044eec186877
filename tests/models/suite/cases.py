"""transformers' model tests, on our classes and on its Llama, Marian, BERT and ModernBERT. Run by
test_transformers_suite.py, which provides the `tests` package of transformers' source distribution.
"""

import unittest

import torch
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    MarianConfig,
    MarianModel,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PegasusModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from scratch_gpt import (
    ScratchEncoderConfig,
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchEncoderModel,
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
    ScratchSeq2SeqConfig,
    ScratchSeq2SeqForConditionalGeneration,
    ScratchSeq2SeqModel,
)

# The suite looks up class names to determine which labels a model takes.
MODEL_MAPPING_NAMES["scratch_gpt"] = "ScratchGPTModel"
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["scratch_gpt"] = "ScratchGPTForCausalLM"
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["scratch_gpt"] = "ScratchGPTForSequenceClassification"
MODEL_MAPPING_NAMES["scratch_encoder"] = "ScratchEncoderModel"
MODEL_FOR_MASKED_LM_MAPPING_NAMES["scratch_encoder"] = "ScratchEncoderForMaskedLM"
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["scratch_encoder"] = "ScratchEncoderForSequenceClassification"
MODEL_MAPPING_NAMES["scratch_seq2seq"] = "ScratchSeq2SeqModel"
MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES["scratch_seq2seq"] = "ScratchSeq2SeqForConditionalGeneration"


class Tester:
    """A tiny config and inputs for it, as the suite expects them from a model's tester."""

    batch_size, seq_length, is_training = 13, 7, True
    num_hidden_layers, num_attention_heads, hidden_size, vocab_size = 2, 4, 32, 99

    def __init__(self, parent, make_config):
        self.parent, self.make_config = parent, make_config

    def get_config(self):
        """A tiny config."""
        return self.make_config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def prepare_config_and_inputs_for_common(self):
        """A tiny config and inputs of random ids."""
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        # No padding ids, as in the suite's own testers: one would mark the end of a classified text.
        input_ids = torch.where(input_ids == 0, torch.ones_like(input_ids), input_ids)
        mask = random_attention_mask([self.batch_size, self.seq_length])
        return self.get_config(), {"input_ids": input_ids, "attention_mask": mask}


class SuiteMixin(ModelTesterMixin, GenerationTesterMixin):
    """The suite with the tester of decoder-only models."""

    def setUp(self):
        """Set the tester."""
        self.model_tester = Tester(self, self.make_config)


class LlamaTest(SuiteMixin, unittest.TestCase):
    """The tests on transformers' Llama."""

    all_model_classes = (LlamaModel, LlamaForCausalLM, LlamaForSequenceClassification)
    make_config = LlamaConfig


class OurMixin(SuiteMixin):
    """The tests on our decoder-only classes."""

    all_model_classes = (ScratchGPTModel, ScratchGPTForCausalLM, ScratchGPTForSequenceClassification)


class Gpt2StyleTest(OurMixin, unittest.TestCase):
    """The tests on our GPT with the preset `gpt2`."""

    def make_config(self, **fields):
        """The config of this model."""
        dropouts = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
        return ScratchGPTConfig.from_preset("gpt2", **dropouts, **fields)


class LlamaStyleTest(OurMixin, unittest.TestCase):
    """The tests on our GPT with the preset `llama`."""

    def make_config(self, **fields):
        """The config of this model."""
        return ScratchGPTConfig.from_preset("llama", **fields)


class NanochatStyleTest(OurMixin, unittest.TestCase):
    """The tests on our GPT with the preset `nanochat`."""

    def make_config(self, **fields):
        """The config of this model."""
        # With zero-initialized branches, a new model would ignore what the suite varies.
        return ScratchGPTConfig.from_preset("nanochat", output_projection_init="normal", **fields)


class Seq2SeqTester(Tester):
    """The same for encoder-decoders."""

    encoder_seq_length = decoder_seq_length = key_length = 7
    encoder_layers = decoder_layers = 2

    def get_config(self):
        """A tiny config."""
        return self.make_config(
            vocab_size=self.vocab_size,
            encoder_layers=self.num_hidden_layers,
            decoder_layers=self.num_hidden_layers,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self):
        """A tiny config and inputs of random ids."""
        config, inputs = super().prepare_config_and_inputs_for_common()
        decoder_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size).clamp(min=3)
        inputs |= {"decoder_input_ids": decoder_ids, "decoder_attention_mask": torch.ones_like(decoder_ids)}
        return config, inputs


class Seq2SeqMixin(ModelTesterMixin, GenerationTesterMixin):
    """The suite with the tester of encoder-decoders."""

    is_encoder_decoder = True

    def setUp(self):
        """Set the tester."""
        self.model_tester = Seq2SeqTester(self, self.make_config)


class BartStyleMixin(Seq2SeqMixin):
    """The tests on a class of transformers that descends from its BART."""

    def make_config(self, **fields):
        """The config of this model."""
        sides = {
            f"{side}_{name}": n
            for side in ("encoder", "decoder")
            for name, n in (("ffn_dim", 37), ("attention_heads", 4))
        }
        return self.config_class(d_model=32, **sides, **fields)


class MarianTest(BartStyleMixin, unittest.TestCase):
    """The tests on transformers' Marian."""

    all_model_classes, config_class = (MarianModel, MarianMTModel), MarianConfig


class BartTest(BartStyleMixin, unittest.TestCase):
    """The tests on transformers' BART."""

    all_model_classes, config_class = (BartModel, BartForConditionalGeneration), BartConfig


class MBartTest(BartStyleMixin, unittest.TestCase):
    """The tests on transformers' mBART."""

    all_model_classes, config_class = (MBartModel, MBartForConditionalGeneration), MBartConfig


class PegasusTest(BartStyleMixin, unittest.TestCase):
    """The tests on transformers' Pegasus."""

    all_model_classes, config_class = (PegasusModel, PegasusForConditionalGeneration), PegasusConfig


class T5Test(Seq2SeqMixin, unittest.TestCase):
    """The tests on transformers' T5."""

    all_model_classes = (T5Model, T5ForConditionalGeneration)

    def make_config(self, encoder_layers, decoder_layers, max_position_embeddings, **fields):
        """The config of this model."""
        layers = {"num_layers": encoder_layers, "num_decoder_layers": decoder_layers}
        return T5Config(d_model=32, d_kv=8, d_ff=37, num_heads=4, feed_forward_proj="gated-gelu", **layers, **fields)


class OurSeq2SeqMixin(Seq2SeqMixin):
    """The tests on our encoder-decoder classes."""

    all_model_classes = (ScratchSeq2SeqModel, ScratchSeq2SeqForConditionalGeneration)

    def make_config(self, **fields):
        """The config of this model."""
        quiet: dict = dict.fromkeys(
            ("embedding_dropout", "attention_dropout", "residual_dropout", "label_smoothing"), 0.0
        )
        quiet["output_projection_init"] = "normal"  # as for nanochat
        sizes = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4}
        return ScratchSeq2SeqConfig.from_preset(self.preset, **sizes, **quiet, **fields)


class Vaswani2017StyleTest(OurSeq2SeqMixin, unittest.TestCase):
    """The tests on our encoder-decoder with the preset `vaswani2017`."""

    preset = "vaswani2017"


class ModernStyleTest(OurSeq2SeqMixin, unittest.TestCase):
    """The tests on our encoder-decoder with the preset `modern`."""

    preset = "modern"


class OurBartStyleTest(OurSeq2SeqMixin, unittest.TestCase):
    """The tests on our encoder-decoder with the preset `bart`."""

    preset = "bart"


class OurMBartStyleTest(OurSeq2SeqMixin, unittest.TestCase):
    """The tests on our encoder-decoder with the preset `mbart`."""

    preset = "mbart"


class OurPegasusStyleTest(OurSeq2SeqMixin, unittest.TestCase):
    """The tests on our encoder-decoder with the preset `pegasus`."""

    preset = "pegasus"


class OurT5StyleTest(OurSeq2SeqMixin, unittest.TestCase):
    """The tests on our encoder-decoder with the preset `t5`."""

    preset = "t5"


class EncoderTester(Tester):
    """The same for encoders."""

    def get_config(self):
        """A tiny config."""
        return self.make_config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=512,
            pad_token_id=0,
        )


class EncoderMixin(ModelTesterMixin):
    """The suite with the tester of encoders."""

    def setUp(self):
        """Set the tester."""
        self.model_tester = EncoderTester(self, self.make_config)


class BertTest(EncoderMixin, unittest.TestCase):
    """The tests on transformers' BERT."""

    all_model_classes = (BertModel, BertForMaskedLM, BertForSequenceClassification)

    def make_config(self, **fields):
        """The config of this model."""
        return BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **fields)


class ModernBertTest(EncoderMixin, unittest.TestCase):
    """The tests on transformers' ModernBERT."""

    all_model_classes = (ModernBertModel, ModernBertForMaskedLM, ModernBertForSequenceClassification)

    def make_config(self, **fields):
        """The config of this model."""
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
        return ModernBertConfig(local_attention=4, **ids, **fields)


class OurEncoderMixin(EncoderMixin):
    """The tests on our encoder classes."""

    test_can_init_all_missing_weights_before_2023 = True  # the suite reads the year of a model from its copyright

    all_model_classes = (
        ScratchEncoderModel,
        ScratchEncoderForMaskedLM,
        ScratchEncoderForSequenceClassification,
    )

    def make_config(self, **fields):
        """The config of this model."""
        quiet = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
        return ScratchEncoderConfig.from_preset(self.preset, **quiet, **fields)


class BertStyleTest(OurEncoderMixin, unittest.TestCase):
    """The tests on our encoder with the preset `bert`, with token types."""

    preset = "bert"

    def make_config(self, **fields):
        """The config of this model."""
        return super().make_config(type_vocab_size=2, **fields)


class RobertaStyleTest(OurEncoderMixin, unittest.TestCase):
    """The tests on our encoder with the preset `roberta`, with a token type."""

    preset = "roberta"

    def make_config(self, **fields):
        """The config of this model."""
        return super().make_config(type_vocab_size=1, **fields)


class DistilbertStyleTest(OurEncoderMixin, unittest.TestCase):
    """The tests on our encoder with the preset `distilbert`."""

    preset = "distilbert"


class ModernbertStyleTest(OurEncoderMixin, unittest.TestCase):
    """The tests on our encoder with the preset `modernbert`, with a window that is shorter than the texts."""

    preset = "modernbert"

    def make_config(self, **fields):
        """The config of this model."""
        return super().make_config(sliding_window=2, **fields)


class ModernEncoderStyleTest(OurEncoderMixin, unittest.TestCase):
    """The tests on our encoder with the preset `modern`."""

    preset = "modern"
