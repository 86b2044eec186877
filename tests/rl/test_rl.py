"""Losses and advantages against manual calculations and TRL; rewards; rollouts."""

import math

import numpy as np
import pytest
import torch
from helpers.models import save_tiny, tiny_encoder, tiny_model
from torch.nn import functional as F

from scratch_gpt import ScratchEncoderForSequenceClassification, train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.rl import losses, rollouts
from scratch_gpt.rl.rewards import judge, open_reward
from scratch_gpt.rl.rollouts import Rollout

YES = torch.ones(1, 3, dtype=torch.bool)


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_log_probabilities_and_entropy_agree_with_torch_and_trl(temperature):
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    logits, tokens = torch.randn(2, 5, 11), torch.randint(0, 11, (2, 5))
    found, entropy = losses.token_log_probs(logits, tokens, temperature), losses.token_entropy(logits, temperature)
    close(found, -F.cross_entropy((logits / temperature).transpose(1, 2), tokens, reduction="none"))
    close(found, selective_log_softmax(logits / temperature, tokens))
    close(entropy, entropy_from_logits(logits / temperature))
    close(entropy, torch.distributions.Categorical(logits=logits / temperature).entropy())
    assert losses.token_log_probs(logits, torch.full((2, 5), -100)).eq(0).all()


def test_advantages_by_hand():
    """Three tokens, reward 1 at the end, gamma 0.9, lambda 0.5.

    delta_2 = 1 - 0.5 = 0.5; delta_1 = 0.9·0.5 - 0.4 = 0.05; delta_0 = 0.9·0.4 - 0.2 = 0.16
    A_2 = 0.5; A_1 = 0.05 + 0.45·0.5 = 0.275; A_0 = 0.16 + 0.45·0.275 = 0.28375
    """
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.4, 0.5]])
    advantages, returns = losses.generalized_advantages(rewards, values, YES, 0.9, 0.5)
    close(advantages, [[0.28375, 0.275, 0.5]])
    close(returns, [[0.48375, 0.675, 1.0]])


def test_advantages_with_gamma_and_lambda_1_are_remaining_rewards_minus_values():
    rewards, values = torch.randn(2, 6), torch.randn(2, 6)
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    advantages, returns = losses.generalized_advantages(rewards, values, mask, 1.0, 1.0)
    for row in range(2):
        given = rewards[row][mask[row]]
        remaining = given.flip(0).cumsum(0).flip(0)
        close(returns[row][mask[row]], remaining)
        close(advantages[row][mask[row]], remaining - values[row][mask[row]])
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_masked_values_have_no_effect():
    mask = torch.tensor([[1, 1, 0, 0]], dtype=torch.bool)
    rewards, values = torch.randn(1, 4), torch.randn(1, 4)
    others = [torch.where(mask, x, torch.full_like(x, math.nan)) for x in (rewards, values)]
    found = [losses.generalized_advantages(*pair, mask, 0.9, 0.9)[0] for pair in ((rewards, values), others)]
    close(found[1], found[0])
    close(losses.whiten(others[0], mask), losses.whiten(rewards, mask))


def test_whitened_values_have_mean_0_and_variance_1():
    values, mask = torch.randn(4, 50) * 3 + 2, torch.rand(4, 50) < 0.7
    found = losses.whiten(values, mask)
    close(found[mask].mean(), 0.0)
    close(found[mask].std(), 1.0)


def test_clipping_by_hand():
    """Ratios 1.5 and 0.5, clipped at 0.2 around 1: a gain is clipped at 1.2, a loss is not; and conversely at 0.5."""
    log_probs = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    loss, clipped = losses.clipped_loss(log_probs, torch.zeros(1, 4), advantages, 0.2)
    close(loss, [[-1.2, 1.5, -0.5, 0.8]])
    assert clipped.tolist() == [[True, False, False, True]]
    close(losses.policy_gradient_loss(log_probs, advantages), -advantages * log_probs)


def test_ppo_and_reinforce_have_the_same_gradient_at_the_policy_that_sampled():
    logits, tokens, advantages = (
        torch.randn(2, 4, 7, requires_grad=True),
        torch.randint(0, 7, (2, 4)),
        torch.randn(2, 4),
    )
    log_probs = losses.token_log_probs(logits, tokens)
    ppo, _ = losses.clipped_loss(log_probs, log_probs.detach(), advantages, 0.2)
    one = torch.autograd.grad(ppo.sum(), logits, retain_graph=True)[0]
    other = torch.autograd.grad(losses.policy_gradient_loss(log_probs, advantages).sum(), logits)[0]
    close(one, other)


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward():
    """The expectation over all outcomes of one sample is exact, with or without a baseline."""
    logits, rewards = torch.randn(1, 1, 5, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
    probabilities = logits.softmax(-1).flatten()
    (expected,) = torch.autograd.grad(-(probabilities * rewards).sum(), logits, retain_graph=True)
    for baseline in (0.0, 0.7):
        scores = logits.log_softmax(-1).flatten()
        estimate = (probabilities.detach() * losses.policy_gradient_loss(scores, rewards - baseline)).sum()
        (found,) = torch.autograd.grad(estimate, logits, retain_graph=True)
        close(found, expected)


def test_value_loss_by_hand():
    values, old, returns = torch.tensor([[1.0, 0.1]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    close(losses.value_loss(values, old, returns, 0.2), [[0.5 * 0.8**2, 0.5 * 0.9**2]])


def test_the_kl_estimate_is_unbiased_and_never_negative():
    one, other = torch.randn(9).log_softmax(0), torch.randn(9).log_softmax(0)
    estimates = losses.kl_estimate(one, other)
    assert (estimates >= 0).all()
    close((one.exp() * estimates).sum(), F.kl_div(other, one, reduction="sum", log_target=True))


def test_baselines_by_hand():
    close(losses.leave_one_out(torch.tensor([1.0, 0.0, 0.0, 3.0])), [0.0, -4 / 3, -4 / 3, 8 / 3])
    close(losses.leave_one_out(torch.tensor([2.0])), [2.0])
    found = losses.group_advantages(torch.tensor([1.0, 0.0, 5.0, 5.0]), 2)
    close(found, [0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4), 0.0, 0.0])


def test_dpo_loss_by_hand():
    loss = losses.dpo_loss(*(torch.tensor([x]) for x in (-1.0, -3.0, -2.0, -2.0)), beta=0.5)
    close(loss, [math.log(1 + math.exp(-1.0))])


# Rewards.


def raises(prompts, completions, **_):
    if any("b" in text for text in completions):
        raise RuntimeError("no b")
    return [0.0] * len(completions)


WRONG = {
    "a text": (
        lambda prompts, completions, **_: ["good"] * 2,
        "str 'good' for completion 0, want a finite number: 'a'",
    ),
    "nan": (lambda prompts, completions, **_: [1.0, math.nan], "nan for completion 1, want a finite number: 'b' after"),
    "too few": (lambda prompts, completions, **_: [1.0], "gave 1 numbers for 2 completions, want a list"),
    "a number": (lambda prompts, completions, **_: 1.0, "gave float 1.0 for 2 completions"),
    "nothing": (lambda prompts, completions, **_: None, "gave NoneType None for 2 completions"),
    "a tensor": (lambda prompts, completions, **_: torch.eye(2), "list [1.0, 0.0] for completion 0"),
    "raises": (raises, "raised RuntimeError: no b; the first completion for which it does is number 1: 'b' after 'q'"),
    "arguments": (lambda texts: [1.0, 1.0], "raised TypeError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_invalid_reward_names_the_sample(case):
    reward, words = WRONG[case]
    with pytest.raises(ScratchError) as caught:
        judge(reward, ["p", "q"], ["a", "b"])
    assert words in str(caught.value)


def test_rewards_are_opened_by_name(tmp_path):
    assert judge(open_reward(r"re:\bglad\b"), ["", ""], ["She is glad.", "gladly"]) == [1.0, 0.0]
    (tmp_path / "own.py").write_text(
        "import math\ndef short(prompts, completions, **more):\n    return [math.exp(-len(c)) for c in completions]\n"
        "none = 3\n"
    )
    assert judge(open_reward(f"{tmp_path}/own.py:short"), [""], [""]) == [1.0]
    for name, words in {
        "re:(": "is not a regular expression",
        f"{tmp_path}/own.py:long": "can't be imported: KeyError: 'long'",
        f"{tmp_path}/none.py:f": "can't be imported: FileNotFoundError",
        "no_such_module:f": "can't be imported: ModuleNotFoundError",
        f"{tmp_path}/own.py:none": "is a int, want a function",
        str(tmp_path / "nothing"): "not a classifier that opens",
    }.items():
        with pytest.raises(ScratchError, match=words):
            open_reward(name)


def test_a_classifier_is_a_reward(tmp_path):
    texts = ["good film", "bad film, and long at that"]
    tokenizer = train_tokenizer(texts, "char", model_max_length=64)
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "modern", vocab_size=len(tokenizer), num_labels=2)
    model.config.id2label = {0: "dull", 1: "fine"}
    model.config.label2id = {"dull": 0, "fine": 1}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone = [model(**tokenizer(t, return_tensors="pt")).logits.softmax(-1)[0].tolist() for t in texts]
    for name, label in ((str(tmp_path), 1), (f"{tmp_path}#fine", 1), (f"{tmp_path}#dull", 0)):
        assert judge(open_reward(name), ["", ""], texts) == pytest.approx([p[label] for p in alone], abs=1e-5)
    assert len(judge(open_reward(str(tmp_path)), [""], [""])) == 1
    with pytest.raises(ScratchError, match=r"names the label 'great'; .* has dull, fine"):
        open_reward(f"{tmp_path}#great")
    model.config.problem_type = "multi_label_classification"
    model.save_pretrained(tmp_path)
    alone = [model(**tokenizer(t, return_tensors="pt")).logits.sigmoid()[0, 0].item() for t in texts]
    assert judge(open_reward(f"{tmp_path}#dull"), ["", ""], texts) == pytest.approx(alone, abs=1e-5)


def test_a_reward_model_with_one_output_returns_that_output(tmp_path):
    tokenizer = train_tokenizer(["good film"], "char", model_max_length=64)
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "modern", vocab_size=len(tokenizer), num_labels=1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = model(**tokenizer("good", return_tensors="pt")).logits.item()
    assert judge(open_reward(str(tmp_path)), [""], ["good"]) == pytest.approx([expected], abs=1e-5)


def test_a_model_without_labels_is_rejected_as_a_reward(policy):
    with pytest.raises(ScratchError, match="is a ScratchGPTForCausalLM, which has no labels"):
        open_reward(str(policy[2]))


def test_a_reward_may_return_any_number_type():
    given = [np.float32(0.5), torch.tensor(0.25), True, 2]
    assert judge(lambda prompts, completions: given, [""] * 4, [""] * 4) == [0.5, 0.25, 1.0, 2.0]
    assert judge(lambda prompts, completions: np.ones(1), [""], [""]) == [1.0]
    assert judge(raises, [], []) == []


def test_a_reward_may_import_from_its_folder(tmp_path):
    (tmp_path / "helper.py").write_text("one = 1.0\n")
    (tmp_path / "mine.py").write_text("import helper\ndef f(prompts, completions): return [helper.one]\n")
    assert judge(open_reward(f"{tmp_path}/mine.py:f"), [""], [""]) == [1.0]
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ScratchError, match="can't be imported: SystemExit: 3"):
        open_reward(f"{tmp_path}/leaves.py:f")


# Rollouts.


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def policy(request, tmp_path_factory):
    """A model with generation settings that would change the sampling distribution."""
    folder = save_tiny(tmp_path_factory.mktemp("policy"))
    tokenizer = train_tokenizer(["abcdefgh "], "char")
    model = tiny_model(request.param, vocab_size=len(tokenizer))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.generation_config.suppress_tokens, model.generation_config.repetition_penalty = [6], 1.5
    return model, tokenizer, folder


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_scores_are_log_probabilities_of_the_sampling_distribution(policy, temperature):
    """Scores of completions, for prompts of different lengths in a batch, equal the model's log-probabilities; and the
    frequencies of 4,000 sampled tokens match their probabilities."""
    model, tokenizer, _ = policy
    prompts = [[1, 6, 7], [1], [1, 8, 6, 7, 6]]
    torch.manual_seed(0)
    found = rollouts.generate(model, tokenizer, prompts * 4, 12, temperature, 5, list(range(4 * len(prompts))))
    scored = rollouts.score(model, found, 0, temperature, 4)
    for rollout, (log_probs, _) in zip(found, scored, strict=True):
        ids = torch.tensor([rollout.prompt + rollout.completion])
        logits = model(ids).logits[0, len(rollout.prompt) - 1 : -1] / temperature
        close(log_probs, logits.log_softmax(-1)[range(len(rollout.completion)), rollout.completion])
    draws = rollouts.generate(model, tokenizer, [[1, 6]] * 4000, 1, temperature, 1000, list(range(4000)))
    counts = torch.bincount(torch.tensor([d.completion[0] for d in draws]), minlength=len(tokenizer)) / 4000
    expected = (model(torch.tensor([[1, 6]])).logits[0, -1] / temperature).softmax(-1)
    assert (counts - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5
    assert model.generation_config.suppress_tokens == [6]


def test_a_completion_depends_on_its_seed_and_not_on_its_batch(policy):
    model, tokenizer, _ = policy
    prompts, seeds = [[1, 6, 7], [1], [1, 8, 6, 7, 6]] * 3, list(range(9))
    together = rollouts.generate(model, tokenizer, prompts, 12, 0.8, 9, seeds)
    part = rollouts.generate(model, tokenizer, prompts[7:2:-1], 12, 0.8, 2, seeds[7:2:-1])
    assert [found.completion for found in part] == [found.completion for found in together[7:2:-1]]
    assert len({tuple(found.completion) for found in together}) > 3


def test_rollouts_are_padded_with_aligned_labels(policy):
    found = [Rollout([1, 5], [6, 7, 2], "", log_probs=[-1.0, -2.0, -3.0]), Rollout([1], [8], "", log_probs=[-4.0])]
    rows = rollouts.pad_rollouts(found, 0, old="log_probs")
    assert rows["input_ids"].tolist() == [[1, 5, 6, 7], [1, 0, 0, 0]]
    assert rows["labels"].tolist() == [[-100, 6, 7, 2], [8, -100, -100, -100]]
    assert rows["old"].tolist() == [[0, -1, -2, -3], [-4, 0, 0, 0]]


def test_completions_end_at_the_end_token(policy):
    model, tokenizer, _ = policy
    found = rollouts.generate(model, tokenizer, [[1]] * 200, 30, 1.0, 64, list(range(200)))
    ended = [r for r in found if r.completion[-1] == 2]
    assert ended
    assert all(2 not in r.completion[:-1] for r in found)
    assert all(len(r.completion) == 30 for r in found if r not in ended)


def test_distinct_word_bigrams():
    assert rollouts.distinct_ngrams(["a b a b", "a b"]) == 2 / 4
    assert rollouts.distinct_ngrams(["a", ""]) == 0.0
