"""Preference trainers on ComfyUI's real modules: what they start from, where they go, what they cost."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers import spo
from posttrain.trainers.d3po import D3PO, rebuilt
from posttrain.trainers.diffusion_dpo import DiffusionDPO, train_dpo
from posttrain.trainers.engine.renoise import Renoised, noised, pair_errors, paired
from posttrain.trainers.engine.update import SKIPPED, Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.feedback.step_pairs import StepPreferences
from posttrain.trainers.kto import KTO, ReferencePoints
from posttrain.trainers.mapo import MaPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.noise.transitions import ddim, log_prob
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.sampling.rollout import rollout, rollout_from_latents
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from small_models import PlainVAE, prompts_for, small_model, trained_policy

SMALL = Sampling(steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4,
                 noisy_steps=2)
KINDS = ("sd15", "sd2_v", "sd3")
ONE = Optimizer(learning_rate=1e-3)


def fresh_policy(kind: str):
    return create_policy(small_model(kind), Recipe(rank=4, targets="all linear layers and convolutions"))


def made(kind: str, policy=None, **settings):
    policy = policy or trained_policy(kind)
    run = rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0)
    return policy, run, Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})


def in_step_pairs(run, seed: int = 1) -> StepPreferences:
    """One pair of candidates at each step of each sample: what was reached, and the same with other noise."""
    rows, steps = (t.flatten() for t in torch.meshgrid(torch.arange(8), torch.arange(run.trajectory.steps),
                                                       indexing="ij"))
    reached, mean = run.trajectory.states[rows, steps + 1], run.trajectory.means[rows, steps]
    std = (reached - mean).flatten(1).std(1)[:, None, None, None]
    other = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    return StepPreferences(rows, steps, reached, other, torch.ones(len(rows)), {"failed": 0.0, "pairs": len(rows)})


def feedback_for(settings, run, scores):
    if isinstance(settings, KTO):
        return labels(scores)
    return in_step_pairs(run) if isinstance(settings, SPO) else preferences(scores)


ALL = (DiffusionDPO(), DiffusionDPO(safeguard=0.9), MaPO(), KTO(), D3PO(), SPO(), SPO(weighting="by noise"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings, start", [
    (DiffusionDPO(), math.log(2)), (DiffusionDPO(safeguard=0.9), math.log(2)), (KTO(), 0.5), (KTO(balance=False), 0.5),
    (D3PO(), math.log(2)), (SPO(), math.log(2)), (SPO(weighting="by noise"), math.log(2))])
def test_the_loss_starts_where_it_must(kind, settings, start):
    """A fresh bank is the reference: no pair is preferred yet, through the real network and at every noise level."""
    policy, run, scores = made(kind, fresh_policy(kind))
    new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
    # weights of a balanced KTO and of SPO's steps average to 1 over the batch, up to its last digits
    assert new.metrics["loss"] == pytest.approx(start, abs=2e-6)
    assert new.metrics["updates"] == 1 and new.metrics["grad_norm"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings, evaluations", [
    (DiffusionDPO(levels=3), 2 * 3 * 4), (MaPO(levels=3), 2 * 3 * 2), (DiffusionDPO(levels=1, safeguard=0.5), 2 * 4),
    (D3PO(), 2 * 2 * 4), (SPO(), 16 * 2), (KTO(levels=1), 8 * 3)])
def test_each_evaluates_the_network_no_more_than_it_needs(kind, settings, evaluations):
    """2 pairs, 8 thumbs, 2 random steps. DPO 4 per pair and level, MaPO without the reference 2, SPO 2 per pair."""
    policy, run, scores = made(kind)
    new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
    assert new.metrics["update_evaluations"] == evaluations


def test_a_kto_step_of_one_micro_batch_needs_no_second_pass():
    policy, run, scores = made("sd3")
    whole = replace(run, batch_size=8)
    assert train_step(policy, whole, labels(scores), Trainer(KTO(levels=1), ONE)).metrics["update_evaluations"] == 16


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_shares_noise_and_level(kind):
    policy, run, scores = made(kind)
    pairs = preferences(scores, "all pairs")
    (micros,) = paired(run, pairs, 3, 1)
    assert sum(micro.size for micro in micros) == 2 * 3 * len(pairs.winner)
    for micro in micros:
        (w, l), (sw, sl), (nw, nl) = (t.chunk(2) for t in (micro.rows, micro.sigma, micro.noise))
        assert torch.equal(sw, sl) and torch.equal(nw, nl) and torch.equal(run.index[w], run.index[l])
        assert bool((scores.values[w] > scores.values[l]).all())
    noises = torch.cat([micro.noise.chunk(2)[0] for micro in micros]).flatten(1)
    assert len(noises.unique(dim=0)) == len(noises), "every pair and level has noise of its own"


def errors(policy, run, pairs, bank_of, levels: int = 4):
    """[2, levels * pairs]: winners' and losers' errors under this policy's weights."""
    found = []
    with open_policy(policy) as net:
        for micro in paired(run, pairs, levels, 1)[0]:
            question = Renoised(net, run, micro)
            found.append(question.error(question.ask(net.to_device(bank_of.bank))).reshape(2, -1))
    return torch.cat(found, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [DiffusionDPO(), DiffusionDPO(safeguard=0.9), MaPO(beta=10.0), KTO()])
def test_a_step_lowers_the_winners_error_against_the_losers(kind, settings):
    policy, run, scores = made(kind)
    new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, Optimizer(learning_rate=1e-4)))
    pairs = preferences(scores)
    change = (errors(policy, run, pairs, new) - errors(policy, run, pairs, policy)).mean(1)
    assert change[0] < change[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [D3PO(), SPO()])
def test_a_step_makes_the_winners_steps_likelier_than_the_losers(kind, settings):
    policy, run, scores = made(kind, fresh_policy(kind))
    trainer = Trainer(settings, Optimizer(learning_rate=3e-4))
    new = train_step(policy, run, feedback_for(settings, run, scores), trainer)
    after = train_step(new, run, feedback_for(settings, run, scores), trainer).metrics
    assert after["winner_gain"] > after["loser_gain"] and after["loss"] < new.metrics["loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_winner_and_loser_turns_the_first_step_round(kind):
    policy, run, scores = made(kind, fresh_policy(kind))
    pairs = preferences(scores)
    turned = replace(pairs, winner=pairs.loser, loser=pairs.winner)
    # the same noise for both, whatever the order of its seeds
    run = replace(run, seeds=torch.zeros_like(run.seeds))
    moments = []
    for chosen in (pairs, turned):
        new = train_step(policy, run, chosen, Trainer(DiffusionDPO(), Optimizer(max_grad_norm=0)))
        moments.append(torch.cat([v.flatten() for k, v in sorted(new.optimizer.items()) if k.endswith("exp_avg")]))
    torch.testing.assert_close(moments[0], -moments[1], rtol=1e-3, atol=1e-6 * float(moments[0].abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [SPO(), SPO(weighting="by noise")])
def test_swapping_the_candidates_of_a_step_turns_spos_first_step_round(kind, settings):
    """At the start the loss is odd in (winner, loser): both are pushed, as far as each other."""
    policy, run, _ = made(kind, fresh_policy(kind))
    pairs = in_step_pairs(run)
    moments = []
    for chosen in (pairs, replace(pairs, winner=pairs.loser, loser=pairs.winner)):
        new = train_step(policy, run, chosen, Trainer(settings, Optimizer(max_grad_norm=0)))
        moments.append(torch.cat([v.flatten() for k, v in sorted(new.optimizer.items()) if k.endswith("exp_avg")]))
    assert moments[0].abs().max() > 0
    torch.testing.assert_close(moments[0], -moments[1], rtol=1e-3, atol=1e-5 * float(moments[0].abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_weighted_by_the_noise_of_the_papers(kind):
    """TempFlow-GRPO's sigma_t sqrt(Delta_t) for flow; for eps and v the DDPM step's own sigma_t, of states of unit size."""
    policy, run, _ = made(kind, noisy_steps=0)
    sigma, sigma_next = run.trajectory.sigmas[:-1], run.trajectory.sigmas[1:]
    if kind == "sd3":
        rest = 1 - torch.where(sigma >= 1, sigma_next, sigma)
        expected = 0.7 * (sigma / rest * (sigma - sigma_next)).sqrt()
    else:
        bar, bar_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        expected = ((1 - bar_next) / (1 - bar) * (1 - bar / bar_next)).sqrt()
    torch.testing.assert_close(spo._noise_of_steps(policy, run.trajectory), expected, rtol=1e-4, atol=1e-6)


def trap(kind: str):
    """Pairs whose losers err in the winners' direction, only further: to push the loser away pushes the winner too."""
    policy, run, scores = made(kind)
    pairs, latents = preferences(scores), run.latents.clone()
    latents[pairs.loser] = 3 * latents[pairs.winner]
    return policy, replace(run, latents=latents), pairs


@pytest.mark.parametrize("kind", KINDS)
def test_the_safeguard_keeps_the_winners_error_from_rising(kind):
    """To first order, in the space of predictions, for every pair; without it most of them rise here."""
    policy, run, pairs = trap(kind)
    rises = {None: [], 0.9: []}
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for micro in paired(run, pairs, 2, 1)[0]:
            question = Renoised(net, run, micro)
            x0 = question.ask(bank)
            for safeguard, found in rises.items():
                found.append(rise_of_winners(question, x0, safeguard))
    assert bool((torch.cat(rises[None]) > 0).any()), "it is needed"
    assert bool((torch.cat(rises[0.9]) < 0).all()), "and it works"


def rise_of_winners(question: Renoised, x0: torch.Tensor, safeguard) -> torch.Tensor:
    """[P]: rate of each winner's error when a shared network moves its answer by the sum of both gradients."""
    with torch.enable_grad():
        x0 = x0.detach().requires_grad_(True)
        winner, loser = pair_errors(question, x0, safeguard)
        up, = torch.autograd.grad(winner.sum() - loser.sum(), x0)
    pull, push = up.chunk(2)
    return -(pull * (pull + push)).flatten(1).sum(1)


def test_the_safeguard_keeps_winners_through_the_network():
    policy, run, pairs = trap("sd3")
    changes = []
    for safeguard in (None, 0.9):
        new = policy
        for _ in range(3):
            new = train_step(new, run, pairs, Trainer(DiffusionDPO(safeguard=safeguard), Optimizer(learning_rate=1e-3)))
        changes.append(float((errors(policy, run, pairs, new) - errors(policy, run, pairs, policy))[0].mean()))
    assert changes[1] < changes[0] and changes[0] > 0, changes


def test_ktos_reference_point_is_the_whole_batchs():
    policy, run, scores = made("sd3")
    thumbs = labels(scores)
    used = torch.ones(8, dtype=torch.bool)
    found, direct = [], []
    for size in (8, 4, 3, 1):
        cut = replace(run, batch_size=size)
        steps = noised(cut, used, 2, 1, size)
        points = ReferencePoints(cut, steps)
        with open_policy(policy) as net:
            bank = net.to_device(policy.bank)
            answers = [(question.error(question.ask(bank)), question.error(question.ask(None)))
                       for question in (Renoised(net, cut, micro) for micro in steps[0])]
            found.append([float(points.of(net, bank, micro, error)[0]) for micro, (error, _) in zip(steps[0], answers)])
            direct.append(float(torch.cat([r - e for e, r in answers]).mean().clamp_min(0)))
    for z, mean in zip(found, direct):
        assert z == pytest.approx([mean] * len(z), rel=1e-5) and mean == pytest.approx(direct[0], rel=1e-4)
    steps = [train_step(policy, replace(run, batch_size=size), thumbs, Trainer(KTO(), Optimizer(max_grad_norm=0)))
             for size in (8, 3)]
    assert steps[0].metrics["grad_norm"] == pytest.approx(steps[1].metrics["grad_norm"], rel=1e-3)
    assert steps[0].metrics["reference_point"] == pytest.approx(steps[1].metrics["reference_point"], rel=1e-4)


def test_the_reference_point_is_not_zero_for_a_better_policy():
    """z is clamped at 0, so the test above would pass without one: here the policy fits the batch better."""
    policy, run, scores = made("sd3", fresh_policy("sd3"))
    up = Labels(torch.arange(8), torch.ones(8, dtype=torch.bool), run.index, {"failed": 0.0})
    trainer = Trainer(KTO(levels=2), Optimizer(learning_rate=1e-3))
    for _ in range(2):
        policy = train_step(policy, run, up, trainer)
    found = train_step(policy, run, up, trainer).metrics
    assert found["reference_point"] > 0 and found["winner_change"] < 0


def test_kto_reports_how_far_it_is_from_the_reference():
    policy, run, scores = made("sd3", fresh_policy("sd3"))
    trainer = Trainer(KTO(levels=2), Optimizer(learning_rate=1e-3))
    first = train_step(policy, run, labels(scores), trainer)
    assert first.metrics["kl"] == 0, "the policy starts as its reference"
    steps = noised(replace(run, iteration=first.iteration), torch.ones(8, dtype=torch.bool), 2, 1, run.batch_size)
    with open_policy(first) as net, torch.no_grad():
        bank, apart = net.to_device(first.bank), []
        for micro in steps[0]:
            question = Renoised(net, run, micro)
            apart.append(((question.prediction(question.ask(bank)) - question.prediction(question.ask(None))) ** 2).mean())
    assert train_step(first, run, labels(scores), trainer).metrics["kl"] == pytest.approx(float(sum(apart) / len(apart)), rel=1e-4)


def test_a_rarer_thumb_weighs_more():
    policy, run, _ = made("sd3", fresh_policy("sd3"))
    desirable = torch.tensor([True] + [False] * 7)
    thumbs = Labels(torch.arange(8), desirable, run.index, {"failed": 0.0})
    from posttrain.trainers.kto import _weights
    up, down = _weights(desirable, True)
    assert up == 4 and down == pytest.approx(4 / 7) and _weights(desirable, False) == (1, 1)
    assert _weights(torch.ones(3, dtype=torch.bool), True) == (1, 1), "one kind only: nothing to balance"
    new = train_step(policy, run, thumbs, Trainer(KTO(levels=1), ONE))
    assert new.metrics["loss"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rebuilt_trajectory_leads_to_its_image(kind):
    """Drawn from q: noisy at first, near the image at the end; its steps are the posterior's, exactly."""
    policy, run, _ = made(kind, transition="deterministic")
    with open_policy(policy) as net:
        path = net.path
    again = rebuilt(run, path, 4)
    states, sigmas = again.trajectory.states, again.trajectory.sigmas
    assert states.shape == (8, 5, *run.latents.shape[1:]) and float(sigmas[-1]) > 0
    a, s = path.coefficients(sigmas)
    for i in range(5):
        residual = (states[:, i] - a[i] * run.latents) / s[i]
        assert residual.std() == pytest.approx(1.0, abs=0.1), "every state has the noise of its level"
    step = ddim(1.0)(path, states[:, 1], run.latents, sigmas[1].expand(8), sigmas[2].expand(8))
    assert torch.equal(log_prob(states[:, 2], step), again.trajectory.log_probs[:, 1])
    for first, second in ((0, 3), (4, 7)):
        torch.testing.assert_close(states[first, 0] - a[0] * run.latents[first], states[second, 0] - a[0] * run.latents[second])
    with pytest.raises(ValueError, match="rebuilt steps"):
        rebuilt(run, path, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_d3po_trains_on_images_of_any_sampler(kind):
    policy = fresh_policy(kind)
    latents = torch.randn(8, *made(kind)[1].latents.shape[1:], generator=torch.Generator().manual_seed(4))
    run = rollout_from_latents(policy, latents, prompts_for(kind), PlainVAE(), 0)
    scores = Scores(latents.mean((1, 2, 3)).double(), run.index, {}, {})
    new = train_step(policy, run, preferences(scores), Trainer(D3PO(rebuilt_steps=3), ONE))
    assert new.metrics["update_evaluations"] == 2 * 3 * 4 and new.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("settings", ALL)
def test_micro_batches_do_not_change_the_update(settings):
    policy, run, scores = made("sd3")
    feed = feedback_for(settings, run, scores)
    first, second = (train_step(policy, replace(run, batch_size=size), feed, Trainer(settings, Optimizer(max_grad_norm=0)))
                     for size in (8, 2))
    assert first.metrics["grad_norm"] == pytest.approx(second.metrics["grad_norm"], rel=2e-3)


def test_winner_and_loser_are_reported_apart():
    policy, run, scores = made("sd3")
    for settings in (DiffusionDPO(), KTO()):
        found = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE)).metrics
        assert {"winner_error", "loser_error", "winner_change", "loser_change", "accuracy"} <= found.keys()
        assert found["winner_error"] != found["loser_error"]
    found = train_step(policy, run, preferences(scores), Trainer(MaPO(), ONE)).metrics
    assert {"winner_error", "loser_error", "accuracy"} <= found.keys() and "winner_change" not in found
    found = train_step(policy, run, preferences(scores), Trainer(D3PO(), ONE)).metrics
    assert {"winner_gain", "loser_gain", "kl", "clip_fraction"} <= found.keys()


@pytest.mark.parametrize("settings, feedback, words", [
    (DiffusionDPO(), "advantages", ["pairs of images", "Preferences"]),
    (NFT(), "pairs", ["learns from advantages", "Advantages"]),
    (KTO(), "pairs", ["thumbs up and down", "Thumbs"]), (MaPO(), "thumbs", ["pairs of images", "Preferences"]),
    (SPO(), "pairs", ["inside the denoising steps", "Step Rollout"]),
    (D3PO(), "steps", ["pairs of images", "Preferences"])])
def test_the_wrong_kind_of_feedback_names_the_node_to_use(settings, feedback, words):
    policy, run, scores = made("sd3")
    feed = {"advantages": lambda: advantages(scores), "pairs": lambda: preferences(scores),
            "thumbs": lambda: labels(scores), "steps": lambda: in_step_pairs(run)}[feedback]()
    with pytest.raises(ValueError) as error:
        train_step(policy, run, feed, Trainer(settings, ONE))
    assert all(word in str(error.value) for word in words), error.value


def test_feedback_that_cannot_be_of_this_rollout_is_refused():
    policy, run, scores = made("sd3")
    pairs = preferences(scores)
    for wrong, word in ((replace(pairs, winner=pairs.winner + 8), "this very rollout"),
                        (replace(pairs, loser=pairs.winner), "same image twice"),
                        (replace(pairs, loser=pairs.loser.flip(0)), "two different prompts")):
        with pytest.raises(ValueError, match=word):
            train_step(policy, run, wrong, Trainer(DiffusionDPO(), ONE))
    with pytest.raises(ValueError, match="this very rollout"):
        train_step(policy, run, replace(labels(scores), index=torch.arange(8) + 3), Trainer(KTO(), ONE))
    with pytest.raises(ValueError, match="Step Rollout"):
        train_step(policy, replace(run, trajectory=None), in_step_pairs(run), Trainer(SPO(), ONE))


@pytest.mark.parametrize("settings", [DiffusionDPO(), MaPO(), KTO(), D3PO()])
def test_nothing_to_learn_from_leaves_the_weights_and_counts(settings):
    policy, run, scores = made("sd3")
    equal, failed = (replace(scores, values=torch.full((8,), v, dtype=torch.float64)) for v in (1.0, math.nan))
    new = train_step(policy, run, feedback_for(settings, run, equal), Trainer(settings, ONE))
    assert new.metrics["updates"] == 0 and new.metrics[SKIPPED] == 0 and new.iteration == policy.iteration + 1
    assert all(torch.equal(new.bank[k], policy.bank[k]) for k in new.bank)
    assert train_step(policy, run, feedback_for(settings, run, failed), Trainer(settings, ONE)).metrics[SKIPPED] == 1


@pytest.mark.parametrize("settings, message", [
    (DiffusionDPO(beta=-1), "beta"), (DiffusionDPO(levels=0), "levels"), (DiffusionDPO(safeguard=1.5), "winner keeps"),
    (MaPO(beta=0), "beta"), (MaPO(beta=math.nan), "beta"), (KTO(beta=math.inf), "beta"), (KTO(levels=0), "levels"),
    (D3PO(beta=0), "beta"), (D3PO(clip_range=1), "clip range"), (SPO(clip_range=0), "clip range"),
    (SPO(weighting="none"), "weighting")])
def test_settings_out_of_range_are_named(settings, message):
    policy, run, scores = made("sd3")
    with pytest.raises(ValueError, match=message):
        train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))


def test_a_broken_reward_leaves_a_usable_policy():
    policy, run, scores = made("sd3")
    some = replace(scores, values=scores.values.where(torch.arange(8) > 1, torch.nan))
    pairs = preferences(some)
    assert isinstance(pairs, Preferences) and pairs.stats["failed"] == 2
    new = train_step(policy, run, pairs, Trainer(DiffusionDPO(), ONE))
    assert new.metrics["updates"] == 1 and all(bool(v.isfinite().all()) for v in new.bank.values())


def test_all_of_them_work_as_nodes_run_them():
    """The host runs nodes in inference mode, and hands on what they made there."""
    policy, _, _ = made("sd3")
    with torch.inference_mode():
        for settings in ALL:
            _, run, scores = made("sd3", policy)
            new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
            assert not any(t.is_inference() for t in new.bank.values()) and new.metrics["updates"] == 1


def test_a_network_that_overwrites_its_activations_is_trained_right():
    policy, run, scores = made("flux")
    for settings in (DiffusionDPO(), KTO()):
        new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
        assert new.metrics["updates"] == 1


def test_two_updates_use_every_pair_once():
    policy, run, scores = made("sd3")
    pairs = preferences(scores, "all pairs")
    steps = paired(run, pairs, 2, 2)
    assert len(steps) == 2
    rows = torch.cat([micro.rows.chunk(2)[0] for micros in steps for micro in micros])
    assert sorted(rows.tolist()) == sorted(pairs.winner.tolist() * 2)
    assert train_dpo(policy, run, pairs, DiffusionDPO(), Optimizer(updates=2)).step == 2
