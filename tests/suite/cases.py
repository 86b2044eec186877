"""transformers' own model tests, on our classes and on its Llama. Run by test_transformers_suite.py, which provides the
`tests` package of transformers' source distribution.
"""

import unittest

import torch
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from scratch_gpt import (
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
)

# The suite looks classes up by name to know which labels they take.
MODEL_MAPPING_NAMES["scratch_gpt"] = "ScratchGPTModel"
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["scratch_gpt"] = "ScratchGPTForCausalLM"
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["scratch_gpt"] = "ScratchGPTForSequenceClassification"


class Tester:
    """A tiny config and inputs for it, as the suite expects them from a model's tester."""

    batch_size, seq_length, is_training = 13, 7, True
    num_hidden_layers, num_attention_heads, hidden_size, vocab_size = 2, 4, 32, 99

    def __init__(self, parent, make_config):
        self.parent, self.make_config = parent, make_config

    def get_config(self):
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
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        # No padding id inside, as in the suite's own testers: it would mark the end of a classified text.
        input_ids = torch.where(input_ids == 0, torch.ones_like(input_ids), input_ids)
        mask = random_attention_mask([self.batch_size, self.seq_length])
        return self.get_config(), {"input_ids": input_ids, "attention_mask": mask}


class SuiteMixin(ModelTesterMixin, GenerationTesterMixin):
    def setUp(self):
        self.model_tester = Tester(self, self.make_config)


class LlamaTest(SuiteMixin, unittest.TestCase):
    all_model_classes = (LlamaModel, LlamaForCausalLM, LlamaForSequenceClassification)
    make_config = LlamaConfig


class OurMixin(SuiteMixin):
    all_model_classes = (ScratchGPTModel, ScratchGPTForCausalLM, ScratchGPTForSequenceClassification)


class Gpt2StyleTest(OurMixin, unittest.TestCase):
    def make_config(self, **fields):
        dropouts = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)
        return ScratchGPTConfig.from_preset("gpt2", **dropouts, **fields)


class LlamaStyleTest(OurMixin, unittest.TestCase):
    def make_config(self, **fields):
        return ScratchGPTConfig.from_preset("llama", **fields)


class NanochatStyleTest(OurMixin, unittest.TestCase):
    def make_config(self, **fields):
        # Zero-initialised branches would make a fresh model blind to everything that the suite varies.
        return ScratchGPTConfig.from_preset("nanochat", output_projection_init="normal", **fields)
