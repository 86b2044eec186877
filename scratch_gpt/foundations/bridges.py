"""From each lesson to the model code: which symbol of the package does what a symbol of the lesson does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .lesson import Presenter


class Bridge(NamedTuple):
    """A symbol of a lesson, and its counterpart.

    Attributes:
        here: symbol of the lesson's module.
        there: file and symbol of the package, relative to `scratch_gpt/`.
        note: what is the same, or what is added there.
    """

    here: str
    there: str
    note: str


BRIDGES = {
    "neuron": (
        Bridge(
            "Neuron",
            "models/feed_forward.py#FeedForward",
            "thousands of neurons, as matrices",
        ),
        Bridge(
            "mean_squared_error",
            "rl/losses.py#value_loss",
            "the same squared error, of a value head",
        ),
        Bridge(
            "descend",
            "train/engine/trainer.py#Trainer._update_weights",
            "one step, also by other rules",
        ),
        Bridge("learn_one_by_one", "train/engine/trainer.py#Trainer.run", "the training loop"),
    ),
    "autograd": (
        Bridge("Value.backward", "train/engine/trainer.py#Trainer._forward_backward", "PyTorch's `backward`"),
    ),
    "activations": (
        Bridge("ACTIVATIONS", "models/feed_forward.py#FeedForward", "chosen by `hidden_act`"),
        Bridge("softmax", "models/attention.py#eager_attention_forward", "of the scores of attention"),
        Bridge("fit_sine", "train/optim/optimizers.py#build_optimizers", "Adam, and Muon for matrices"),
    ),
    "leaf_or_flower": (
        Bridge("cross_entropy", "models/linear_cross_entropy.py#token_loss", "one class for each token"),
        Bridge("train", "train/engine/trainer.py#Trainer._train", "with checkpoints and several processes"),
        Bridge("Network", "models/modeling_scratch_gpt.py#ScratchGPTForSequenceClassification", "classifies texts"),
        Bridge("accuracy", "evaluation/classification.py#classification_scores", "and F1"),
    ),
    "depth": (
        Bridge("normalize", "models/normalization.py#LayerNorm", "with a learned scale and shift"),
        Bridge("Stack", "models/block.py#TransformerBlock.add", "the residual connection"),
        Bridge("measure_scales", "models/pretrained_model.py#ScratchPreTrainedModel._init_weights", "initialization"),
    ),
    "text": (
        Bridge("descend_bigram", "models/modeling_scratch_bigram.py#ScratchBigramForCausalLM", "the same table"),
        Bridge("WindowNetwork", "models/modeling_scratch_gpt.py#ScratchGPTModel", "`embed_tokens`, then blocks"),
        Bridge("fit", "models/modeling_scratch_gpt.py#ScratchGPTForCausalLM.forward", "all positions at once"),
        Bridge("generate", "models/fast_generation.py#FastGenerationMixin", "with temperature, top-k and beams"),
    ),
    "subwords": (
        Bridge("learn_merges", "tokenization/training.py#train_tokenizer", "by the library `tokenizers`"),
        Bridge("encode", "tokenization/training.py#encode_batch", "texts to token ids"),
    ),
    "attention": (
        Bridge("attend", "models/attention.py#eager_attention_forward", "first read `scores =`, `weights =`, `return`"),
        Bridge("split_heads", "models/attention.py#ScratchAttention._split_heads", "with a batch dimension"),
        Bridge("attend_with_heads", "models/attention.py#ScratchAttention.forward", "with cache and rotary positions"),
        Bridge("causal_softmax", "models/compatibility.py#create_causal_masks", "the mask, as numbers to add"),
        Bridge("learn_positions", "models/positions.py#build_positions", "learned or sinusoidal positions"),
    ),
    "dropout": (Bridge("dropout", "models/dropout.py#Dropout", "the same"),),
    "ladder": (
        Bridge("RUNGS", "models/configuration_block.py#TransformerBlockConfig", "a field for each idea"),
        Bridge("train", "train/engine/trainer.py#Trainer", "the training loop of all tasks"),
        Bridge("evaluate", "evaluation/language_modeling.py#score_text", "also per byte and per token"),
        Bridge("build_optimizers", "train/optim/optimizers.py#build_optimizers", "the same groups"),
    ),
}


def present_bridge(presenter: Presenter, lesson: str) -> None:
    """Print the bridges of a lesson as a table."""
    presenter.section(
        "From here to the model code", "What this lesson defines, and what does the same in scratch_gpt/:"
    )
    presenter.table(
        ("this lesson", "file: symbol", "there"),
        [(each.here, each.there.replace("#", ":\n"), each.note) for each in BRIDGES[lesson]],
    )
