from __future__ import annotations

import math

import pytest
import torch
from posttrain.trainers.losses.d3po import d3po_loss
from posttrain.trainers.losses.spo import spo_loss, step_pairs
from posttrain.trainers.noise.paths import EPS, expand
from posttrain.trainers.noise.transitions import Gaussian, ddim, log_prob

F64 = torch.float64


def step_log_prob(file, k, eps):
    t, bars = file["in.timesteps"], file["in.alphas_cumprod"]
    bar, bar_next = bars[t], bars[(t - len(bars) // int(file.const("num_steps"))).clamp(0)]
    sigma, sigma_next = ((1 - bar) / bar).sqrt(), ((1 - bar_next) / bar_next).sqrt()
    x = file[f"in.sample_{k}"] / expand(bar.sqrt(), eps)
    g = ddim(file.const("eta"))(EPS, x, EPS.x0(x, eps, sigma), sigma, sigma_next)
    return log_prob(file[f"in.next_sample_{k}"] / expand(bar_next.sqrt(), eps), g) - 0.5 * bar_next.log()


def both(file):
    leaves = [file[f"in.model_output_{k}"].clone().requires_grad_() for k in (0, 1)]
    lp = torch.stack([step_log_prob(file, k, leaves[k]) for k in (0, 1)])
    ref = torch.stack([step_log_prob(file, k, file[f"in.ref_output_{k}"]) for k in (0, 1)])
    return leaves, lp, ref


def test_golden_d3po(golden, close, float32_constant):
    file = golden("04a")
    leaves, lp, ref = both(file)
    close(lp + float32_constant, torch.stack([file["out.log_prob_0"], file["out.log_prob_1"]]), 1e-9)
    close(ref + float32_constant, torch.stack([file["out.ref_log_prob_0"], file["out.ref_log_prob_1"]]), 1e-9)
    for k in (0, 1):
        close((lp[k] - ref[k]).exp().clamp(1 - file.const("eps"), 1 + file.const("eps")), file[f"out.ratio_{k}"], 1e-8)
    first = file["in.human_prefer"][:, 0]
    keep = first != 0
    swap = (first < 0)[keep]
    lp, ref = (torch.where(swap, v.flip(0), v) for v in (lp[:, keep], ref[:, keep]))
    out = d3po_loss(lp[0], lp[1], ref[0], ref[1], file.const("beta"), file.const("eps"))
    # the reference keeps tied pairs at a constant ln 2 and divides by all
    loss = (out.loss * keep.sum() + math.log(2) * (~keep).sum()) / len(keep)
    close(loss, file["out.loss"])
    loss.backward()
    for k in (0, 1):
        close(leaves[k].grad, file[f"grad.model_output_{k}"], 1e-6)


def test_golden_spo(golden, close):
    file = golden("04b")
    leaves, lp, ref = both(file)
    for k, name in enumerate(("win", "lose")):
        close((lp[k] - ref[k]).exp().clamp(1 - file.const("eps"), 1 + file.const("eps")), file[f"out.ratio_{name}"], 1e-8)
    out = spo_loss(lp[0], lp[1], ref[0], ref[1], file.const("beta"), file.const("eps"))
    close(out.loss, file["out.loss"])
    out.loss.backward()
    for k in (0, 1):
        close(leaves[k].grad, file[f"grad.model_output_{k}"], 1e-6)


def record_pairs(file, call, previous, kept):
    """Chooses among the candidates of the last step with step_pairs and keeps what the reference keeps."""
    state, candidates, step = previous
    k, n = candidates.shape[:2]
    pairs = step_pairs(file[f"in.score_call{call}"].reshape(k, n), file.const("threshold"))
    assert torch.equal(torch.stack([pairs.winner, pairs.loser]), file[f"out.win_lose_index_call{call}"])
    assert torch.equal(pairs.kept.to(torch.uint8), file[f"out.valid_call{call}"])
    rows = torch.arange(n)
    both = torch.stack([candidates[pairs.winner, rows], candidates[pairs.loser, rows]], 1)
    kept.append([v[pairs.kept] for v in (state, both, rows, step.expand(n))])


def test_golden_spo_selection_and_sampling(golden, close):
    """The whole recorded rollout, replayed with our DDIM step and pair choice."""
    file = golden("04c")
    k, n, divert = (int(file.const(name)) for name in ("candidates", "batch", "divert_start_step"))
    steps, bars = file["in.timesteps"], file["in.alphas_cumprod"]
    stride = len(bars) // int(file.const("num_steps"))
    assert torch.equal(file["out.score_log"], torch.cat([file[f"in.score_call{call}"] for call in range(len(steps) - divert)]))
    x, previous, kept = file["in.init_latents"] / bars[steps[0]].sqrt(), None, []
    for i, t in enumerate(steps):
        bar, bar_next = bars[t], bars[(t - stride).clamp(0)]
        sigma, sigma_next = (((1 - b) / b).sqrt().expand(len(x)) for b in (bar, bar_next))
        x0 = EPS.x0(x, file[f"in.model_output_step{i}"], sigma)
        if previous is not None:
            # candidates are scored by their x0 one step later; the trajectory goes on from a random one
            call = i - divert - 1
            close(x0, file[f"out.scored_x_call{call}"])
            assert (file[f"out.score_timestep_call{call}"] == t).all(), "judged at the noise level that they have reached"
            record_pairs(file, call, previous, kept)
            pick = file[f"in.random_pick_call{call}"] * n + torch.arange(n)
            x, x0, sigma, sigma_next = x[pick], x0[pick], sigma[:n], sigma_next[:n]
        g = ddim(file.const("eta"))(EPS, x, x0, sigma, sigma_next)
        following = g.mean + expand(g.std, x) * file[f"in.noise_step{i}"]
        if i >= divert:
            previous = (x * bar.sqrt(), following * bar_next.sqrt(), t)
            following = following.flatten(0, 1)
        x = following
    last = len(steps) - divert - 1
    close(x * bar_next.sqrt(), file[f"out.scored_x_call{last}"])
    assert not file[f"out.score_timestep_call{last}"].any()
    record_pairs(file, last, previous, kept)
    states, following, prompts, timesteps = (torch.cat(column) for column in zip(*kept))
    assert 0 < len(states) < (last + 1) * n
    close(states[:, None], file["out.valid_current_latents"])
    close(following, file["out.valid_next_latents"])
    assert torch.equal(prompts, file["out.valid_prompt_index"])
    assert torch.equal(timesteps[:, None], file["out.valid_timesteps"])


@pytest.mark.parametrize("loss, beta", [(d3po_loss, 0.1), (spo_loss, 10.0)])
def test_start_is_ln_2_with_half_beta_gradient(loss, beta):
    w, l = (torch.tensor([v], dtype=F64, requires_grad=True) for v in (0.7, -0.2))
    out = loss(w, l, w, l)
    assert out.loss.item() == pytest.approx(math.log(2)) and out.accuracy == 0.5 and out.clip_fraction == 0
    out.loss.backward()
    assert w.grad.item() == pytest.approx(-beta / 2) and l.grad.item() == pytest.approx(beta / 2)


def test_clipped_ratios_carry_no_gradient_and_extremes_stay_finite():
    w, l = (torch.tensor([v], dtype=F64, requires_grad=True) for v in (-500.0, 0.02))
    out = d3po_loss(w, l, torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64), beta=1e4)
    out.loss.backward()
    assert w.grad == 0 and l.grad > 0 and out.loss.isfinite() and out.clip_fraction == 0.5


def test_inside_is_linear_in_the_mean_for_candidates_of_one_state():
    g = torch.Generator().manual_seed(0)
    mean, move, a, b = (torch.randn(2, 3, dtype=F64, generator=g) for _ in range(4))
    std, zero = torch.full((2,), 0.8, dtype=F64), torch.zeros(2, dtype=F64)
    def inside(scale):
        now, ref = Gaussian(mean + scale * move, std), Gaussian(mean, std)
        out = spo_loss(log_prob(a, now), log_prob(b, now), log_prob(a, ref), log_prob(b, ref), clip_range=0.999)
        return out.inside
    torch.testing.assert_close(inside(0.02), 2 * inside(0.01))
    torch.testing.assert_close(inside(0.01), 10 * (0.01 * move * (a - b)).mean(1) / std**2)
    assert not torch.equal(inside(0.01), zero)


def test_step_weights_multiply_rows():
    v = [torch.randn(4, dtype=F64, generator=torch.Generator().manual_seed(i)) * 0.05 for i in range(4)]
    rows = torch.stack([spo_loss(*(x[i:i + 1] for x in v)).loss for i in range(4)])
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=F64)
    torch.testing.assert_close(spo_loss(*v, weights=weights).loss, (weights * rows).mean())


def test_ties_and_failed_scores_are_not_kept():
    nan = float("nan")
    pairs = step_pairs(torch.tensor([[1.0, 2.0, 0.0], [1.0, nan, 5.0]]), 0.0)
    assert pairs.kept.tolist() == [False, False, True] and pairs.winner[2] == 1
