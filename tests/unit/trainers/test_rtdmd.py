"""RTDMD on ComfyUI's real modules: its last step, its two optimizers, what it costs and refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.nodes.trainers.rtdmd import PTRTDMD
from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.tests.unit.trainers.seen_loss import moved, same_loss
from posttrain.tests.unit.trainers.through_reward import Smooth
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.noise.streams import Stream
from posttrain.trainers.policy import open_policy
from posttrain.trainers.rtdmd import ENDS, FAKE, LEVELS, RTDMD, Judge, Last, asked, before_last, drawn, last_step, micros
from small_models import small_vae, trained_policy

CPS = {"transition": "flow_cps", "noise_level": 0.9}
NOISE = {"sd3": CPS, "sd15": {"transition": "ddim", "noise_level": 1.0}, "sd2_v": {"transition": "ddim", "noise_level": 1.0}}


def stepped(policy, run, settings=None, **optimizer):
    return train_step(policy, run, feedback(run), Trainer(settings or RTDMD(), Optimizer(**optimizer)))


def last_of(policy, run) -> Last:
    return next(micro for micro in micros(policy, run, feedback(run), 1, True)[0] if isinstance(micro, Last))


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("noisy", [0, 1])
def test_its_last_step_makes_the_rollouts_pictures_again(kind, noisy):
    """Also where the steps between the last random one and the last of all are quiet."""
    policy, run = made(kind, noisy_steps=noisy, **NOISE[kind])
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for rows in (slice(0, 4), slice(4, 8)):
            x0 = asked(net, bank, run, rows, before_last(net, bank, run, rows), 3)
            torch.testing.assert_close(x0, run.latents[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, guidance", [("sd3", 0.0), ("sd3", 3.0), ("sd15", 0.0)])
def test_the_loss_is_brake_reward_and_the_fake_scores_own(kind, guidance):
    """Written again: the policy's gradient is that of brake and reward, the fake score's that of its own error alone."""
    policy, run = made(kind, **NOISE[kind])
    vae = small_vae(kind)
    settings = RTDMD(brake=0.3, guidance=guidance, scale=0.01, margin=100.0, judge=Judge(Smooth(), vae))
    micro, fake = last_of(policy, run), moved(policy.bank, 3)
    with open_policy(policy, also_load=[vae.patcher]) as net:
        index, x = run.index[micro.rows], before_last(net, net.to_device(policy.bank), run, micro.rows)
        path, level = net.path, run.sigmas[-2].expand(4)

        def ask(x, sigma, weights, scale=1.0):
            return net.denoise(x, sigma, run.prompts, index, scale, weights)

        def noised(x0, draw):
            return path.add_noise(x0.detach(), draw[1], draw[0])

        def by_hand(bank):
            x0 = ask(x, level, bank)
            with torch.no_grad():
                there = noised(x0, micro.brake)
                real, unreal = (
                    ask(there, micro.brake[0], None, guidance or 1.0),
                    ask(there, micro.brake[0], net.to_device(fake)),
                )
                pull = (unreal - real) / (x0 - real).abs().mean((1, 2, 3), keepdim=True)
            pixels = vae.first_stage_model.decode(policy.model.model.process_latent_out(x0)).movedim(1, -1)
            reward = 0.01 * (100 - Smooth()((pixels + 1) / 2, ())).mean().float()
            # a value without the brake's own, which has the gradient ``pull`` and not that of a distance
            return 0.3 * ((x0 * pull).mean() - (x0 * pull).mean().detach()) + reward

        def found(bank):
            loss, report = last_step(net, bank, net.to_device(fake), policy.model, run, micro, settings)
            return loss - 0.3 * report["brake"] - report["fake_score_error"], report

        vae.first_stage_model.requires_grad_(False)
        report = same_loss(net, policy.bank, found, by_hand)

        def of_fake(weights):
            loss, said = last_step(net, net.to_device(policy.bank), weights, policy.model, run, micro, settings)
            return said["fake_score_error"] + loss - loss.detach(), {}

        def by_hand_of_fake(weights):
            x0 = ask(x, level, net.to_device(policy.bank)).detach()
            sigma, noise = micro.fake
            there = noised(x0, micro.fake)
            error = (path.prediction(there, ask(there, sigma, weights), sigma) - path.target(x0, noise, sigma)).square()
            weight = (10 * sigma.square()).clamp_max(1) if kind == "sd3" else torch.ones(4)
            return (weight * error.mean((1, 2, 3))).mean()

        same_loss(net, fake, of_fake, by_hand_of_fake)
    assert set(report) == {"brake", "fake_score_error", "last_step_reward", "saturated"}


def test_the_rewards_gradient_by_finite_differences():
    policy, run = made("sd3", trained_policy("sd3", torch.float64), **CPS)
    vae = small_vae("sd3", torch.float64)
    settings = RTDMD(brake=0.0, scale=1.0, margin=100.0, judge=Judge(Smooth(), vae))
    micro = last_of(policy, run)
    with open_policy(policy, also_load=[vae.patcher]) as net:
        bank = net.to_device(policy.bank, train=True)
        held = before_last(net, bank, run, micro.rows)

        def loss(weights):
            # the state before the last step is held still, as the loss holds it
            frozen = replace(run, trajectory=replace(run.trajectory, states=run.trajectory.states.clone()))
            frozen.trajectory.states[micro.rows, -1] = held
            return last_step(net, weights, None, policy.model, frozen, micro, settings)

        net.gradients(lambda: loss(bank), list(bank.values()))
        direction = {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(4)) for k, v in bank.items()}
        values = []
        for sign in (1, -1):
            there = {k: v.detach() + sign * 1e-3 * direction[k] for k, v in bank.items()}
            values.append(float(loss(there)[0].detach()))
        slope = sum(float((bank[k].grad * direction[k]).sum()) for k in bank)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2)


@pytest.mark.parametrize("kind", NOISE)
def test_both_networks_learn_and_the_fake_score_is_kept(kind):
    policy, run = made(kind, **NOISE[kind])
    first = stepped(policy, run, RTDMD(fake_rate=1e-3), learning_rate=1e-3)
    second = stepped(first, run, RTDMD(fake_rate=1e-3), learning_rate=1e-3)
    for before, after in (
        (policy.bank, first.bank),
        (policy.bank, first.anchors[FAKE]),
        (first.bank, second.bank),
        (first.anchors[FAKE], second.anchors[FAKE]),
    ):
        assert any(not torch.equal(before[key], after[key]) for key in before)
    assert int(second.anchors[f"{FAKE} moments"]["step"]) == 2
    other = train_step(second, run, feedback(run), Trainer(NFT(levels=1), Optimizer()))
    assert FAKE not in other.anchors, "it would know pictures of long ago"


def test_the_fake_score_learns_the_students_pictures():
    policy, run = made("sd3", **CPS)
    settings, errors, now = RTDMD(fake_rate=3e-3), [], policy
    for _ in range(8):
        now = replace(stepped(now, run, settings, learning_rate=0.0), iteration=0)
        errors.append(now.metrics["fake_score_error"])
    assert errors[-1] < 0.9 * errors[0]


EACH = 3 + 1  # random steps and the last one


@pytest.mark.parametrize(
    "settings, sampled, evaluations",
    [
        (RTDMD(), 1.0, EACH + 3),
        (RTDMD(guidance=4.5), 1.0, EACH + 4),
        (RTDMD(), 2.0, 2 * EACH + 4),
        (RTDMD(brake=0.0), 1.0, 3),
    ],
)
def test_it_evaluates_no_more_than_it_needs(settings, sampled, evaluations):
    policy, run = made("sd3", guidance=sampled, **CPS)
    first = stepped(policy, run, settings)
    assert stepped(first, run, settings).metrics["update_evaluations"] == 8 * evaluations


def test_levels_of_the_brake_lie_in_the_middle_and_those_of_the_fake_score_everywhere():
    _, run = made("sd3", **CPS)
    fine = torch.arange(LEVELS).float()
    many = replace(run, seeds=torch.arange(4000))
    brake, fake = (drawn(many, slice(0, 4000), fine, key)[0] / LEVELS for key in (Stream.BRAKE_DRAW, Stream.FAKE_DRAW))
    assert ENDS[0] <= float(brake.min()) and float(brake.max()) <= ENDS[1] and len(fake.unique()) == LEVELS
    inside = [float(((each > 0.25) & (each < 0.75)).float().mean()) for each in (brake, fake)]
    assert inside[0] > 0.65 and inside[1] == pytest.approx(0.5, abs=0.03)


def test_what_does_not_fit_is_refused_by_name():
    policy, run = made("sd3", **CPS)
    deaf = replace(Smooth.info, differentiable=False)
    reward = type("Deaf", (Smooth,), {"info": deaf})()
    with pytest.raises(ValueError, match="'smooth' has no gradient"):
        stepped(policy, run, RTDMD(judge=Judge(reward, small_vae("sd3"))))
    with pytest.raises(ValueError, match="no step was random"):
        stepped(*made("sd3", transition="deterministic"))
    with pytest.raises(ValueError, match="fake rate: 0.0 is not possible"):
        stepped(policy, run, RTDMD(fake_rate=0.0))
    for there, missing in (("reward", "vae"), ("vae", "reward")):
        with pytest.raises(ValueError, match=f"^{missing}: {there} is connected, but no {missing}"):
            PTRTDMD().run(learning_rate=1e-4, **{there: object()})


def test_the_node_hands_the_reward_on():
    reward, vae = Smooth(), small_vae("sd3")
    (trainer,) = PTRTDMD().run(learning_rate=1e-4, brake=0.5, reward=reward, vae=vae)
    assert trainer.settings == RTDMD(brake=0.5, judge=Judge(reward, vae)) and trainer.optimizer.learning_rate == 1e-4
    assert PTRTDMD().run(learning_rate=1e-4)[0].settings.judge is None
