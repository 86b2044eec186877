"""Learning from rewards, two rollouts at a time and by hand: what advantages and losses are made of, with which signs;
and rollouts are written and scored by the model as it is used, without dropout."""

import math

import pytest
import torch
from accelerate import Accelerator
from helpers.models import randomise, tiny_config

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.rl import rollouts
from scratch_gpt.rl.rollouts import Rollout
from scratch_gpt.rl.value_head import add_value_head
from scratch_gpt.train.engine.task import DataState
from scratch_gpt.train.tasks.policy_gradient.arguments import PolicyArguments
from scratch_gpt.train.tasks.policy_gradient.task import PolicyGradient

PROMPTS = {"train": ["a", "bc", "def", "gh"], "validation": ["b", "ag"]}


def task_of(dropout: float = 0.0, value_head: bool = False, reward=None, **settings) -> PolicyGradient:
    """A policy in training mode, and a reference with other weights."""
    tokenizer, dropouts = train_tokenizer(["abcdefgh "], "char"), ("embedding", "attention", "residual")
    fields = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        **{f"{kind}_dropout": dropout for kind in dropouts},
    }
    policy, reference = (
        randomise(ScratchGPTForCausalLM(tiny_config("llama", **fields)), seed=seed, std=0.1) for seed in (1, 2)
    )
    if value_head:
        add_value_head(policy)
        randomise(policy.value_head, seed=3)
    args = PolicyArguments(prompts_per_rollout=4, max_new_tokens=6, **settings).resolve_defaults(1)
    reward = reward or (lambda prompts, completions: [float(len(text)) for text in completions])
    return PolicyGradient(Accelerator(cpu=True), policy.train(), reference, tokenizer, reward, PROMPTS, args)


def two_rollouts() -> list[Rollout]:
    """Rollouts of two tokens and one. The policy prefers the first token more than the reference does, others less."""
    first = Rollout([1, 5], [6, 7], "ab", reward=3.0, log_probs=[-1.0, -2.0], reference_log_probs=[-1.5, -1.2])
    other = Rollout([1], [8], "c", reward=1.0, log_probs=[-2.0], reference_log_probs=[-1.0])
    first.values, other.values = [0.5, 1.0], [0.25]
    return [first, other]


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


def test_advantages_of_ppo_by_hand():
    """Rewards of the tokens are -0.1 · (log p - log p_ref), with the score added to the last: with gamma 1 and lambda
    0.5,

        r = (-0.05, 0.08 + 3) and (0.1 + 1)      V = (0.5, 1.0) and (0.25)
        A = (-0.05 + 1.0 - 0.5 + 0.5 · 2.08, 3.08 - 1.0) and (1.1 - 0.25) = (1.49, 2.08) and (0.85)

    which are whitened over all three: minus their mean, over their standard deviation. Returns A + V are not."""
    task = task_of(algorithm="ppo", kl_coefficient=0.1, gamma=1.0, gae_lambda=0.5, batch_size=2)
    found = two_rollouts()
    task._set_advantages(found)
    raw = torch.tensor([1.49, 2.08, 0.85])
    white = (raw - raw.mean()) / raw.std()
    close(found[0].advantages + found[1].advantages, white.tolist())
    close(found[0].returns + found[1].returns, [1.99, 3.08, 1.1])


def test_advantages_of_reinforce_by_hand():
    """Scores minus 0.1 · KL are 3 - 0.1 · (0.5 - 0.8) = 3.03 and 1 + 0.1 = 1.1; each minus the other; not whitened."""
    task = task_of(algorithm="reinforce", kl_coefficient=0.1, batch_size=4)
    found = two_rollouts()
    task._set_advantages(found)
    close(found[0].advantages, [1.93, 1.93])
    close(found[1].advantages, [-1.93])


def test_advantages_of_grpo_by_hand():
    """Scores relative to the group, in units of its deviation; the KL is in the loss instead."""
    task = task_of(algorithm="grpo", kl_coefficient=0.1, num_generations=2, batch_size=2)
    found = two_rollouts()
    task._set_advantages(found)
    deviation = math.sqrt(2.0) + 1e-4
    close(found[0].advantages, [1 / deviation] * 2)
    close(found[1].advantages, [-1 / deviation])


@pytest.mark.parametrize("entropy_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "grpo"])
def test_the_loss_of_two_rollouts_by_hand(algorithm, entropy_coefficient):
    """Token by token, by torch's distributions: the sum over the tokens of

        reinforce   -A log p
        grpo        max(-A r, -A clip(r)) + 0.4 · (p_ref / p - log(p_ref / p) - 1)     r = p / p_old
        ppo         max(-A r, -A clip(r)) + 0.7 · 1/2 max((V - R)², (V_old + clip(V - V_old) - R)²)

    each minus the entropy coefficient times the entropy: distance to the reference is penalised, entropy rewarded."""
    settings = {"kl_coefficient": 0.4, "entropy_coefficient": entropy_coefficient, "batch_size": 4, "temperature": 0.8}
    if algorithm != "reinforce":
        settings["clip_range"] = 0.1
    if algorithm == "ppo":
        settings |= {"value_coefficient": 0.7, "value_clip_range": 0.2}
    if algorithm == "grpo":
        settings["num_generations"] = 2
    task = task_of(value_head=algorithm == "ppo", algorithm=algorithm, **settings)
    task.round = two_rollouts()
    task.samples = 2
    task._set_advantages(task.round)
    batch = task._batch(0, 0)
    total = 0.0
    for rollout in task.round:
        ids = torch.tensor([rollout.prompt + rollout.completion])
        out = task.policy(ids, output_hidden_states=True)
        for i, token in enumerate(rollout.completion):
            at = len(rollout.prompt) - 1 + i
            drawn = torch.distributions.Categorical(logits=out.logits[0, at] / 0.8)
            log_p, advantage = drawn.log_prob(torch.tensor(token)), rollout.advantages[i]
            ratio = (log_p - rollout.log_probs[i]).exp()
            clipped = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.9, 1.1))
            loss = -advantage * log_p if algorithm == "reinforce" else clipped
            if algorithm == "grpo":
                difference = rollout.reference_log_probs[i] - log_p
                loss = loss + 0.4 * (difference.exp() - difference - 1)
            if algorithm == "ppo":
                value = task.policy.value_head(out.hidden_states[-1])[0, at]
                old, expected = rollout.values[i], rollout.returns[i]
                clipped_value = old + (value - old).clamp(-0.2, 0.2)
                loss = loss + 0.7 * 0.5 * torch.maximum((value - expected) ** 2, (clipped_value - expected) ** 2)
            total = total + loss - entropy_coefficient * drawn.entropy()
    assert task.count(batch) == 3
    assert task.loss(task.policy, batch).item() == pytest.approx(total.item(), rel=1e-4)


# --- dropout ---------------------------------------------------------------------------------------------


def test_rollouts_are_sampled_and_scored_without_dropout():
    """A policy in training with dropout 0.5 samples the same as one without. Log-probabilities are those of both models
    in evaluation mode, and the policy stays in training mode."""
    with_dropout, without = (task_of(dropout, algorithm="ppo", batch_size=4) for dropout in (0.5, 0.0))
    for one, other in ((with_dropout.policy, without.policy), (with_dropout.reference, without.reference)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    rounds = []
    for task in (with_dropout, without):
        next(task.batches(DataState()))
        assert task.policy.training
        assert not task.reference.training
        rounds.append([(r.completion, r.log_probs, r.reference_log_probs) for r in task.round])
    assert rounds[0] == rounds[1]
    plain = without.policy.eval()
    for rollout in with_dropout.round:
        logits = plain(torch.tensor([rollout.prompt + rollout.completion])).logits[0, len(rollout.prompt) - 1 : -1]
        close(rollout.log_probs, logits.log_softmax(-1)[range(len(rollout.completion)), rollout.completion].tolist())
    assert with_dropout.evaluate(with_dropout.policy) == without.evaluate(without.policy)


def test_rounds_differ_and_a_repeated_round_is_the_same():
    task = task_of(algorithm="ppo", batch_size=4)
    rounds = [[r.completion for r in task._sample_round(number)] for number in (0, 1, 0)]
    assert rounds[0] == rounds[2]
    assert rounds[0] != rounds[1]


def test_completions_of_one_prompt_differ():
    task = task_of(algorithm="grpo", num_generations=4, batch_size=4)
    found = task._sample_round(0)
    for prompt in range(4):
        group = found[4 * prompt : 4 * prompt + 4]
        assert len({tuple(r.prompt) for r in group}) == 1
        assert len({tuple(r.completion) for r in group}) > 1


def test_the_reported_kl_is_of_the_policy_to_the_reference():
    """log p - log p_ref of the policy's samples, summed over a completion and averaged over completions."""
    first, other = two_rollouts()
    assert first.kl == pytest.approx(0.5 - 0.8)
    assert other.kl == pytest.approx(-1.0)
    found = rollouts.metrics_of([first, other])
    assert found["kl"] == pytest.approx((-0.3 - 1.0) / 2)
    assert found["reference_perplexity"] == pytest.approx(math.exp((1.5 + 1.2 + 1.0) / 3))
    assert (found["reward"], found["length"]) == (2.0, 1.5)
