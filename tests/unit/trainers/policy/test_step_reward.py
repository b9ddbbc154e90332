"""Step rewards and the rollout that compares candidates, on ComfyUI's real modules."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import RewardInfo, Scores, score
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.fits import pairs_only
from posttrain.trainers.feedback.labels import labels
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.judges.completions import compared_states, state_values
from posttrain.trainers.judges.step_reward import noised_states, score_latents, train_step_reward
from posttrain.trainers.judges.step_rollout import Candidates, step_rollout
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.paths import PATHS, noise_share, sigma_at
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.features import block_features, feature_blocks
from posttrain.trainers.sampling.rollout import Rollout, rollout
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from small_models import ARCHITECTURES, SIZE, PlainVAE, prompts_for, small_model, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)


class Brightness:
    """Higher = brighter: differs between candidates, and knows nothing of prompts."""

    info = RewardInfo("brightness", 0, 1, False, True, "mean of all pixels")

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def fresh_policy(kind: str):
    return create_policy(small_model(kind), Recipe(rank=4, targets="all linear layers and convolutions"))


def states_of(kind: str, count: int = 5):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, *SIZE[kind], generator=generator), torch.full((count,), 0.5), [i % 2 for i in range(count)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_network_has_features_and_is_left_as_it_was(kind):
    policy = fresh_policy(kind)
    x, sigma, index = states_of(kind)
    with open_policy(policy) as net:
        blocks = feature_blocks(net)
        found = block_features(net, blocks, x, sigma, prompts_for(kind), index)
        assert found.shape[0] == 5 and found.shape[1] >= 32 and bool(found.isfinite().all())
        one_by_one = torch.cat([block_features(net, blocks, x[i:i + 1], sigma[i:i + 1], prompts_for(kind), index[i:i + 1])
                                for i in range(5)])
        torch.testing.assert_close(found, one_by_one, rtol=1e-3, atol=1e-4)
        assert not any(module._forward_hooks for module in net.diffusion_model.modules())
        later = block_features(net, blocks, x, sigma * 0.5, prompts_for(kind), index)
        assert not torch.allclose(found, later, atol=1e-3), "they see the noise level"


@pytest.mark.parametrize("kind", ["sd15", "flux", "lumina"])
def test_features_of_prompts_of_different_lengths_come_back_in_order(kind):
    policy, (x, sigma, index) = fresh_policy(kind), states_of(kind)
    prompts = prompts_for(kind, (4, 9))
    with open_policy(policy) as net:
        blocks = feature_blocks(net)
        together = block_features(net, blocks, x, sigma, prompts, index)
        for i in range(5):
            alone = block_features(net, blocks, x[i:i + 1], sigma[i:i + 1], prompts, index[i:i + 1])
            torch.testing.assert_close(together[i:i + 1], alone, rtol=1e-3, atol=1e-4)


def test_features_are_the_references_and_stop_at_the_last_block_asked_for():
    x, sigma, index = states_of("sd3")
    found = []
    for policy in (fresh_policy("sd3"), trained_policy("sd3")):
        with open_policy(policy) as net:
            after = []
            hook = net.diffusion_model.final_layer.register_forward_hook(lambda *_: after.append(1))
            found.append(block_features(net, feature_blocks(net), x, sigma, prompts_for("sd3"), index))
            hook.remove()
            assert net.evaluations == 5 and not after
    assert torch.equal(*found)


@pytest.mark.parametrize("path", PATHS.values())
def test_the_share_of_noise_and_its_inverse(path):
    share = torch.tensor([0.05, 0.3, 0.9])
    torch.testing.assert_close(noise_share(path, sigma_at(path, share)), share)


def contrast(kind: str, prompts: int = 10, each: int = 6):
    """A rollout whose images differ in one direction that the pairs prefer. Each prompt of its own text."""
    from posttrain.rewards.base.reward import Prompt
    from posttrain.trainers.prompts import PromptSet
    from small_models import conditioning
    random = torch.Generator().manual_seed(2)
    amount = torch.linspace(-1, 1, each).repeat(prompts)
    pattern = torch.randn(SIZE[kind], generator=random)
    latents = 0.5 * torch.randn(prompts * each, *SIZE[kind], generator=random) + amount[:, None, None, None] * pattern
    index = torch.arange(prompts).repeat_interleave(each)
    texts = PromptSet(tuple(Prompt(str(i)) for i in range(prompts)), tuple(conditioning(kind, i) for i in range(prompts)))
    run = Rollout(latents, torch.zeros(len(index), 8, 8, 3), texts, index, torch.arange(len(index)), 1.0,
                  torch.linspace(1, 0, 9), None, 16)
    return run, Scores(amount.double(), index, {}, {})


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_it_learns_what_the_pairs_prefer_and_shows_its_accuracy(kind):
    run, scores = contrast(kind)
    pairs, policy = preferences(scores, "all pairs"), fresh_policy(kind)
    reward = train_step_reward(policy, run, lambda path: noised_states(run, pairs, path, 3), 20)
    assert reward.accuracy["all"] > 0.8 and reward.accuracy["little"] > 0.8
    assert reward.pairs == 3 * 8 * 15, "a fifth of the prompts is held out"
    assert "right on prompts that it was not trained on" in reward.summary()
    judged = score_latents(policy, run, reward)
    assert judged.values.shape == scores.values.shape
    right = judged.values[pairs.winner] > judged.values[pairs.loser]
    assert float(right.double().mean()) > 0.85


def test_on_random_preferences_its_accuracy_is_chance():
    run, scores = contrast("sd3", prompts=20)
    random = replace(scores, values=torch.rand(len(scores.values), generator=torch.Generator().manual_seed(0)).double())
    pairs = preferences(random, "all pairs")
    reward = train_step_reward(fresh_policy("sd3"), run, lambda path: noised_states(run, pairs, path, 3), 20)
    assert 0.3 < reward.accuracy["all"] < 0.7


def test_states_of_a_pair_share_noise_and_level_and_every_level_is_met():
    run, scores = contrast("sd3")
    pairs = preferences(scores)
    states = noised_states(run, pairs, PATHS["flow"], 4)
    assert len(states.winner) == 4 * len(pairs.winner)
    assert torch.equal(states.sigma[states.winner], states.sigma[states.loser])
    assert torch.equal(states.index[states.winner], states.index[states.loser])
    share = states.sigma[states.winner].reshape(4, -1)
    assert bool((share.amax(1)[:-1] < share.amin(1)[1:]).all()) and float(share.min()) >= 0.05 and float(share.max()) <= 0.9
    noise = (states.x - (1 - states.sigma)[:, None, None, None] * run.latents[torch.cat([pairs.winner, pairs.loser]).unique()]
             .repeat(4, 1, 1, 1)) / states.sigma[:, None, None, None]
    torch.testing.assert_close(noise[states.winner], noise[states.loser], rtol=1e-3, atol=1e-3)


def test_one_prompt_leaves_nothing_to_measure_on_and_says_so():
    run, scores = contrast("sd3", prompts=1)
    pairs = preferences(scores, "all pairs")
    reward = train_step_reward(fresh_policy("sd3"), run, lambda path: noised_states(run, pairs, path, 2), 2)
    assert math.isnan(reward.accuracy["all"]) and "one prompt only" in reward.summary()


def test_a_step_reward_of_another_model_is_refused():
    run, scores = contrast("sd15")
    pairs = preferences(scores)
    reward = train_step_reward(fresh_policy("sd15"), run, lambda path: noised_states(run, pairs, path, 1), 1)
    with pytest.raises(ValueError, match="trained on another model"):
        score_latents(fresh_policy("sd3"), contrast("sd3")[0], reward)


def test_wrong_input_is_named():
    run, scores = contrast("sd3")
    policy, pairs = fresh_policy("sd3"), preferences(scores)
    with pytest.raises(ValueError, match="rounds"):
        train_step_reward(policy, run, lambda path: noised_states(run, pairs, path, 1), 0)
    with pytest.raises(ValueError, match="levels"):
        train_step_reward(policy, run, lambda path: noised_states(run, pairs, path, 0))
    nothing = preferences(replace(scores, values=torch.zeros_like(scores.values)))
    with pytest.raises(ValueError, match="no pair to train on"):
        train_step_reward(policy, run, lambda path: noised_states(run, nothing, path, 1))
    with pytest.raises(ValueError, match="pairs of images.*Preferences"):
        pairs_only(labels(scores), run)


def made(kind: str, policy=None, **settings):
    policy = policy or trained_policy(kind)
    return policy, rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0)


def test_the_last_random_state_is_worth_what_its_image_scores():
    """From there on nothing is random, so its completion is the rollout's own image."""
    policy, run = made("sd3")
    values = state_values(policy, run, PlainVAE(), Brightness(), 2)
    assert values.shape == (8, 3)
    torch.testing.assert_close(values[:, -1], score(Brightness(), run.images, run.prompts_of_samples(), run.index).values,
                               rtol=1e-5, atol=1e-5)


def test_completions_are_random_and_their_mean_is_the_value():
    policy, run = made("sd3")
    one, two = (state_values(policy, run, PlainVAE(), Brightness(), count) for count in (1, 2))
    assert not torch.allclose(one[:, 0], two[:, 0], atol=1e-6) and torch.allclose(one[:, -1], two[:, -1])
    assert torch.equal(one, state_values(policy, run, PlainVAE(), Brightness(), 1)), "the same seeds, the same completions"
    with pytest.raises(ValueError, match="completions"):
        state_values(policy, run, PlainVAE(), Brightness(), 0)
    with pytest.raises(ValueError, match="no step was random"):
        state_values(policy, replace(run, trajectory=None), PlainVAE(), Brightness(), 1)


def test_states_are_compared_after_the_same_step_of_the_same_prompt():
    policy, run = made("sd3")
    values = state_values(policy, run, PlainVAE(), Brightness(), 1)
    states = compared_states(run, values)
    assert len(states.winner) == 2 * 3 * 6 and states.x.shape == (24, *SIZE["sd3"])
    assert torch.equal(states.sigma[states.winner], states.sigma[states.loser])
    assert torch.equal(states.index[states.winner], states.index[states.loser])
    assert bool((values.flatten()[states.winner] > values.flatten()[states.loser]).all())
    assert torch.equal(states.x[1], run.trajectory.states[0, 2]) and states.sigma[1] == run.trajectory.sigmas[2]
    reward = train_step_reward(policy, run, lambda path: states, 2)
    assert reward.pairs == 18


def stepped(kind: str, judge=None, policy=None, **options):
    policy = policy or trained_policy(kind)
    candidates = Candidates(**{"count": 3, "threshold": 0.0, **options.pop("candidates", {})})
    run, pairs = step_rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **options), 0, judge or Brightness(),
                              candidates)
    return policy, run, pairs


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_candidates_share_their_state_and_the_best_and_worst_are_the_pair(kind):
    policy, run, pairs = stepped(kind, guidance=2.0)
    assert run.trajectory.states.shape[1] == 4 and len(pairs.rows) == 8 * 3 and pairs.stats["kept_share"] == 1
    assert bool((pairs.margin > 0).all())
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for which, states in (("winner", pairs.winner), ("loser", pairs.loser)):
            x0 = net.denoise(states, run.trajectory.sigmas[pairs.steps + 1], run.prompts, run.index[pairs.rows], 2.0, bank)
            found = PlainVAE().decode(policy.model.model.process_latent_out(x0)).clamp(0, 1).mean((1, 2, 3))
            best = found if which == "winner" else best - found
    torch.testing.assert_close(best, pairs.margin, rtol=1e-2, atol=1e-4)
    reached = run.trajectory.states[pairs.rows, pairs.steps + 1]
    is_winner, is_loser = ((reached == states).flatten(1).all(1) for states in (pairs.winner, pairs.loser))
    assert bool(is_winner.any()) and bool(is_loser.any()) and not bool((is_winner | is_loser).all()), "goes on at random"


@pytest.mark.parametrize("guidance, factor", [(1.0, 1), (2.0, 2)])
def test_judging_estimates_costs_one_evaluation_of_each_candidate(guidance, factor):
    _, run, _ = stepped("sd3", guidance=guidance)
    assert run.evaluations == factor * (8 + 3 * 3 * 8), "the chosen candidate's estimate serves the next step"


def test_a_step_reward_judges_without_decoding():
    policy = fresh_policy("sd3")
    data, scores = contrast("sd3", 2)
    pairs = preferences(scores)
    judge = train_step_reward(policy, data, lambda path: noised_states(data, pairs, path, 1), 1)
    _, run, found = stepped("sd3", judge, policy)
    assert run.evaluations == 4 * 8 + 3 * 3 * 8 and math.isfinite(found.stats["reward_mean"])
    new = train_step(policy, run, found, Trainer(SPO(), Optimizer(learning_rate=1e-3)))
    assert new.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6) and new.metrics["pairs"] == len(found.rows)


def test_spo_makes_the_preferred_candidates_likelier():
    policy, run, pairs = stepped("sd3", policy=fresh_policy("sd3"))
    trainer = Trainer(SPO(), Optimizer(learning_rate=3e-4))
    first = train_step(policy, run, pairs, trainer)
    second = train_step(first, run, pairs, trainer).metrics
    assert second["winner_gain"] > second["loser_gain"] and second["accuracy"] > 0.7
    assert first.metrics["update_evaluations"] == 2 * len(pairs.rows)


def test_pairs_of_which_the_judge_is_unsure_are_left_out():
    margins = stepped("sd3")[2].margin
    sure = (margins * 10 / 2).tanh().sort().values
    line = float(sure[12:14].mean())
    _, _, pairs = stepped("sd3", candidates={"threshold": line, "sharpness": 10.0})
    assert len(pairs.rows) == len(margins) - 13 == 11


def test_a_judge_that_fails_leaves_no_pair():
    class Broken(Brightness):
        def __call__(self, images, prompts):
            return torch.full((len(images),), torch.nan)

    policy, run, pairs = stepped("sd3", Broken())
    assert len(pairs.rows) == 0 and pairs.stats["failed"] == 8
    assert train_step(policy, run, pairs, Trainer(SPO(), Optimizer())).metrics["updates"] == 0


def test_the_same_iteration_compares_the_same_candidates():
    first, again = stepped("sd3"), stepped("sd3")
    assert torch.equal(first[2].winner, again[2].winner) and torch.equal(first[1].latents, again[1].latents)


def test_a_window_of_random_steps_is_honoured():
    _, run, pairs = stepped("sd3", steps=6, first_noisy_step=2, noisy_steps=2)
    assert run.trajectory.steps == 2 and set(pairs.steps.tolist()) == {0, 1}
    assert torch.equal(run.trajectory.sigmas, run.sigmas[2:5])
    assert run.evaluations == 8 * 3 + 2 * 3 * 8 + 8, "steps 0, 1, 2, then two judged ones, then the last"


@pytest.mark.parametrize("options, message", [
    ({"candidates": {"count": 1}}, "candidates"), ({"candidates": {"threshold": 1.0}}, "threshold"),
    ({"candidates": {"sharpness": 0.0}}, "sharpness"), ({"transition": "deterministic"}, "no step is random")])
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        stepped("sd3", **options)


def test_it_works_as_nodes_run_it():
    with torch.inference_mode():
        policy, run, pairs = stepped("sd3", policy=fresh_policy("sd3"))
        new = train_step(policy, run, pairs, Trainer(SPO(), Optimizer()))
        data, scores = contrast("sd3", 2)
        found = preferences(scores)
        judge = train_step_reward(policy, data, lambda path: noised_states(data, found, path, 1), 1)
        assert score_latents(policy, data, judge).values.isfinite().all()
    assert new.metrics["updates"] == 1
