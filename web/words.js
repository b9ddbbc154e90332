// Everything that the page says, in each language; {name} is replaced.
import { app } from "../../scripts/app.js";

const EN = {
  tab: "Runs of PostTrain: curves and samples",
  runs: "Runs",
  none: "No run yet. Open the template \"Learn to follow prompts\" and press Run.",
  waiting: "Run \"{run}\" has not started. Press Run to train.",
  unnamed: "Connect Loop Start to see the training here.",
  running: "Training: iteration {iteration} of {iterations}",
  starting: "Training: the first of {iterations} iterations",
  done: "Finished: {iteration} iterations",
  cancelled: "Cancelled after iteration {iteration} of {iterations}",
  paused: "Paused after iteration {iteration} of {iterations}. Queue again to go on",
  held: "Paused after iteration {iteration} of {iterations}",
  error: "Stopped by an error after iteration {iteration} of {iterations}",
  stopped: "Broke off at iteration {iteration} of {iterations}. Queue again to go on",
  elsewhere: "Training in another process: iteration {iteration} of {iterations}",
  unknown: "{iteration} iterations",
  left: "{time} left",
  seconds: "{n} s", minutes: "{n} min", hours: "{n} h", days: "{n} days",
  ago: "{time} ago", now: "just now",
  reward: "Reward", rewardNow: "Reward {now}", rewardStart: "{start} at the start", mainNow: "{name} {now}",
  heldOutCurve: "violet: held-out prompts; ",
  band: "line: running mean, dots: each iteration, band: spread of the images",
  line: "line: running mean, dots: each iteration",
  at: "Iteration {iteration}: {value}",
  spread: "{value} ± {spread}",
  sample: "Samples of iteration {iteration}",
  heldOut: "Held-out prompts, iteration {iteration}. Press on the picture to see your model before training.",
  heldOutBase: "Held-out prompts, your model before training",
  samplesOf: { samples: "Pictures of the training", held_out: "Held-out prompts" },
  noSample: "Sample pictures appear here while it trains.",
  openRun: "Show this run in the side bar",
  newest: "Newest",
  messages: "Messages",
  thinned: "Each stretch of {n} iterations is drawn as its least and greatest value.",
  failed: "The runs cannot be read: {reason}",
  failedNode: "This node failed",
  rate: "Rate {n} images",
  rateOf: "Prompt {at} of {all} · {title}",
  rateThumbs: "Click or press a number: once for good, twice for bad. Enter goes on.",
  rateBest: "Which is the best?", rateWorst: "And which is the worst?",
  rateJudged: "Judged. Click to choose anew, Enter goes on.",
  up: "good", down: "bad", best: "best", worst: "worst",
  back: "Back", next: "Next", skip: "Skip", finish: "Done", later: "Later", pause: "Pause the training",
  pauseHint: "Stops the training with everything saved. Queue again to go on with these images.",
  rateFailed: "This was not saved: {reason}",
  askAddressTitle: "Send something to another machine?",
  askAddress: "This workflow wants to send pictures, prompts or a LoRA to {address}. Allow it only if you know whose machine that is. " +
    "The answer is kept.",
  addressAllowed: "{address} is allowed. Press Run again.",
  questionTitle: "The settings of \"{run}\" have changed", questionBody: "What shall happen?", was: "was", nowIs: "is now",
  answers: { "continue with changed settings": "Go on with the new settings", "start over": "Start over; the old run is kept as a backup",
    "leave it": "Leave it" },
  steer: "Steer this training",
  steerPause: "Pause", steerPauseHint: "Waits after this iteration, with everything saved",
  steerGoOn: "Go on", steerGoOnHint: "Trains on at once",
  steerSample: "Sample now", steerSampleHint: "Keeps this iteration's pictures, and measures the held-out prompts where there are any",
  steerCheckpoint: "Checkpoint now", steerCheckpointHint: "Saves this iteration, and keeps it for good",
  steerStop: "Stop and export", steerStopHint: "Ends the training after this iteration; the rest of the workflow, such as Save LoRA, then runs",
  steerWaits: "It is done after this iteration.",
  numbers: { "learning rate": "Learning rate", "KL weight": "KL weight" },
  changedNumber: "From here on: {name} {value} (before: {before}).",
  doneSound: "Play a sound when a training ends", doneTitle: "Mark the page's title when a training ends",
  doneNotification: "Show a notification when a training ends",
  gaugeVram: "GPU memory {value} GB", gaugeRam: "RAM {value} GB",
  gaugeTime: "time: {sampling} % sampling, {decoding} % decoding, {scoring} % scoring, {training} % training",
  progress: "Progress of the training", chooseCurve: "Number of this curve", removeCurve: "Take this curve away",
  moreCurves: "Add a curve", log: "log axis", smooth: "Smoothing ±{n}", smoothAuto: "Smoothing auto",
  overlay: "Draw \"{run}\" behind the shown run", search: "Search runs and notes",
  shelf: "This run…", pin: "Pin", unpin: "Unpin", rename: "Rename", renameTo: "A new name for the run \"{run}\":",
  note: "Note", noteOf: "A note on the run \"{run}\":", csv: "Download CSV", openWorkflow: "Open its workflow",
  tensorboard: "Write TensorBoard files", wandb: "Write W&B files (offline)", copyFolder: "Copy its folder", deleteRun: "Delete",
  goBack: "Go back to iteration", goBackSet: "Press Run: \"{run}\" goes on from iteration {iteration}. As it is now, it stays beside it.",
  goBackNowhere: "No node on the page trains \"{run}\". Open its workflow first, then go back.",
  deleteSure: "Move the run \"{run}\" to output/posttrain/.trash? Its checkpoints go with it. LoRAs that were saved stay.",
  copyPath: "Copy", copied: "Copied", copyByHand: "Copy this:", savedAt: "Saved as {path}",
  metrics: {
    "*parts": "Parts of the reward", "*time": "Where the time goes",
    seconds_sampling: "Seconds of sampling", seconds_decoding: "Seconds of decoding", seconds_scoring: "Seconds of scoring",
    seconds_training: "Seconds of training", seconds_samplers: "Seconds at work of each other computer", vram_gb: "GPU memory, most (GB)", ram_gb: "Memory of ComfyUI (GB)",
    reward_mean: "Reward", accuracy: "Accuracy",
    kl: "KL: distance from your model", clip_fraction: "Clipped steps (share)", grad_norm: "Gradient norm", loss: "Loss",
    pass_rate: "Pass rate", reward_std: "Spread of the reward", zero_spread_groups: "Prompts whose images score the same",
    failed: "Images that could not be scored", skipped_updates: "Skipped updates", learning_rate: "Learning rate",
    ratio_mean: "Likelihood ratio, mean", ratio_largest_change: "Likelihood ratio, largest change",
    prompts_cut: "Prompts too long for a reward", ocr_failures: "Images that OCR failed on",
    seconds: "Seconds per iteration", used: "Images used", updates: "Optimizer steps",
    held_out_reward: "Reward on held-out prompts", held_out_gain: "Held-out gain over your model",
    held_out_base: "Held-out reward before training", held_out_error: "Held-out gain, standard error",
    held_out_seconds: "Seconds of a held-out measurement",
    picture_brightness: "Pictures: brightness", picture_contrast: "Pictures: contrast",
    picture_colourfulness: "Pictures: colourfulness", picture_detail: "Pictures: fine detail",
    picture_variety: "Pictures: variety",
  },
  rewardOf: "Reward: {name}",
};

const ZH = {
  tab: "PostTrain 训练记录：曲线与样图",
  runs: "训练记录",
  none: "还没有训练。打开模板“Learn to follow prompts”，然后点击运行。",
  waiting: "训练“{run}”尚未开始。点击运行开始训练。",
  unnamed: "连接“循环开始”后，训练情况会显示在这里。",
  running: "训练中：第 {iteration} / {iterations} 次迭代",
  starting: "训练中：共 {iterations} 次迭代，正在进行第一次",
  done: "已完成：{iteration} 次迭代",
  cancelled: "已取消，停在第 {iteration} / {iterations} 次迭代",
  paused: "已暂停于第 {iteration} / {iterations} 次迭代，再次运行即可继续",
  held: "已暂停于第 {iteration} / {iterations} 次迭代",
  error: "因错误停在第 {iteration} / {iterations} 次迭代",
  stopped: "中断于第 {iteration} / {iterations} 次迭代，再次运行即可继续",
  elsewhere: "正在另一个进程中训练：第 {iteration} / {iterations} 次迭代",
  unknown: "{iteration} 次迭代",
  left: "剩余约 {time}",
  seconds: "{n} 秒", minutes: "{n} 分钟", hours: "{n} 小时", days: "{n} 天",
  ago: "{time}前", now: "刚刚",
  reward: "奖励", rewardNow: "奖励 {now}", rewardStart: "开始时 {start}", mainNow: "{name} {now}",
  heldOutCurve: "紫色：留出提示词；",
  band: "线：滑动平均；点：每次迭代；色带：图像间的差异",
  line: "线：滑动平均；点：每次迭代",
  at: "第 {iteration} 次迭代：{value}",
  spread: "{value} ± {spread}",
  sample: "第 {iteration} 次迭代的样图",
  heldOut: "留出提示词，第 {iteration} 次迭代。按住图片可查看训练前的模型。",
  heldOutBase: "留出提示词，训练前的模型",
  samplesOf: { samples: "训练中的图像", held_out: "留出提示词" },
  noSample: "训练时样图会显示在这里。",
  openRun: "在侧栏中查看这次训练",
  newest: "最新",
  messages: "消息",
  thinned: "每 {n} 次迭代只画出最小值和最大值。",
  failed: "无法读取训练记录：{reason}",
  failedNode: "此节点出错",
  rate: "为 {n} 张图像评分",
  rateOf: "提示词 {at} / {all} · {title}",
  rateThumbs: "点击图像或按数字键：一次为好，两次为差。回车继续。",
  rateBest: "哪一张最好？", rateWorst: "哪一张最差？",
  rateJudged: "已评。点击可重新选择，回车继续。",
  up: "好", down: "差", best: "最好", worst: "最差",
  back: "上一组", next: "下一组", skip: "跳过", finish: "完成", later: "稍后", pause: "暂停训练",
  pauseHint: "停止训练并保存一切。再次运行即可继续为这些图像评分。",
  rateFailed: "未能保存：{reason}",
  askAddressTitle: "要把内容发送到另一台机器吗？",
  askAddress: "此工作流想把图像、提示词或 LoRA 发送到 {address}。只有在你知道那是谁的机器时才允许。回答会被保存。",
  addressAllowed: "已允许 {address}。请再次点击运行。",
  questionTitle: "训练“{run}”的设置已更改", questionBody: "要怎么做？", was: "之前", nowIs: "现在",
  answers: { "continue with changed settings": "用新设置继续", "start over": "重新开始；旧的训练会作为备份保留", "leave it": "先不处理" },
  steer: "控制这次训练",
  steerPause: "暂停", steerPauseHint: "在本次迭代之后等待，一切都会保存",
  steerGoOn: "继续", steerGoOnHint: "立即继续训练",
  steerSample: "立即出样图", steerSampleHint: "保存本次迭代的图像；若有留出提示词，也一并评估",
  steerCheckpoint: "立即存检查点", steerCheckpointHint: "保存本次迭代，并永久保留",
  steerStop: "停止并导出", steerStopHint: "在本次迭代之后结束训练，然后运行工作流的其余部分，例如保存 LoRA",
  steerWaits: "将在本次迭代之后执行。",
  numbers: { "learning rate": "学习率", "KL weight": "KL 权重" },
  changedNumber: "从这里起：{name} {value}（之前：{before}）。",
  doneSound: "训练结束时播放提示音", doneTitle: "训练结束时在页面标题中标记", doneNotification: "训练结束时显示通知",
  gaugeVram: "显存 {value} GB", gaugeRam: "内存 {value} GB",
  gaugeTime: "时间：采样 {sampling} %，解码 {decoding} %，评分 {scoring} %，训练 {training} %",
  progress: "训练进度", chooseCurve: "这条曲线的指标", removeCurve: "移除这条曲线",
  moreCurves: "添加曲线", log: "对数轴", smooth: "平滑 ±{n}", smoothAuto: "平滑：自动",
  overlay: "把“{run}”叠加在所选训练的后面", search: "搜索训练与备注",
  shelf: "这次训练…", pin: "置顶", unpin: "取消置顶", rename: "重命名", renameTo: "训练“{run}”的新名称：",
  note: "备注", noteOf: "训练“{run}”的备注：", csv: "下载 CSV", openWorkflow: "打开它的工作流",
  tensorboard: "写出 TensorBoard 文件", wandb: "写出 W&B 文件（离线）", copyFolder: "复制文件夹位置", deleteRun: "删除",
  goBack: "回到此次迭代", goBackSet: "请点击“运行”：“{run}”将从第 {iteration} 次迭代继续；现在的训练会另行保留。",
  goBackNowhere: "页面上没有训练“{run}”的节点。请先打开它的工作流，再回到此次迭代。",
  deleteSure: "要把训练“{run}”移到 output/posttrain/.trash 吗？检查点会一起移走，已保存的 LoRA 不受影响。",
  copyPath: "复制", copied: "已复制", copyByHand: "请复制：", savedAt: "已保存为 {path}",
  metrics: {
    "*parts": "奖励的各部分", "*time": "时间分布",
    seconds_sampling: "采样秒数", seconds_decoding: "解码秒数", seconds_scoring: "评分秒数", seconds_training: "训练秒数",
    seconds_samplers: "每台其他计算机的工作秒数",
    vram_gb: "显存峰值（GB）", ram_gb: "ComfyUI 内存（GB）",
    reward_mean: "奖励", accuracy: "准确率",
    kl: "KL：与原模型的距离", clip_fraction: "被裁剪的步（比例）", grad_norm: "梯度范数", loss: "损失", pass_rate: "通过率",
    reward_std: "奖励的离散程度", zero_spread_groups: "图像得分全相同的提示词", failed: "无法评分的图像",
    skipped_updates: "跳过的更新", learning_rate: "学习率", ratio_mean: "似然比均值",
    prompts_cut: "超出奖励长度限制的提示词", ocr_failures: "OCR 读取失败的图像",
    ratio_largest_change: "似然比最大变化", seconds: "每次迭代秒数", used: "使用的图像", updates: "优化器步数",
    held_out_reward: "留出提示词的奖励", held_out_gain: "留出提示词相对原模型的提升", held_out_base: "训练前留出提示词的奖励",
    held_out_error: "留出提升的标准误差", held_out_seconds: "一次留出评估的秒数",
    picture_brightness: "画面：亮度", picture_contrast: "画面：对比度", picture_colourfulness: "画面：色彩丰富度",
    picture_detail: "画面：细节", picture_variety: "画面：多样性",
  },
  rewardOf: "奖励：{name}",
  // the server writes them in English; its words for a look are the keys
  alarms: {
    steps_left_out: "有 {value} 个随机步不加噪声：此调度器末尾的噪声水平过于接近 0，加上的噪声再也无法去除。一切正常；若也想训练这些步，" +
      "请选择调度器“simple”。",
    lora_shows: "若干次迭代之后，LoRA 仍然太小，其效果大部分显示不出来：模型计算的精度过低，画面几乎反映不出学到的东西。" +
      "模型允许时请用 float16 权重代替 bfloat16，或提高学习率。",
    pictures: "与开始时相比，{word}（{number}：{first}，现在 {now}）。如果这不是您想要的，说明奖励正在被钻空子。请查看样图，" +
      "然后添加惩罚这种变化的奖励、增大 beta（KL 权重），或减少迭代次数。",
    fall: "奖励从 {best}（第 {until} 次迭代前后）降到了 {now}。通常是学习率过高：请减半后重新开始，或只训练 {until} 次迭代。",
    held_out: "留出提示词的奖励从 {best}（第 {until} 次迭代）降到了 {now}，而训练用提示词的奖励在上升：模型把它们背了下来。" +
      "请使用那次迭代的策略、增加提示词，或减少迭代次数。",
    looks: "留出提示词的画面与训练前相比{word}（{number}：训练前 {first}，现在 {now}）。如果这不是您想要的，说明奖励正在被钻空子：" +
      "请把留出图像与原模型的图像对照查看。",
    part: "总奖励在上升，但其中的“{name}”在下降（从 {first} 到 {now}）：其他部分是以它为代价换来的。请增大它的权重，或为它设定下限。",
  },
  steered: {
    paused: "已暂停，状态已保存。点击按钮继续；也可取消以腾出队列，以后再次运行。", "goes on": "继续训练。",
    kept: "这次迭代的检查点会永久保留。", "let go": "工作流的设置已更新，页面上的改动不再有效（{said}）。",
  },
  blocks: {
    model: "模型", "trained model": "训练后的模型", prompts: "提示词", prompt: "提示词", reward: "奖励", goal: "目标", width: "宽度", height: "高度",
    "pictures at once": "同时计算的图片数", pictures: "图片数", "pictures of each": "每条提示词的图片数", iterations: "迭代次数",
    "run name": "训练名称", "folder or words": "文件夹或文字", checkpoint: "模型文件", "model file": "模型文件", folder: "文件夹", choose: "怎样选择", steps: "步数", guidance: "引导强度", "LoRA file": "LoRA 文件",
    before: "训练前", after: "训练后", "in words": "文字结果",
  },
  goals: { "look better": "更好看", "follow prompts": "更符合提示词", "my taste": "我的品味", "like these pictures": "像这些图片",
    "less of this": "少一点这个" },
  looks: {
    "much brighter": "画面明显变亮", "much darker": "画面明显变暗", "much higher in contrast": "画面对比度明显升高",
    "much lower in contrast": "画面对比度明显降低", "much more colourful": "画面色彩明显变浓", "much greyer": "画面明显变灰",
    "much busier or noisier in fine detail": "画面细节明显变得杂乱或有噪点",
    "over-saturated": "过度饱和", "centred, with little around the middle": "主体都居中，四周空无一物",
    "all composed alike": "构图都雷同", "full of dots or holes": "布满斑点或孔洞",
    "marked in a corner, as by a watermark": "角落出现类似水印的标记", "flat with hard edges, as in a cartoon": "像卡通一样平涂且边缘生硬",
    "over-cooked in light, with burnt white or black": "光线过度，出现死白或死黑",
    "much poorer in fine detail": "画面细节明显减少", "much more alike": "各张画面明显变得雷同",
  },
};

/** The language that the user has chosen, such as "en" or "zh". */
export const locale = () => String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "en");

const language = () => (locale().startsWith("zh") ? ZH : EN);

const fill = (form, values) => form.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? "");

/** The sentence of that name in the user's language. */
export const words = (key, values = {}) => fill(language()[key], values);

/** What an input or output of the pack's blocks is called in the user's language; nothing for a name that they do not have. */
export const blockLabel = (name) => (Object.hasOwn(ZH.blocks, name) ? (language().blocks?.[name] ?? name) : undefined);

/** A choice of the node Goal in the user's language. */
export const goalName = (goal) => language().goals?.[goal] ?? goal;

/** What a list of pictures is called: "samples" or "held_out". */
export const picturesName = (kind) => language().samplesOf[kind];

/** A message of a run as the user should read it: an alarm in the chosen language, anything else as it was written. */
export function messageWords({ text, alarm, values }) {
  const { alarms, looks } = language();
  if (values?.number in language().numbers) {
    const [value, before] = [number(values.value), number(values.before)];
    return words("changedNumber", { name: numberName(values.number), value, before });
  }
  const what = language().steered?.[values?.what];
  if (what) return fill(what, values);
  if (!alarms?.[alarm]) return text;
  const numbers = Object.entries(values).map(([key, value]) => [key, typeof value === "number" ? number(value) : value]);
  const plain = Object.fromEntries(numbers);
  return fill(alarms[alarm], { ...plain, word: looks[plain.word], number: metricName(plain.number ?? "") });
}

/** An answer to a question on a run. */
export const answerName = (answer) => language().answers[answer] ?? answer;

/** A number that can be changed while it trains. */
export const numberName = (name) => language().numbers[name] ?? name;

/** A number of metrics.jsonl as the user should read it. */
export function metricName(key) {
  if (key.startsWith("reward/")) return words("rewardOf", { name: key.slice(7) });
  const plain = key.replaceAll("_", " ").replaceAll("/", ": ");
  return language().metrics[key] ?? plain.charAt(0).toUpperCase() + plain.slice(1);
}

/** 0.0001234 -> "0.000123", 1234567 -> "1.23e6": three digits that mean something. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 3)));
}

export function duration(seconds) {
  if (seconds < 90) return words("seconds", { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 90 * 60) return words("minutes", { n: Math.round(seconds / 60) });
  if (seconds < 36 * 3600) return words("hours", { n: (seconds / 3600).toFixed(1) });
  return words("days", { n: (seconds / 86400).toFixed(1) });
}

export function ago(time) {
  const seconds = Date.now() / 1000 - time;
  return seconds < 60 ? words("now") : words("ago", { time: duration(seconds) });
}

/** What becomes of a run, in one sentence. */
export function statusWords(run) {
  const held = run.status === "paused" && run.steering;
  const key = held ? "held" : run.status === "running" && run.iteration === 0 ? "starting" : run.status;
  return words(language()[key] ? key : "unknown", run);
}
