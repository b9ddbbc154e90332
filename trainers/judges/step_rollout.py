"""SPO's rollout (arXiv:2406.04314): at each random step several candidates are drawn from one state and judged there.

The best and the worst of them are a pair, if they differ enough; the image goes on from a random candidate, so that
later states favour neither.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...rewards.base import ranks
from ...rewards.base.reward import Reward, score
from ..feedback.step_pairs import StepPreferences
from ..losses.spo import step_pairs
from ..noise.streams import Stream, generator
from ..noise.transitions import sample
from ..policy.fitting import in_room
from ..policy.latents import image_bytes, latent_shape
from ..policy.network import Network, open_policy
from ..policy.room import room_of, with_room
from ..policy.value import Policy
from ..prompts import PromptSet
from ..sampling.draws import Samples, prepared_samples
from ..sampling.need import Need, candidates_bytes, encoding_bytes, rollout_need
from ..sampling.plan import plan_of
from ..sampling.recommended import settled_sampling
from ..sampling.rollout import Progress, Rollout, StepsKept, pictures, say_and_check
from ..sampling.settings import BRANCHES, EACH_PROMPT, Sampling
from .step_reward import StepReward


@dataclass(frozen=True)
class Candidates:
    """count: candidates of each step, 2 or more; threshold: a pair is kept if softmax over its two scores differs by more,
    0 to 1; sharpness: scores are multiplied by it before, for judges whose scores lie close together."""

    count: int = 4
    threshold: float = 0.3
    sharpness: float = 1.0

    def __post_init__(self):
        if self.count < 2:
            raise ValueError(f"candidates: {self.count} cannot be compared; choose 2 or more")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: {self.threshold} must lie between 0 and 1; 0.3 is usual")
        if not 0 < self.sharpness < float("inf"):
            raise ValueError(f"sharpness: {self.sharpness} must be above 0")


@torch.inference_mode(False)
@torch.no_grad()
def step_rollout(policy: Policy, prompts: PromptSet, vae, sampling: Sampling, iteration: int, judge: Reward | StepReward,
                 candidates: Candidates, *, keep_means: bool = True, progress: Progress | None = None,
                 tell: Callable[[Need], None] | None = None) -> tuple[Rollout, StepPreferences]:
    """Samples as ``rollout`` does and compares candidates at every random step.

    judge: a StepReward looks at the noisy candidates themselves (one part evaluation of the network each); any other
    reward at their decoded clean estimates (one evaluation and one decoding each; the chosen one's serves the next
    step). keep_means, progress, tell: as in ``rollout``. Raises ValueError where no step is random.
    """
    left_open, sampling = sampling.open, settled_sampling(policy, sampling)
    shape = latent_shape(policy.model, vae, sampling.width, sampling.height)
    walk = _Walk(policy, prompts, vae, sampling, judge, prepared_samples(prompts, sampling, iteration))
    numbers = walk.samples.index.unique().tolist()
    with open_policy(policy) as net:
        plan = plan_of(net, sampling, iteration)
        noise = walk.samples.noise(slice(None))
        x = net.start(noise.start(shape).to(net.device), float(plan.sigmas[0])).cpu()
        path = net.path
    first, end = plan.noisy
    if sampling.window in (EACH_PROMPT, BRANCHES):
        raise ValueError(f"window: {sampling.window!r} leaves each image one random step, but here candidates are compared in "
                         "every one; choose another window in the sampling settings, or the node Rollout")
    if first == end:
        raise ValueError("sampling: no step is random, so there are no candidates to compare; set the noise level above 0 "
                         "(eta 1 for noise-prediction models) in the sampling settings")
    one_image = image_bytes(vae, (1, *shape))
    compared = candidates_bytes(shape, candidates.count, len(x), end - first, 0 if walk.by_states else one_image)
    say_and_check(rollout_need(shape, sampling, len(prompts), end - first, keep_means, one_image,
                               encoding_bytes(prompts, numbers), compared), tell)
    steps, pairs, x0 = StepsKept(len(x), plan, keep_means), [], None
    for i in range(plan.steps):
        sigma, sigma_next = (plan.sigmas[k].expand(len(x)) for k in (i, i + 1))
        x0 = walk.answers(x, sigma) if x0 is None else x0
        if progress is not None:
            progress(i + 1, plan.steps, x0[:1])
        if not first <= i < end:
            x, x0 = plan.quiet_step(path, x, x0, sigma, sigma_next).mean, None
            continue
        step = plan.noisy_step(path, x, x0, sigma, sigma_next)
        drawn = torch.stack([sample(step, noise.next(shape)) for _ in range(candidates.count)])
        scores, estimates = walk.judged(drawn, sigma_next)
        pairs.append(_pairs(drawn, scores, i - first, candidates))
        chosen = torch.randint(candidates.count, (len(x),), generator=generator(sampling.seed, iteration, i, Stream.CANDIDATE))
        picks = chosen, torch.arange(len(x))
        steps.keep(slice(None), i, x, step, drawn[picks])
        last_scores = scores[picks]
        x, x0 = drawn[picks], None if estimates is None else estimates[picks]
    made = Rollout(
        latents=x, images=pictures(policy.model, vae, x), prompts=prompts, index=walk.samples.index,
        seeds=walk.samples.seeds, guidance=sampling.guidance, sigmas=plan.sigmas, trajectory=steps.trajectory(),
        batch_size=sampling.batch_size, iteration=iteration, evaluations=walk.evaluations, left_out=plan.left_out,
        sampling=sampling, recommended=left_open, room=room_of(walk.policy.memory))
    return made, _joined(pairs, walk.final_scores(made, last_scores), candidates)


class _Walk:
    """Questions to the network and to the judge, for all samples of the rollout at once, in batches."""

    def __init__(self, policy: Policy, prompts: PromptSet, vae, sampling: Sampling, judge: Reward | StepReward,
                 samples: Samples):
        self.policy, self.prompts, self.vae, self.sampling = policy, prompts, vae, sampling
        self.judge, self.samples, self.evaluations = judge, samples, 0
        self.by_states = isinstance(judge, StepReward)

    def answers(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The policy's clean estimates [N, C, H, W] of states of all samples, once or several times over."""
        def ask(net, bank, rows, index):
            return net.denoise(x[rows].to(net.device), sigma[rows].to(net.device), self.prompts, index,
                               self.sampling.guidance, bank,
                               schedule=net.sigmas(self.sampling.scheduler, self.sampling.steps))
        return self._in_batches(ask, len(x))

    def judged(self, drawn: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores [K, B] of candidates [K, B, C, H, W], and their clean estimates where the judge needed them."""
        flat, sigmas = drawn.flatten(0, 1), sigma.repeat(len(drawn))
        if self.by_states:
            def ask(net, bank, rows, index):
                return self.judge.scores(net, flat[rows].to(net.device), sigmas[rows].to(net.device), self.prompts, index)
            return self._in_batches(ask, len(flat)).reshape(drawn.shape[:2]), None
        estimates = self.answers(flat, sigmas)
        return self._image_scores(estimates).reshape(drawn.shape[:2]), estimates.reshape(drawn.shape)

    def final_scores(self, made: Rollout, last: torch.Tensor) -> torch.Tensor:
        """[B]: of the finished images; a step reward's are of the last states that it judged."""
        if self.by_states:
            return last
        return score(self.judge, made.images, made.prompts_of_samples(), made.index).values

    def _image_scores(self, latents: torch.Tensor) -> torch.Tensor:
        images = pictures(self.policy.model, self.vae, latents, self.sampling.batch_size)
        count = len(self.samples)
        index = self.samples.index.repeat(len(latents) // count)
        # candidates of one state are a group of their own, for rewards that normalise within groups
        groups = torch.arange(count).repeat(len(latents) // count)
        return score(self.judge, images, [self.prompts.prompts[int(i)] for i in index], groups).values.float()

    def _in_batches(self, ask, count: int) -> torch.Tensor:
        index = self.samples.index.repeat(count // len(self.samples))
        size = self.sampling.batch_size

        def asked(net: Network) -> tuple[list[torch.Tensor], int]:
            bank, parts = net.to_device(self.policy.chosen("behaviour")), []
            for rows in ranks.own_batches(count, size):
                net.check_cancelled()
                parts.append(ask(net, bank, rows, index[rows]).cpu())
            return parts, ranks.total("evaluations", net.evaluations)

        # opened anew for every step: a decoder in between may have pushed the network out of memory
        (parts, evaluations), room = in_room(self.policy, asked)
        self.policy = replace(self.policy, memory=with_room(self.policy.memory, room))
        self.evaluations += evaluations
        return ranks.joined_rows("answers about steps", parts, count, size)


def _pairs(drawn: torch.Tensor, scores: torch.Tensor, step: int, candidates: Candidates) -> tuple[StepPreferences, torch.Tensor]:
    """The pairs of one step, and which samples had a score at all [B]."""
    usable = scores.where(scores.isfinite(), torch.nan)
    found = step_pairs(usable * candidates.sharpness, candidates.threshold)
    rows = found.kept.nonzero().flatten()
    winner, loser = found.winner[rows], found.loser[rows]
    return StepPreferences(rows, torch.full_like(rows, step), drawn[winner, rows], drawn[loser, rows],
                           scores[winner, rows] - scores[loser, rows], {}), scores.isfinite().any(0)


def _joined(kept: list[tuple[StepPreferences, torch.Tensor]], final: torch.Tensor, candidates: Candidates) -> StepPreferences:
    def column(name: str) -> torch.Tensor:
        return torch.cat([getattr(pairs, name) for pairs, _ in kept])

    scored = torch.stack([some for _, some in kept]).any(0)
    known = final[final.isfinite()].double()
    stats = {"pairs": float(len(column("rows"))), "kept_share": len(column("rows")) / (len(kept) * len(scored)),
             "candidates": float(candidates.count), "failed": float((~scored).sum()),
             "reward_mean": float(known.mean()) if len(known) else float("nan"),
             "reward_std": float(known.std(correction=0)) if len(known) else 0.0}
    return StepPreferences(*(column(name) for name in ("rows", "steps", "winner", "loser", "margin")), stats)
