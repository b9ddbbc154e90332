"""The shipped templates that look at rewards before anything is trained."""
from __future__ import annotations

from .template import Group, Template

SCORE_FOLDER = """## Score a folder

What does a reward like? Look at its favourites before you train on it: a training finds more of them, good or bad.

1. Press **Run**. It takes a few seconds.
2. **The best** and **The worst** show the pictures at both ends, with their scores.
3. **Score Folder** has a line for every picture, ready to be copied into a spreadsheet.

**Your own pictures:** delete *Demo Pictures* and type your folder's name into *Score Folder*, a folder in ComfyUI's \
input folder. The prompt of *cat.png* is the text in *cat.txt*.

**Another reward:** replace *Colour Reward*. PickScore, HPS, ImageReward and others are in the menu under *PostTrain / 4 \
Rewards*; each says which file it needs.
"""

AGREES = """## Which reward agrees with me?

Pairs of pictures, of which you prefer one: how often does each reward prefer the same one? A reward that agrees with \
you in 55 of 100 cases teaches mostly something else.

1. Press **Run**. It takes a few seconds.
2. Read the answer in **Which Reward Agrees with Me?**: the share of pairs, with its 95% interval. *may be chance* means \
that more pairs are needed. Below it: which rewards go together.

Here the right picture of a prompt is preferred to a wrong one. The demo's checker knows the rule, the others only look \
at colours or at the size of the file.

**Your own taste:** delete *Demo Pictures* and type your folder's name into *Pairs from Folder*. It holds the folders \
*win* and *lose* with pictures of the same names, and a *.txt* file with the prompt. A hundred pairs are a good start.

**Other rewards:** up to six; wire them in place of these.
"""

VETO = """## Ensemble with veto

Rewards that hold each other in check, so that none of them can be gamed alone.

- **Trained**: what the pictures shall become better at.
- **Gate**: a veto. Pictures beyond its threshold fall behind all others of their prompt, however good they are \
otherwise. Here: too dark or too bright.
- **Monitor**: is watched and never trained on. If the trained score rises and the monitor falls, the policy is gaming \
the reward.

1. Press **Run**. It takes a few seconds.
2. Under each picture: its score, then every member's own score and, in brackets, what it counts in the ensemble: for \
the gate, 1 is open and 0 is a veto.

**To train on it:** wire *reward* of *Reward Ensemble* into *Score Rollout* of another template. The curve then offers \
each member, the monitor too. **Your own rewards:** replace the demo's; give each its part with *Reward Member*.
"""

REWARDS = (
    Template("score_a_folder", "Score a folder", SCORE_FOLDER, [
        [Group("Start here", [["note"]]),
         Group("1  Pictures and reward", [["1", "2"]]),
         Group("2  The numbers", [["3"]]),
         Group("3  What it likes", [["4"], ["5"]])],
    ], [["4"], ["5"]], {"note": (420, 380), "3": (420, 620), "4": (420, 620), "5": (420, 620)}),
    Template("which_reward_agrees_with_me", "Which reward agrees with me", AGREES, [
        [Group("Start here", [["note"]]),
         Group("1  Pairs: which picture is better?", [["1", "2"]]),
         Group("2  The rewards to compare", [["3"], ["4", "5"], ["6"]]),
         Group("3  The answer", [["7"]])],
    ], [["7"]], {"note": (420, 440), "7": (620, 420)}),
    Template("ensemble_with_veto", "Ensemble with veto", VETO, [
        [Group("Start here", [["note"]]),
         Group("1  Pictures to score", [["1", "2"], ["3"], ["4"], ["5"]])],
        [Group("2  The members and their parts", [["6"], ["7", "8"], ["9", "10"]]),
         Group("3  The ensemble", [["11"], ["12", "13"]]),
         Group("4  What each of them thinks", [["14"]])],
    ], [["14"]], {"note": (420, 420), "11": (400, 340), "14": (960, 690)}),
)
