"""A shipped workflow with another trainer in it: what a user would re-wire on the page, as functions of graphs.

A graph is a workflow in API format; each function changes the one that it is given.
"""
from __future__ import annotations

from .evaluate import SKILLS, node
from .training import only, producer

IMAGES = {"PTRollout": 1, "PTStepRollout": 2, "PTBackpropStep": 1}  # the output that holds the images


def set_names(graph: dict, run_name: str) -> None:
    """Names the runs and the LoRAs; of several, the last is called ``run_name``, and those before it are numbered."""
    for kind, key, folder in (("PTLoopStart", "run_name", ""), ("PTSaveLora", "file_name", "posttrain/")):
        nodes = [content for content in graph.values() if content["class_type"] == kind]
        for left, content in zip(range(len(nodes) - 1, -1, -1), nodes):
            content["inputs"][key] = folder + run_name + (f" before {left}" if left else "")


def swap_trainer(graph: dict, trainer: dict) -> None:
    """Another trainer for the last loop."""
    step = [content for content in graph.values() if content["class_type"] == "PTTrainStep"][-1]
    graph[step["inputs"]["trainer"][0]] = trainer


def swap_feedback(graph: dict, feedback: dict) -> None:
    """Preferences or Thumbs in the place of Advantages."""
    place = producer(graph, "PTTrainStep", "feedback")
    scores = graph[place]["inputs"]["scores"]
    graph[place] = {**feedback, "inputs": {**feedback["inputs"], "scores": scores}}


def swap_reward(graph: dict, reward: dict) -> None:
    graph["own reward"] = reward
    for content in graph.values():
        if content["class_type"] in ("PTScore", "PTBackpropStep", "PTStepRollout", "PTEvaluate"):
            key = "judge" if "judge" in content["inputs"] else "reward"
            content["inputs"][key] = ["own reward", 0]


def shuffle_rewards(graph: dict, seed: int) -> None:
    """Deals the scores of each iteration out again at random, before they become feedback."""
    feedback = graph[producer(graph, "PTTrainStep", "feedback")]["inputs"]
    graph["shuffle"] = node("ControlShuffleScores", scores=feedback["scores"], iteration=[loop_start(graph), 2], seed=seed)
    feedback["scores"] = ["shuffle", 0]


def edit_pictures(graph: dict) -> None:
    """Demo Edits and Encode Edits in the place of Demo World and Encode Prompts; without the pictures before and after."""
    world, encode = only(graph, "PTDemoWorld"), only(graph, "PTEncodePrompts")
    graph[world] = node("PTDemoEdits", score=graph[world]["inputs"]["score"])
    graph[encode] = node("PTEncodeEdits", prompts=[world, 3], clip=[world, 1], vae=[world, 2], negative="", megapixels=0.0,
                         picture_as="beside the noise (InstructPix2Pix, Flux Canny ...)")
    for preview in [name for name, content in graph.items() if content["class_type"] == "PreviewImage"]:
        remove(graph, preview)


def learn_through_reward(graph: dict) -> None:
    """Train Step (through the reward) in the place of Rollout, Score, Advantages and Train Step."""
    step, rollout = (only(graph, kind) for kind in ("PTTrainStep", "PTRollout"))
    score = only(graph, "PTScore")
    inputs = {key: graph[rollout]["inputs"][key] for key in ("policy", "prompts", "vae", "sampling", "iteration")}
    reward, trainer = graph[score]["inputs"]["reward"], graph[step]["inputs"]["trainer"]
    graph[step] = node("PTBackpropStep", **inputs, reward=reward, trainer=trainer)
    rewire(graph, [rollout, IMAGES["PTRollout"]], [step, IMAGES["PTBackpropStep"]])
    remove(graph, rollout)


def compare_steps(graph: dict, **settings: object) -> None:
    """Step Rollout in the place of Rollout; its pairs in the place of Advantages. The score stays, for the curve."""
    rollout, step, score = (only(graph, kind) for kind in ("PTRollout", "PTTrainStep", "PTScore"))
    rewire(graph, [rollout, IMAGES["PTRollout"]], [rollout, IMAGES["PTStepRollout"]])
    graph[rollout] = node("PTStepRollout", **graph[rollout]["inputs"], judge=graph[score]["inputs"]["reward"], **settings)
    graph[step]["inputs"]["feedback"] = [rollout, 1]


def merge_skills(graph: dict, trainer: dict, words: str) -> None:
    """Two loops before the one of the workflow, each of which learns one skill from the checker; that one then learns from both,
    by the trainer that it has, without a reward. words: of the prompts that the first teaches."""
    kinds = ("PTLoopStart", "PTRollout", "PTScore", "PTAdvantages", "PTTrainStep", "PTLoopEnd", "PTSaveLora")
    loop = {kind: only(graph, kind) for kind in kinds}
    rest, teacher = dict(graph), None
    checker = rest[loop["PTScore"]]["inputs"]["reward"]
    graph.clear()
    for skill, own in zip(SKILLS, (words, "")):
        mine = {name: f"{name} for {skill}" for name in loop.values()}
        for name in loop.values():
            graph[mine[name]] = moved(rest[name], mine)
        graph[mine[loop["PTScore"]]]["inputs"]["reward"] = [f"checker of {skill}", 0]
        graph[mine[loop["PTTrainStep"]]]["inputs"]["trainer"] = [f"trainer for {skill}", 0]
        graph[f"checker of {skill}"] = node("ControlSkill", checker=checker, skill=skill)
        graph[f"trainer for {skill}"] = trainer
        before = {} if teacher is None else {"others": [teacher, 0]}
        teacher = f"teacher of {skill}"
        graph[teacher] = node("PTTeacher", lora="none", words=own, guidance=0.0, policy=[mine[loop["PTLoopEnd"]], 0], **before)
    graph.update(rest)
    step = graph[loop["PTTrainStep"]]["inputs"]
    del graph[step.pop("feedback")[0]]
    remove(graph, loop["PTScore"])
    graph[step["trainer"][0]]["inputs"]["teacher"] = [teacher, 0]


def tune_student(graph: dict, distil: dict, teacher_sampling: dict, judge: dict, iterations: int, **sampling: object) -> None:
    """A distillation of the demo's model before the workflow's loop, which then trains the student. distil: the trainer of the
    distillation; teacher_sampling: of the images that it learns from; judge: the reward of the student's last step; iterations,
    sampling: of the student's training."""
    rest = dict(graph)
    world, prompts, policy = (only(rest, kind) for kind in ("PTDemoWorld", "PTEncodePrompts", "PTCreatePolicy"))
    trainer = rest[only(rest, "PTTrainStep")]["inputs"]["trainer"][0]
    graph.clear()
    graph["teacher"] = {**rest[policy], "inputs": dict(rest[policy]["inputs"])}
    graph["teacher images"] = node("PTRollout", policy=["teacher", 0], prompts=[prompts, 0], vae=[world, 2],
                                   sampling=["teacher sampling", 0])
    graph["distillation"] = node("PTLoopStart", policy=["teacher", 0], run_name="", iterations=8, when_run_exists="start over",
                                 save_every=20, continue_from=0)
    graph["distilled"] = node("PTTrainStep", policy=["distillation", 1], rollout=["teacher images", 0], trainer=["distil", 0])
    graph["student"] = node("PTLoopEnd", loop=["distillation", 0], policy=["distilled", 0], samples_every=0)
    graph["saved student"] = node("PTSaveLora", policy=["student", 0], file_name="", made_for="ComfyUI", precision="float32",
                                  loras_below="leave them out", rank=0)
    graph["fast model"] = node("PTApplyPolicy", policy=["student", 0], strength=1.0)
    graph |= {"distil": distil, "teacher sampling": teacher_sampling, "judge": judge}
    graph.update(rest)
    graph[only(rest, "PTSampling")]["inputs"] |= sampling
    graph[only(rest, "PTLoopStart")]["inputs"]["iterations"] = iterations
    graph[policy]["inputs"]["model"] = ["fast model", 0]
    graph[trainer]["inputs"] |= {"reward": ["judge", 0], "vae": [world, 2]}


def judge_again(graph: dict) -> None:
    """The loop of a step reward in two halves: between them another judge is trained, on what the policy draws by then."""
    rest = dict(graph)
    judged = ("PTRollout", "PTScore", "PTPreferences", "PTStepReward")
    loop = ("PTLoopStart", "PTStepRollout", "PTTrainStep", "PTLoopEnd")
    names = {kind: only(rest, kind) for kind in (*loop, *judged)}
    first = {names[kind]: f"{names[kind]} at first" for kind in loop}
    again = {names[kind]: f"{names[kind]} again" for kind in judged}
    graph.clear()
    graph |= {first[name]: moved(rest[name], first) for name in first}
    graph |= {again[name]: moved(rest[name], again) for name in again}
    graph |= rest
    learned = [first[names["PTLoopEnd"]], 0]
    graph[again[names["PTRollout"]]]["inputs"]["policy"] = graph[names["PTLoopStart"]]["inputs"]["policy"] = learned
    graph[names["PTStepRollout"]]["inputs"]["judge"] = [again[names["PTStepReward"]], 0]


def moved(content: dict, names: dict[str, str]) -> dict:
    """A copy of a node that hangs on the nodes of these new names."""
    inputs = {key: [names.get(value[0], value[0]), value[1]] if isinstance(value, list) else value
              for key, value in content["inputs"].items()}
    return {**content, "inputs": inputs}


def images_seen(graph: dict, iterations: int) -> int:
    """How many images the last loop trained on; those that were made once before it count once."""
    each = images_at_once(graph, source_of_images(graph))
    return each if made_once(graph) else each * iterations


def images_at_once(graph: dict, source: dict) -> int:
    """How many images a train step's source gives it."""
    inputs = source["inputs"]
    if "pairs_per_iteration" in inputs:
        return inputs["pairs_per_iteration"] * (1 if of_thumbs(graph) else 2)
    sampling = graph[inputs["sampling"][0]]["inputs"]
    return sampling["prompts_per_iteration"] * sampling["images_per_prompt"]


def made_once(graph: dict) -> bool:
    """Whether the last loop trains on images that were made before it."""
    return "iteration" not in source_of_images(graph)["inputs"]


def source_of_images(graph: dict, step: dict | None = None) -> dict:
    """The node that gives a train step its images, the last one unless told."""
    step = step or train_steps(graph)[-1]
    return graph[step["inputs"]["rollout"][0]] if "rollout" in step["inputs"] else step


def train_steps(graph: dict) -> list[dict]:
    return [content for content in graph.values() if content["class_type"] in ("PTTrainStep", "PTBackpropStep")]


def of_thumbs(graph: dict) -> bool:
    return any("thumbs" in content["inputs"].get("layout", "") for content in graph.values())


def loop_start(graph: dict) -> str:
    return producer(graph, "PTLoopEnd", "loop")


def rewire(graph: dict, source: list, target: list) -> None:
    """Every input that hangs on ``source`` hangs on ``target`` then."""
    for content in graph.values():
        for key, value in content["inputs"].items():
            if value == source:
                content["inputs"][key] = target


def remove(graph: dict, name: str) -> None:
    """Takes a node out, and all that hang on it."""
    del graph[name]
    hanging = [other for other, content in graph.items()
               if any(isinstance(value, list) and value and value[0] == name for value in content["inputs"].values())]
    for other in hanging:
        if other in graph:
            remove(graph, other)
