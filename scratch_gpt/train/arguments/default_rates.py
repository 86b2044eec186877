"""Default optimizers and learning rates, by what is trained: a new or small model, a pretrained one, or adapters.

The rates of new models were found with models of one million parameters, and suit the tuning of such models too. At
these rates, a much larger pretrained model forgets what it knows within a few steps: it is tuned with AdamW at the
rates of the literature, which are a hundred times smaller. Fine-tuning with Muon is no better if the model was
pretrained with AdamW, as nearly all are (Liu et al. 2025, arXiv:2502.16982, section 3.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from ...errors import ScratchError

if TYPE_CHECKING:
    from .training import TrainingArguments

    A = TypeVar("A", bound=TrainingArguments)

SMALL_MODEL = 10_000_000  # parameters up to which a model is tuned with the rates of new models


@dataclass(frozen=True)
class DefaultRates:
    """Default optimizer and peak learning rates of a family.

    Attributes:
        optimizer: of new and small models.
        adamw: AdamW alone, for new and small models.
        adamw_with_muon: AdamW together with Muon, for embeddings, head and norms, which tolerate larger steps.
        muon: Muon, for new and small models.
        tuned: all weights of a larger pretrained model; for Muon too, whose updates match the RMS of AdamW's.
        lora: adapters of a larger pretrained model.
    """

    optimizer: Literal["adamw", "muon"]
    adamw: float
    adamw_with_muon: float
    muon: float
    tuned: float
    lora: float = 2e-4  # Hu et al. 2021, arXiv:2106.09685, GPT-2; Dettmers et al. 2023, arXiv:2305.14314


# Default of `run_clm.py` and `run_mlm.py` of transformers; one of BERT's (Devlin et al. 2019, arXiv:1810.04805, A.3).
PRETRAINING = DefaultRates("muon", adamw=2e-3, adamw_with_muon=1e-2, muon=2e-2, tuned=5e-5)
# The smallest of BERT's rates for classifiers, which RoBERTa uses too (Liu et al. 2019, arXiv:1907.11692).
CLASSIFICATION = DefaultRates("muon", adamw=2e-3, adamw_with_muon=1e-2, muon=2e-2, tuned=2e-5)
# The fine-tuning of Marian in the course of Hugging Face, chapter 7.4.
TRANSLATION = DefaultRates("muon", adamw=2e-3, adamw_with_muon=1e-2, muon=2e-2, tuned=2e-5)
# Alpaca, and TRL's `SFTConfig`.
SFT = DefaultRates("muon", adamw=2.5e-3, adamw_with_muon=2.5e-3, muon=5e-3, tuned=2e-5)
# TRL's `DPOConfig`; Rafailov et al. 2023, arXiv:2305.18290, appendix B.
DPO = DefaultRates("adamw", adamw=2e-4, adamw_with_muon=2e-4, muon=2e-2, tuned=1e-6)
# TRL's `GRPOConfig`; Shao et al. 2024, arXiv:2402.03300, section 4.2.
POLICY_GRADIENT = DefaultRates("adamw", adamw=5e-4, adamw_with_muon=5e-4, muon=2e-2, tuned=1e-6)


def with_default_rates(
    args: A, parameters: int = 0, is_tuned: bool = False, lora: bool = False
) -> tuple[A, str | None]:
    """Resolve the optimizer and the learning rates.

    Args:
        args: training arguments; what is given in them is kept.
        parameters: number of parameters of the model, without adapters.
        is_tuned: whether the model is pretrained, not new.
        lora: whether low-rank adapters are trained.

    Returns:
        Arguments without None for these, and a line that says what was chosen, and that a given rate of Muon has no
        effect if AdamW was; None if all were given.

    Raises:
        ScratchError: Muon is to train adapters.
    """
    if lora and args.optimizer == "muon":
        raise ScratchError("muon orthogonalizes updates of whole matrices, and LoRA trains factors: use adamw")
    rates, large = args.default_rates, is_tuned and parameters > SMALL_MODEL
    optimizer = args.optimizer or ("adamw" if lora or large else rates.optimizer)
    if large:
        adamw = muon = rates.lora if lora else rates.tuned
    else:
        adamw, muon = rates.adamw_with_muon if optimizer == "muon" else rates.adamw, rates.muon
    found = replace(
        args,
        optimizer=optimizer,
        learning_rate=adamw if args.learning_rate is None else args.learning_rate,
        muon_learning_rate=muon if args.muon_learning_rate is None else args.muon_learning_rate,
    )
    chosen = [args.optimizer, args.learning_rate, *([args.muon_learning_rate] if optimizer == "muon" else [])]
    if None not in chosen:
        return found, None
    used = f"adamw, learning rate {found.learning_rate:g}"
    if optimizer == "muon":
        used = f"muon, learning rate {found.muon_learning_rate:g} for matrices and {found.learning_rate:g} for the rest"
    what = f"adapters of a model of {parameters:,} parameters" if lora else f"a model of {parameters:,} parameters"
    size = "more than" if large else "at most"
    why = f"the default for tuning {what}, {size} {SMALL_MODEL:,}" if is_tuned else "the default for a new model"
    unused = optimizer == "adamw" and args.muon_learning_rate is not None
    return found, f"optimizer: {used} ({why})" + ("; muon_learning_rate has no effect" if unused else "")
