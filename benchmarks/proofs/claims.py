"""What `develop.py prove` trains: one row for each claim of learning.

Every row starts from the shipped workflow of the wired loop, so a trainer more is a row more.
"""
from __future__ import annotations

from functools import partial

from tools.evaluate import Drawing, node
from tools.graphs import compare_steps, edit_pictures, judge_again, learn_through_reward, merge_skills, tune_student

from .claim import Proof, beats_teacher, gains, keeps, keeps_skills, reaches, rises, stays

# random where the composition is decided, and nowhere else: later random steps would redraw it, earlier ones be redrawn
EPS = {"PTDemoWorld.which_model": "eps (tiny SD1.5)", "PTDemoWorld.score": "dense (partial credit)",
       "PTCreatePolicy.layers": "all linear layers and convolutions", "PTSampling.noise_level": 1.0,
       "PTSampling.window": "fixed", "PTSampling.first_noisy_step": 2, "PTSampling.noisy_steps": 1}
NO_NOISE = {"PTSampling.transition": "deterministic"}  # for trainers that need no likelihood
VIVID = node("PTRewardColour", statistic="colourfulness", aim="more")
DISTIL = dict(workflow="faster_after_dpo_lcm")
BACKPROP = dict(reward=VIVID, wiring=learn_through_reward, goal=rises("own"))
JUDGED = dict(reward=node("PTDemoJudge"), wiring=learn_through_reward)


def iterations(count: int, **more: object) -> dict:
    return {"PTLoopStart.iterations": count} | more


def few(count: int) -> dict:
    """Iterations of 8 prompts with 8 images each."""
    return iterations(count) | {"PTSampling.prompts_per_iteration": 8, "PTSampling.images_per_prompt": 8}


def fast(kind: str, **settings: object) -> dict:
    """A trainer with the optimizer's settings that suit the small models."""
    return node(kind, **{"learning_rate": 4e-4, "updates_per_rollout": 2, "averaging": 0.9} | settings)


# the model of 4 steps: LCM of the demo's own, from 128 pictures that this one drew
FAST = partial(tune_student, judge=node("PTDemoJudge"), iterations=40, steps=4, transition="flow_cps", noise_level=0.9,
               noisy_steps=0, window="fixed", images_per_prompt=8, batch_size=32,
               distil=fast("PTLCM", learning_rate=2e-3, updates_per_rollout=8, teacher_steps=16, student_steps=4,
                           decay_steps=64),
               teacher_sampling=node("PTSampling", steps=16, width=24, height=24, prompts_per_iteration=32, images_per_prompt=4,
                                     batch_size=32, guidance=1.0, transition="deterministic"))

PROOFS = {
    # RL on flow models, with likelihoods
    "flow_grpo": Proof("Flow-GRPO", reaches(0.85), iterations(140, **{"PTFlowGRPO.decay_steps": 280})),
    "flow_grpo_shuffled": Proof("Flow-GRPO with shuffled rewards (control)", stays(), iterations(60), shuffled=True),
    "flow_dppo": Proof("Flow-DPPO", gains(25), iterations(80, **{
        "PTFlowGRPO.trust": "exact KL", "PTFlowGRPO.clip_range": 0.0})),
    "grpo_guard": Proof("GRPO-Guard", rises(), iterations(30, **{
        "PTFlowGRPO.trust": "guard", "PTFlowGRPO.clip_range": 0.0})),
    "tempflow": Proof("Flow-GRPO, steps weighed by their noise (TempFlow-GRPO)", rises(), iterations(30, **{
        "PTFlowGRPO.step_weights": "by noise"})),
    "tempflow_branches": Proof("Flow-GRPO, branches of one trunk (TempFlow-GRPO)", rises(), iterations(30, **{
        "PTFlowGRPO.step_weights": "by noise", "PTSampling.window": "branches of one trunk", "PTSampling.noisy_steps": 4,
        "PTSampling.images_per_prompt": 16})),
    "flash_grpo": Proof("Flow-GRPO, one random step a prompt (Flash-GRPO)", rises(), iterations(30, **{
        "PTFlowGRPO.step_weights": "by gradient", "PTSampling.window": "one step for each prompt", "PTSampling.noisy_steps": 0,
        "PTSampling.batch_size": 16})),
    "mix_grpo": Proof("MixGRPO (2 random steps, their window moves along)", rises(), iterations(30, **{
        "PTSampling.window": "moves along", "PTSampling.noisy_steps": 2})),
    "dance_grpo": Proof("DanceGRPO's sampler", rises(), iterations(30, **{
        "PTSampling.transition": "dance_sde", "PTSampling.noise_level": 0.3})),
    "flow_cps": Proof("Flow-CPS", rises(), iterations(30, **{
        "PTSampling.transition": "flow_cps", "PTSampling.noise_level": 0.7})),
    # RL on flow models, without likelihoods
    "nft": Proof("DiffusionNFT", gains(25), iterations(50, **{"PTSampling.prompts_per_iteration": 32}) | NO_NOISE,
                 trainer=fast("PTNFT", decay_steps=100)),
    "nft_guided": Proof("DiffusionNFT, drawn in 30 steps with guidance 1.5", reaches(0.97),
                        iterations(50, **{"PTSampling.prompts_per_iteration": 32}) | NO_NOISE,
                        trainer=fast("PTNFT", decay_steps=100), drawing=Drawing(steps=30, guidance=1.5)),
    "nft_shuffled": Proof("DiffusionNFT with shuffled rewards (control)", stays(), iterations(20) | NO_NOISE,
                          trainer=fast("PTNFT"), shuffled=True),
    "awm": Proof("AWM", gains(25), iterations(36) | NO_NOISE, trainer=fast("PTAWM", levels=4, decay_steps=72)),
    "dgpo": Proof("DGPO", gains(25), iterations(50) | NO_NOISE, trainer=fast("PTDGPO", decay_steps=100)),
    "crd": Proof("CRD", gains(25), iterations(50) | NO_NOISE, trainer=fast("PTCRD", decay_steps=100)),
    "rwr": Proof("Reward-weighted regression", rises(), iterations(15) | NO_NOISE, images=1224,
                trainer=fast("PTRWR", sharpness=10.0, learning_rate=2e-4, decay_steps=30)),
    # RL on the denoising chain of an eps model
    "ddpo": Proof("DDPO-IS, eps UNet", rises(), iterations(40) | EPS, images=1224,
                  trainer=fast("PTDDPO", learning_rate=2e-3, decay_steps=80)),
    "ddpo_files": Proof("DDPO-IS on small files, eps UNet", rises("own"), workflow="any_reward_ddpo",
                        reward=node("PTRewardJPEG", aim="small files (compressibility)", unit="bits per pixel")),
    "ddpo_sf": Proof("DDPO-SF, eps UNet", rises(), iterations(40) | EPS, images=1224,
                     trainer=fast("PTDDPO", learning_rate=2e-3, decay_steps=40, updates_per_rollout=1)),
    "dpok": Proof("DPOK, eps UNet", rises(), iterations(40) | EPS, images=1224,
                  trainer=fast("PTDPOK", learning_rate=2e-3, decay_steps=80)),
    # RL on a model that edits: prompts carry pictures
    "edits": Proof("Flow-GRPO on edits, \"paint the red ball blue\"", rises(), iterations(20, **{"PTFlowGRPO.decay_steps": 40}),
                   wiring=edit_pictures),
    # preferences, from the policy's own images
    "dpo": Proof("Online Diffusion-DPO", gains(25), iterations(70) | NO_NOISE, trainer=fast("PTDiffusionDPO", decay_steps=140),
                 feedback=node("PTPreferences")),
    "kto": Proof("Online Diffusion-KTO", gains(25), iterations(40) | NO_NOISE, trainer=fast("PTKTO", decay_steps=80),
                 feedback=node("PTLabels")),
    # more prompts with fewer images each: sooner at 90 %
    "kto_quick": Proof("Online Diffusion-KTO, twice the prompts with half the images each", gains(25), iterations(
        28, **{"PTSampling.prompts_per_iteration": 32, "PTSampling.images_per_prompt": 8}) | NO_NOISE,
        trainer=fast("PTKTO", learning_rate=6e-4, decay_steps=48), feedback=node("PTLabels")),
    "taste": Proof("Diffusion-DPO, 60 prompts rated by hand (by a simulated person)", rises(), workflow="teach_it_your_taste"),
    "mapo": Proof("MaPO", rises(), workflow="preferences_without_a_reference_mapo"),
    "d3po": Proof("D3PO", rises(), iterations(30), trainer=fast("PTD3PO"), feedback=node("PTPreferences")),
    "spo": Proof("SPO with a step reward trained in the graph", rises(), workflow="step_by_step_preferences_spo"),
    "spo_again": Proof("SPO, its step reward trained anew after half of the iterations, on what the policy draws by then", rises(),
                       iterations(20), workflow="step_by_step_preferences_spo", wiring=judge_again),
    "spo_verifier": Proof("SPO, candidates judged by the verifier", rises(), few(40), trainer=fast("PTSPO"),
                          wiring=partial(compare_steps, candidates=4, threshold=0.0, sharpness=5.0)),
    # preferences, from pictures in a folder
    "dpo_folder": Proof("Diffusion-DPO, pairs from a folder", rises(), workflow="learn_from_pairs_diffusion_dpo"),
    "kto_folder": Proof("Diffusion-KTO, thumbs from a folder", rises(), workflow="learn_from_thumbs_kto"),
    # through the reward
    "draft_1": Proof("DRaFT-1 on colourfulness", changes=few(20) | NO_NOISE, trainer=fast("PTDRaFT"), **BACKPROP),
    "draft_t": Proof("DRaFT through all steps, on colourfulness", changes=few(20) | NO_NOISE,
                     trainer=fast("PTDRaFT", backprop_steps=0), **BACKPROP),
    "draft_lv": Proof("DRaFT-LV on colourfulness", changes=few(20) | NO_NOISE,
                      trainer=fast("PTDRaFT", extra_noises=2), **BACKPROP),
    "alignprop": Proof("AlignProp on colourfulness", changes=few(20) | NO_NOISE, trainer=fast("PTAlignProp"), **BACKPROP),
    "refl": Proof("ReFL on colourfulness", changes=few(20) | NO_NOISE,
                  trainer=fast("PTReFL", margin=1e6, scale=0.01), **BACKPROP),
    "drtune": Proof("DRTune on colourfulness", changes=few(20) | NO_NOISE, trainer=fast("PTDRTune"), **BACKPROP),
    # few iterations: with 90 the pictures please the network, and nobody else
    "draft_judge": Proof("DRaFT through all steps, on a small CLIP that reads the prompt", rises("own"), few(30) | NO_NOISE,
                         trainer=fast("PTDRaFT", backprop_steps=0, decay_steps=60), **JUDGED),
    "srpo": Proof("SRPO, bright rather than dark, by a small CLIP", rises("own"), few(20) | NO_NOISE, **JUDGED,
                  trainer=fast("PTSRPO", wanted="bright", unwanted="dark"),
                  measured=node("PTRewardColour", statistic="brightness", aim="more")),
    # one LoRA made of two, each of which was trained for one skill
    "opd": Proof("DiffusionOPD: a LoRA for the number of balls and one for their colours, merged", keeps_skills(2),
                 iterations(60, **{"PTSampling.prompts_per_iteration": 16, "PTSampling.images_per_prompt": 8,
                                   "PTSampling.batch_size": 16}) | NO_NOISE,
                 trainer=fast("PTDiffusionOPD", learning_rate=1e-3, updates_per_rollout=8, decay_steps=480),
                 images=612, merged_words=("two", "three"),
                 wiring=partial(merge_skills, trainer=fast("PTNFT", decay_steps=120), words="two, three")),
    # of a model of few steps
    "rtdmd": Proof("RTDMD on a distilled model, 4 steps, a small CLIP at the last", beats_teacher(), images=612,
                   trainer=fast("PTRTDMD", fake_rate=1e-3, decay_steps=80), wiring=FAST, few_steps=4,
                   of_teacher=False),
    # distillation of a model that was post-trained by Diffusion-DPO
    "lcm": Proof("LCM distillation after Diffusion-DPO, 4 steps", keeps(0.5), **DISTIL, few_steps=4),
    "add": Proof("ADD distillation after Diffusion-DPO, 1 step", beats_teacher(), **DISTIL, few_steps=1, trainer=fast(
        "PTADD", student_steps=1, levels=2, distill_weight=20.0, judge_noise=0.4, learning_rate=1e-4,
        updates_per_rollout=16, decay_steps=256)),
}
