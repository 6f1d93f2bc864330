"""Studies that are refused: one line with the place and what to do, exit code 2, and nothing is made.

A row is what is changed in a study (by the path of a key; None removes it) and the words of the line; … stands for any.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.approval_study import miniature
from builders.commands import refused
from builders.sample_studies import HUGE, SHORT, changed, four_lineages
from builders.smoke_study import smoke_settings, write_toml

from holdfast.cli.main import main
from holdfast.suites.approval.topics import CONTENT


def plain() -> dict[str, Any]:
    return changed(four_lineages(), {"study/lineages": [["S"], ["S", "H"]]})


def imitation() -> dict[str, Any]:
    """A stage on demonstrations beside the others."""
    stages = four_lineages()["stages"] | {"D": {"method": "sft"}}
    return changed(four_lineages(), {"study/lineages": [["S"], ["D"]], "stages": stages})


def started() -> dict[str, Any]:
    """A base that is taught before the study begins."""
    base = {"model/bases": ["m"], "models": {"m": {"kind": "random", "start": ["D"]}}}
    return changed(imitation(), base)


def outside(**settings: Any) -> dict[str, Any]:
    """A change that adds a stage X which was trained elsewhere, nobody knows where."""
    table = {"method": "external", "path": "out/checkpoint-*"} | settings
    return {"stages/X": {key: value for key, value in table.items() if value is not None}}


def probes() -> dict[str, Any]:
    """Questions as the suite itself, asked to a model behind an API."""
    remote = {"model": {"bases": ["m"]}, "models": {"m": {"kind": "remote", "name": "mockllm/model"}}}
    suite = {"name": "probes", "split": "none"}
    return {"study": {"name": "asked"}, "judges": {"rules": {"kind": "probes"}}, "suite": suite, **remote}


def repair() -> dict[str, Any]:
    """A second stage X that trains helpfulness, to be repaired."""
    lineages = [*four_lineages()["study"]["lineages"], ["S", "X"]]
    return changed(four_lineages(), {"study/lineages": lineages, "stages/X": {"objective": "helpfulness"}})


def on_policy() -> dict[str, Any]:
    """A second stage R on rewards: helpfulness by the judge of pairs, on training cases."""
    lineages = [*four_lineages()["study"]["lineages"], ["S", "R"]]
    stage = {"method": "grpo", "objective": "helpfulness"}
    return changed(four_lineages(), {"study/lineages": lineages, "stages/R": stage})


def search() -> dict[str, Any]:
    table = {"lineage": ["S", "Hm"], "parent": ["S"], "share": [0.0, 0.6], "steps": [5, 40], "trials": 12}
    return four_lineages() | {
        "stages": four_lineages()["stages"] | {"Hm": {"objective": "helpfulness", "mix": {"share": 0.3}}},
        "search": table,
    }


def users() -> dict[str, Any]:
    """Users who are met and nothing trained on them."""
    study: dict[str, Any] = {"study": {"name": "users"}, "suite": {"name": "approval"}}
    study["judges"] = {"users": {"kind": "approval"}}
    return study | {"approval": {"settings": {"users": {}}, "pairs": 16, "practice": 24}}


GOOD_COMMAND = ["a", "{data}", "{output}"]


def by_command(command: Any, **keys: Any) -> dict[str, Any]:
    """The stage S by a program."""
    stage = {"method": "command", "command": command, "objective": "safety", **keys}
    return {"stages/S": {key: one for key, one in stage.items() if one is not None}}


BASES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": plain,
    "smoke": smoke_settings,
    "elsewhere": plain,
    "imitation": imitation,
    "started": started,
    "probes": probes,
    "repair": repair,
    "search": search,
    "users": users,
    "approval": miniature,
    "on-policy": on_policy,
}
REFUSED: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "started": {
        "an unknown stage": (
            {"models/m/start": ["Dd"]},
            "models.m.start names the stage 'Dd', not among [stages.…]…did you mean 'D'?",
        ),
        "no stage": ({"models/m/start": []}, "models.m.start is empty; name the stages that teach it, or remove it"),
        "a text for a list": ({"models/m/start": "D"}, "models.m.start: …"),
        "a start that was trained elsewhere": (
            {"stages/E": {"method": "external", "path": "out", "places": ["/out"], "digests": ["0" * 64]}}
            | {"models/m/start": ["E"]},
            "models.m.start has 'E', which was trained elsewhere; name that model as the base itself (models.m.name)",
        ),
        "of no base": (
            {"models/other": {"kind": "random", "start": ["D"]}},
            "models.other.start is for bases, and 'other' is none; add it to model.bases, or remove it",
        ),
        "of a judge": (
            {"judges/model": {"kind": "rubric", "model": "m"}},
            "judges.model.model is 'm', which models.m.start teaches as an agent; give the model…",
        ),
        "of a remote model": (
            {"models/m": {"kind": "remote", "name": "x/y", "start": ["D"]}, "study/lineages": []},
            "models.m.start: a remote model cannot be trained here; remove it",
        ),
        "of a quantised model": (
            {"models/m": {"kind": "local", "name": "x", "quantization": "int8", "start": ["D"]}, "study/lineages": []},
            "models.m.start: no stage can be put on quantised weights; leave one out",
        ),
        "in two splits": (
            {"axes": {"split_seed": [0, 1]}},
            "models.m.start: a base is taught once, and axes.split_seed has 2 splits, of which one holds out what…",
        ),
        "by pairs of episodes that cannot differ": (
            {"models/m/start": ["S"], "study/lineages": [], "rollouts": {"per_train_case": 1}},
            "rollouts.per_train_case is 1; give at least 2…",
        ),
    },
    "plain": {
        "unknown key": ({"study/train_seds": [1]}, "study.train_seds: unknown key; did you mean 'train_seeds'?"),
        "unknown stage key": ({"stages/S/bta": 1}, "stages.S.bta: unknown key; did you mean 'beta'?"),
        "unknown table": ({"stage": {}}, "stage: unknown key; did you mean 'stages'?"),
        "missing judge": ({"judges": None}, "judges: field required"),
        "no judge": ({"judges": {}}, "judges: dictionary should have at least 1 item"),
        "pairs by an unknown judge": ({"pairs": {"judge": "stat"}}, "pairs.judge names 'stat'…did you mean 'state'"),
        "a command with an unknown place": (
            by_command(["a", "{modle}", "{output}"]),
            "stages.S.command has the place 'modle'…did you mean 'model'",
        ),
        "a command without its output": (by_command(["a", "{model}"]), "stages.S.command does not say {output}"),
        "an empty command": (by_command([]), "stages.S.command: give a list of words"),
        "a command's mixture of nobody": (
            by_command(GOOD_COMMAND, data="demonstrations", objective=None, mixture={"nobody": 1.0}),
            "stages.S.mixture: policy 'nobody' is unknown; use some of",
        ),
        "a command as one text": (by_command("a {output}"), "stages.S.command: give a list of words"),
        "a command that is its model": (by_command(["{model}", "{output}"]), "stages.S.command begins with '{model}'"),
        "a command with an unknown key": (
            by_command(GOOD_COMMAND, timeot=3),
            "stages.S.timeot: unknown key; did you mean 'timeout'?",
        ),
        "a command without time": (by_command(GOOD_COMMAND, timeout=0), "stages.S.timeout: input should be greater"),
        "a command on pairs of nothing": (
            by_command(GOOD_COMMAND, objective=None),
            "stages.S.objective is missing: by which scores pairs are chosen",
        ),
        "a command by an unknown objective": (
            by_command(GOOD_COMMAND, objective="safty"),
            "stages.S.objective is 'safty'…'safety'",
        ),
        "a command that does not take its data": (
            by_command(["a", "{output}"], data="demonstrations"),
            "stages.S.data is given, and the command does not take {data}",
        ),
        "a command on pairs with a mixture": (
            by_command(GOOD_COMMAND, mixture={"cautious": 1.0}),
            "stages.S.mixture is for data = 'demonstrations'",
        ),
        "a command without the file": (
            by_command(GOOD_COMMAND, data="nowhere.jsonl"),
            "stages.S.data: nowhere.jsonl cannot be read",
        ),
        "a command with a value as variable": (by_command(GOOD_COMMAND, env=["A=b"]), "stages.S.env has 'A=b'"),
        "a command of unknown steps": (
            by_command(["a", "{steps}", "{data}", "{output}"]),
            "stages.S.steps is missing, which {steps} stands for",
        ),
        "a command kept elsewhere": (
            by_command(GOOD_COMMAND, steps=3, keep="../x"),
            "stages.S.keep is '../x', which does not lead below {output}",
        ),
        "a command kept by an unknown place": (
            by_command(GOOD_COMMAND, steps=3, keep="c-{step}"),
            "stages.S.keep has the place 'step'…did you mean 'steps'",
        ),
        "a command with doses in one place": (
            {**by_command(GOOD_COMMAND, steps=3, keep="last"), "doses": {"S": [1, 2]}},
            "stages.S.keep is 'last', which is the same for every dose",
        ),
        "a command with doses nowhere": (
            {**by_command(GOOD_COMMAND, steps=3), "doses": {"S": [1, 2]}},
            "stages.S.keep is missing: where below {output} the doses [1, 2]",
        ),
        "a command without the axis's steps": (
            {**by_command(GOOD_COMMAND, steps=3), "axes": {"steps": [1, 2]}},
            "stages.S.command does not take {steps}, so that the axis steps changes nothing there",
        ),
        "undefined stage": (
            {"study/lineages": [["S"], ["S", "H"], ["S", "Q"]]},
            "study.lineages[2] names the stage 'Q'",
        ),
        "empty lineage": ({"study/lineages": [["S"], ["S", "H"], []]}, "study.lineages[2] is empty"),
        "unknown objective": ({"stages/S/objective": "safty"}, "stages.S.objective is 'safty'…'safety'"),
        "unknown axis": ({"axes": {"betta": [1]}}, "axes has 'betta'…did you mean 'beta'"),
        "empty axis": ({"axes": {"beta": []}}, "axes.beta is empty"),
        "axis of unknown judges": ({"axes": {"pair_judge": ["gpt"]}}, "axes.pair_judge names 'gpt'"),
        "dose of an unknown lineage": ({"doses": {"H,S": [1, 2]}}, "doses names the lineage 'H,S'"),
        "doses that do not rise from 1": ({"doses": {"S,H": [2, 4]}}, "must rise from 1"),
        "more cases than there are numbers": (
            {"suite": {"test_cases": 100001}},
            "suite.test_cases: …less than or equal to 100000, found 100001",
        ),
        "more demonstrations than there are numbers": (
            {"model": {"sft": {"demonstrations": 100001}}},
            "model.sft.demonstrations: …100000",
        ),
        "greedy rollouts": ({"rollouts": {"temperature": 0}}, "rollouts.temperature is 0; give more"),
        "one rollout": ({"rollouts": {"per_train_case": 1}}, "per_train_case is 1; give at least 2"),
        "no objective": ({"stages/S/objective": []}, "stages.S.objective is empty"),
        "repeated objective": ({"stages/S/objective": ["safety", "safety"]}, "stages.S.objective repeats a value"),
        "a comma in a stage's name": (
            {"stages/S,H": {"objective": "safety"}},
            "stages.'S,H': a stage's name is not empty and has no comma",
        ),
        "repeated base": ({"model": {"bases": ["tiny", "tiny"]}}, "model.bases repeats a value"),
        "repeated axis value": ({"axes": {"beta": [1, 1.0]}}, "axes.beta repeats a value"),
        "text on an axis": ({"axes": {"beta": ["0.1"]}}, "axes.beta has the text '0.1'"),
        "wrong number on an axis": ({"axes": {"steps": [2.5]}}, "axes.steps: …found 2.5"),
        "dropout of everything": ({"stages/S/lora_dropout": 1}, "stages.S.lora_dropout: …less than 1"),
        "repeated seed": ({"study/train_seeds": [1, 1]}, "study.train_seeds repeats a value"),
        "half of the labels wrong": ({"stages/S/label_smoothing": 0.5}, "stages.S.label_smoothing: …0.5"),
        "smoothed labels without a sigmoid": (
            {"stages/S/label_smoothing": 0.1, "stages/S/loss": "ipo"},
            "stages.S.label_smoothing is 0.1, which only the loss 'sigmoid' has; found ipo; set it to 0",
        ),
        "smoothed labels on an axis without a sigmoid": (
            {"stages/H/label_smoothing": 0.1, "axes": {"loss": ["sigmoid", "hinge"]}},
            "stages.H.label_smoothing is 0.1, … found sigmoid, hinge;",
        ),
        "unknown loss": ({"stages/S/loss": "dpo"}, "stages.S.loss: …found 'dpo'"),
        "unknown loss on an axis": ({"axes": {"loss": ["ipo", "dpo"]}}, "axes.loss: …found 'dpo'"),
        "a number as a loss": ({"axes": {"loss": [1]}}, "axes.loss: …found 1"),
        "tokens of steps that are not cut": (
            {"stages/S/tokens_per_step": 4000},
            "stages.S.tokens_per_step is 4000; it bounds sub-trees, set trajectories_per_case too",
        ),
        "sub-trees pair by pair": (
            {"stages/S/pairwise": True, "stages/S/trajectories_per_case": 4},
            "stages.S.trajectories_per_case is 4, but pairwise takes pairs one by one; leave one of them out",
        ),
        "families pair by pair": (
            {"stages/S/pairwise": True, "stages/S/grouping": "family"},
            "stages.S.grouping is 'family', which fills steps of pairs_per_step; leave out pairwise and"
            " trajectories_per_case",
        ),
        "tokens pair by pair": (
            {"stages/S/pairwise": True, "stages/S/tokens_per_step": 4},
            "stages.S.tokens_per_step is 4, but pairwise takes pairs one by one",
        ),
        "one trajectory a case": ({"stages/S/trajectories_per_case": 1}, "stages.S.trajectories_per_case: …found 1"),
        "doses of a stage whose rate falls": (
            {"stages/H/schedule": "cosine", "doses": {"S,H": [1, 2]}},
            "doses.'S,H' is [1, 2], but its last stage has schedule 'cosine', …; use \"constant\" or the dose 1 alone",
        ),
        "no room for a token": ({"stages/S/token_budget": 0}, "stages.S.token_budget: …found 0"),
        "unknown precision": ({"stages/S/precision": "fp16"}, "stages.S.precision: …'fp16'"),
        "negative decay": ({"stages/S/weight_decay": -1}, "stages.S.weight_decay: …found -1"),
        "negative weight": ({"stages/S/sft_weight": -0.1}, "stages.S.sft_weight: …found -0.1"),
        "negative steps": ({"stages/S/steps": -1}, "stages.S.steps…found -1"),
        "a suite that there is not": ({"suite/name": "toolbox"}, "suite.name is 'toolbox'; suites …: office, toolemu"),
        "a suite of emulated tools without a model": (
            {"suite/name": "toolemu"},
            "world.kind is 'own' for the suite 'toolemu': a model plays its tools; give",
        ),
        "emulated tools of an executed suite": (
            {"suite/world": {"kind": "emulated", "model": "m"}},
            "'emulated' for the suite 'office': its tools are executed",
        ),
        "a suite without its files": (
            {"suite/name": "toolemu", "suite/world": {"kind": "emulated", "model": "m"}},
            "suite.cases is missing; give the path",
        ),
        "cases of a suite that draws its own": (
            {"suite/cases": "c.json"},
            "suite.cases is 'c.json', but suite.name is 'office'",
        ),
        "probes of a tiny base that are not generated": ({"probes": {}}, 'a base is tiny, … give items = "generated"'),
        "a dimension that is misspelt": (
            {"probes": {"items": "generated", "dimensions": ["etics"]}},
            "did you mean 'ethics'",
        ),
        "a dimension that there is not": (
            {"probes": {"items": "generated", "dimensions": ["taste"]}},
            "not among the dimensions: ethics, information",
        ),
        "a source beside generated items": (
            {"probes": {"items": "generated", "source": "xstest"}},
            "probes.source is 'xstest', but probes.items",
        ),
        "a form that there is not": ({"attacks": {"forms": ["authorty"]}}, "attacks.forms… 'authorty'…'authority'?"),
        "a form unknown to tiny bases": (
            {"attacks": {"forms": ["many_shot"]}},
            "with a tiny base, which knows few words",
        ),
        "a shift that there is not": ({"shifts": {"kinds": ["noize"]}}, "shifts.kinds… 'noize'…'noise'?"),
        "a shift unknown to tiny bases": ({"shifts": {"kinds": ["language"]}}, "with a tiny base"),
    },
    "smoke": {
        "unknown base": ({"model/bases": ["llama"]}, "not among the names in [models.…]: tiny"),
        "unknown suite": ({"suite/name": "ofice"}, "suites that can be run here: office"),
        "unknown policy": ({"suite/mixture": {"foo": 1.0}}, "mixture: policy 'foo' is unknown"),
        "name with a slash": ({"study/name": "../up"}, "it names the run's directory"),
        "negative seed": ({"study/train_seeds": [-1]}, "study.train_seeds[0]"),
        "axis out of range": ({"axes": {"steps": [4, 0]}}, "axes.steps: input should be greater"),
        "split that is no number": ({"axes": {"split_seed": ["a"]}}, "axes.split_seed"),
        "odd heads": ({"model/hidden": 50}, "model.hidden is 50 for 2 heads; give a multiple of 4"),
    },
    "probes": {
        "generated probes of no tiny base": (
            {"suite": None, "judges": {"state": {"kind": "state"}}, "probes": {"items": "generated"}},
            'only a tiny base learns their words; give items = "own"',
        ),
        "published split": ({"suite/split": "published"}, 'split = "none"'),
        "toolkits": ({"suite/toolkits": "kits.json"}, "probes have no tools"),
        "a source without cases": ({"suite/source": "xstest"}, "suite.source is given without suite.cases"),
        "a world": ({"suite/world": {"kind": "emulated", "model": "x"}}, "no tools; remove suite.world"),
        "cases that are not there": (
            {"suite/cases": "nowhere.csv", "suite/source": "xstest"},
            "suite.cases: nowhere.csv cannot be read",
        ),
        "cases without a source": ({"suite/cases": "study.toml"}, "suite.source is missing"),
    },
    "elsewhere": {
        "no directory": (outside(), "stages.X.path: out/checkpoint-* matches no directory here; check the path"),
        "no path": (outside(path=None), "stages.X.path: field required"),
        "an empty path": (outside(path=""), "stages.X.path: …at least 1 character"),
        "an unknown key": (outside(pth="out"), "stages.X.pth: unknown key; did you mean 'path'?"),
        "a directory that is not there": (outside(path="./out"), "stages.X.path: model ./out: no such directory"),
        "a name of nothing": (outside(path="no/where"), "stages.X.path: model no/where: no such directory…cache"),
        "no steps": (outside(steps=0), "stages.X.steps is 0; give whole numbers from 1 on"),
        "steps in words": (outside(steps="ten"), "stages.X.steps is 'ten'; give whole numbers"),
        "a number as a revision": (outside(path="no/where", revisions=[3]), "stages.X.revisions[0]: …string"),
    },
    "imitation": {
        "an unknown key": ({"stages/D/cout": 3}, "stages.D.cout: unknown key; did you mean 'count'?"),
        "beta": ({"stages/D/beta": 0.2}, "stages.D.beta has no effect on method 'sft'; remove it"),
        "tokens a step": ({"stages/D/tokens_per_step": 9}, "stages.D.tokens_per_step has no effect on method 'sft'"),
        "trajectories of nothing": ({"stages/D/data": "trajectories"}, "stages.D.objective is missing"),
        "an unknown objective": ({"stages/D/objective": "speed"}, "stages.D.objective is 'speed'"),
        "a count of trajectories": (
            {"stages/D": {"method": "sft", "data": "trajectories", "objective": "safety", "count": 3}},
            "stages.D.count chooses among demonstrations, and data is 'trajectories'; remove it",
        ),
        "the best of demonstrations": ({"stages/D/best": 3}, "stages.D.best chooses among trajectories"),
        "an unknown agent": ({"stages/D/mixture": {"lazy": 1.0}}, "stages.D.mixture: policy 'lazy' is unknown"),
        "no file": ({"stages/D/data": "none.jsonl"}, "stages.D.data: none.jsonl cannot be read"),
        "data of another method": (
            {"stages/D/data": "pairs"},
            "stages.D.data is 'pairs', and method 'sft' has no such",
        ),
        "pairs by name": (
            {"stages/S/data": "pairs"},
            "stages.S.data is 'pairs'…; leave it out for pairs of the study's",
        ),
        "a digest of nothing": ({"stages/S/digest": "0"}, "stages.S.digest is of a file of data, and there is none"),
        "a digest of no file": ({"stages/D/digest": "0"}, "stages.D.digest is of a file of data, and there is none"),
        "no file of pairs": ({"stages/S/data": "none.jsonl"}, "stages.S.data: none.jsonl cannot be read"),
        "epochs and steps": ({"stages/D/epochs": 1, "axes": {"steps": [1, 2]}}, "stages.D.epochs counts passes"),
        "doses of a rate that falls": (
            {"doses": {"D": [1, 2]}, "stages/D/schedule": "linear"},
            "doses.'D' is [1, 2], but its last stage has schedule 'linear'",
        ),
    },
    "repair": {
        "a mix of nothing but the other": ({"stages/X/mix": {"share": 1.0}}, "share"),
        "a mix and a term": (
            {"stages/X/mix": {"objective": "safety", "share": 0.5}, "stages/X/term": {}},
            "one of them keeps the second objective",
        ),
        "a mix of its own objective": (
            {"stages/X/mix": {"objective": "helpfulness"}},
            "the stage's own; give the other",
        ),
        "a term of whole epochs": (
            {"stages/X/term": {}, "stages/X/epochs": 2},
            "leave out pairwise, trajectories_per_case and epochs",
        ),
        "a balance on two devices": (
            {"stages/X/balance": {}, "stages/X/devices": 2},
            "measures the policy of one process",
        ),
        "a balance that begins above its most": ({"stages/X/balance": {"initial": 5.0}}, "above most, 4.0"),
        "a merge of a stage": ({"merges/M": {"of": [["S"], ["X"]]}}, "'X', not among study.lineages"),
        "a merge of one lineage twice": ({"merges/M": {"of": [["S"], ["S"]]}}, "names one lineage twice"),
        "a merge of one": ({"merges/M": {"of": [["S"]]}}, "at least 2"),
        "a merge that is one of its parents": (
            {"merges/M": {"of": [["S"], ["H"]], "shares": [0.5, 1.0]}},
            "less than 1",
        ),
        "a balance measured by a model": (
            {"stages/X/balance": {}, "judges": {"rubric": {"kind": "rubric", "model": "openai/some"}}},
            "asks a model at every measurement; give [pairs] judge one of kind state",
        ),
    },
    "search": {
        "one trial": ({"search/trials": 1}, "greater than or equal to 2"),
        "more trials than there are": (
            {"search/share": [0.1, 0.11], "search/steps": [5, 6], "search/trials": 5},
            "hold 4 different trials; lower it or widen them",
        ),
        "a lineage of an unknown stage": ({"search/lineage": ["S", "X"]}, "names the stage 'X'"),
        "a parent that is the lineage": ({"search/parent": ["S", "Hm"]}, "is search.lineage itself"),
        "bounds that are one": ({"search/steps": [9, 9]}, "give the lower bound first"),
        "a stage with a term": (
            {"stages/Hm": {"objective": "helpfulness", "term": {}}},
            "leave out term, balance and epochs",
        ),
        "a stage of pairs one by one": (
            {"stages/Hm": {"objective": "helpfulness", "pairwise": True}},
            "takes pairs one by one",
        ),
        "a stage of two objectives": (
            {"stages/Hm": {"objective": ["safety", "helpfulness"]}},
            "a stage of one objective",
        ),
    },
    "users": {
        "a topic that there is not": (
            {"approval/train_topics": ["drinkin"]},
            "approval.train_topics has 'drinkin'…'drinking'?",
        ),
        "a topic of another environment": (
            {"approval/environments": ["advice"], "approval/test_topics": ["drinking"]},
            "approval.test_topics has 'drinking', a topic of 'therapy'…add the environment",
        ),
        "a topic in both halves": (
            {"approval/train_topics": ["anger", "smoking"], "approval/test_topics": ["smoking"]},
            "approval.train_topics and approval.test_topics both have 'smoking'; …remove it from one",
        ),
        "an environment without a topic to train on": (
            {"approval/environments": ["therapy", "report"], "approval/train_topics": ["anger"]},
            "approval.train_topics leaves 'report' without a topic; give one of sending, ",
        ),
        "an environment without a held-out topic": (
            {
                "approval/environments": ["advice"],
                "approval/train_topics": [topic.name for topic in CONTENT["advice"].topics],
            },
            "approval.test_topics leaves 'advice' without a topic",
        ),
        "no gameable user": (
            {"approval/practice": 4, "approval/settings": {"odd": {"gameable_share": 0.1}}},
            "approval.settings.odd.gameable_share is 0.1: of 4 practice scenarios none has a gameable user; ",
        ),
        "only gameable users": (
            {"approval/practice": 4, "approval/settings": {"odd": {"gameable_share": 0.9}}},
            "approval.settings.odd.gameable_share is 0.9: … none has a user who cannot be gamed; ",
        ),
        "fewer pairs than environments": (
            {"approval/pairs": 3},
            "approval.pairs is 3, less than one for each of 4 environments;",
        ),
        "fewer prompts than environments": (
            {"approval/practice": 3},
            "approval.practice is 3, less than one for each of 4 ",
        ),
        "more scenarios than there are": (
            {"approval/environments": ["advice"], "approval/train_topics": ["hot tips"], "approval/practice": 50000},
            "approval.practice is 50000, which takes 50000 scenarios of 'advice', but its 1 topics have 4032; ",
        ),
        "an environment twice": (
            {"approval/environments": ["advice", "advice"]},
            "approval.environments has 'advice' twice; ",
        ),
        "an environment of a setting twice": (
            {"approval/settings": {"odd": {"environments": ["advice", "advice"]}}},
            "approval.settings.odd.environments has 'advice' twice; ",
        ),
        "an environment of a setting alone": (
            {"approval/environments": ["report"], "approval/settings": {"odd": {"environments": ["advice"]}}},
            "approval.settings.odd.environments has 'advice', which approval.environments lacks; ",
        ),
        "more scenarios of a setting's environment than there are": (
            {"approval/practice": 30000, "approval/settings": {"odd": {"environments": ["advice"]}}},
            "approval.practice is 30000, which takes 30000 scenarios of 'advice', but its 5 topics have 20160; ",
        ),
        "more cases than numbers": (
            {"approval/pairs": 40_000, "approval/settings": {f"s{number}": {} for number in range(75)}},
            "approval.settings are 75, which makes 6000000 cases of a part, more than 5000000; ",
        ),
    },
    "on-policy": {
        "nobody who rewards": (
            {"stages/R/objective": None},
            "stages.R learns from rewards, but says neither whose nor of what; give objective, …or setting…",
        ),
        "users and a judge": (
            {"stages/R/setting": "style"},
            "stages.R.setting is of users, and objective is what the judge of pairs scores; remove one of them",
        ),
        "what users reward": ({"stages/R/reward": "success"}, "stages.R.reward is of users, and objective is …"),
        "an unknown objective": (
            {"stages/R/objective": "helpfulnes"},
            "stages.R.objective is 'helpfulnes', not among …did you mean 'helpfulness'?",
        ),
        "no objective": ({"stages/R/objective": []}, "stages.R.objective is empty; name at least one"),
        "an objective twice": (
            {"stages/R/objective": ["safety", "safety"]},
            "stages.R.objective names one twice; give each once",
        ),
        "an objective that the judge does not score": (
            {
                "judges/model": {"kind": "rubric", "model": "openai/x", "rubrics": {"safety": "default"}},
                "pairs": {"judge": "model"},
            },
            "stages.R.objective is 'helpfulness', which the judge of pairs 'model' does not score; it scores safety; …",
        ),
        "a suite without cases": (
            {
                "study/lineages": [["R"]],
                "stages": {"R": {"method": "grpo", "objective": "helpfulness"}},
                "suite": {"name": "approval"},
                "judges": {"users": {"kind": "approval"}},
                "approval": {"settings": {"users": {}}, "pairs": 16, "practice": 24},
            },
            "stages.R.objective is scored on training cases, and the suite 'approval' has users alone; give setting, …",
        ),
        "more cases than there are": (
            {"suite": {"train_cases": 7}},
            "stages.R.prompts_per_step is 8, but suite.train_cases has 7 cases to train on; lower it or raise that",
        ),
        "steps that are not kept": ({"stages/R/every": 7}, "stages.R.every is 7, of which steps 60 is no multiple"),
        "no luck": ({"rollouts/temperature": 0.0}, "rollouts.temperature is 0; give more, …"),
        "best rollouts of the policy": (
            {"stages/R/method": "best_dpo"},
            "stages.R.rollouts is 'policy', but method 'best_dpo' learns from stored ones; give 'start' or 'source'",
        ),
        "doses of its own": ({"doses": {"S,R": [1, 2]}}, "doses.'S,R': its last stage learns from rewards, …"),
    },
    "approval": {
        "a group of one": (
            {"stages/on/group_size": 1},
            "stages.on.group_size: rewards are compared within a group, which takes 2 rollouts or more",
        ),
        "an unknown key": ({"stages/on/lr": 0.0001}, "stages.on.lr: unknown key; did you mean 'learning_rate'?"),
        "an unknown method": (
            {"stages/on/method": "ppo"},
            "stages.on.method is 'ppo'; did you mean 'dpo'? methods of training that there are: dpo…grpo,",
        ),
        "steps that are not kept": ({"stages/on/every": 3}, "stages.on.every is 3, of which steps 4 is no multiple"),
        "steps of an axis that are not kept": ({"axes": {"steps": [4, 7]}}, "stages.on.every is 2, of which steps 7"),
        "an unknown setting": ({"stages/on/setting": "stile"}, "stages.on.setting is 'stile', not among"),
        "more users than there are": (
            {"stages/on/prompts_per_step": 25},
            "prompts_per_step is 25, but approval.practice",
        ),
        "a source that is trained on a source": (
            {"stages/other/source": {"base": "small", "lineage": ["weighted"]}},
            "stages.other.source.lineage has weighted, which learns from a source itself",
        ),
        "a source that is the stage": (
            {"stages/other/source": {"base": "small", "lineage": ["other"]}},
            "stages.other.source.lineage names the stage itself",
        ),
        "a source of an unknown base": (
            {"stages/other/source": {"base": "third", "lineage": []}},
            "stages.other.source.base is 'third', not among model.bases",
        ),
        "a source without rollouts of it": (
            {"stages/other/rollouts": "start"},
            "stages.other.source goes with rollouts = 'source' alone",
        ),
        "best rollouts of the policy": (
            {"stages/own/rollouts": "policy"},
            "stages.own.rollouts is 'policy', but method",
        ),
        "a lag of stored rollouts": (
            {"stages/weighted/lag": 2},
            "stages.weighted.lag is 2, but its rollouts are stored",
        ),
        "families of stored rollouts": (
            {"stages/own/grouping": "family"},
            "stages.own.grouping has no effect on rollouts that are stored; remove it",
        ),
        "a loss for imitation": ({"stages/own/loss": "grpo"}, "stages.own.loss has no effect on method 'best_sft'"),
        "clipping of preferences": ({"stages/other/clip_low": 0.1}, "clip_low has no effect on method 'best_dpo'"),
        "a hold on preferences": ({"stages/other/kl_weight": 0.1}, "kl_weight has no effect on method 'best_dpo'"),
        "weights of imitation": ({"stages/own/importance": False}, "importance has no effect on method 'best_sft'"),
        "beta of a policy gradient": ({"stages/on/beta": 0.3}, "stages.on.beta has no effect on method 'grpo'"),
        "weights of present rollouts": ({"stages/on/importance": False}, "importance has no effect on rollouts of the"),
        "a weight of one reward": ({"stages/on/weight": 0.9}, "stages.on.weight has no effect on reward 'approval'"),
        "spoilt replies of users": (
            {"stages/on/unscored": "lowest"},
            "stages.on.unscored is of objective, and users rate what is unreadable themselves; remove it",
        ),
        "no luck": (
            {"rollouts/temperature": 0.0},
            "rollouts.temperature is 0; give more, so that stages.on has rollouts",
        ),
        "no users": (
            {"suite": {"name": "office", "train_cases": 8, "test_cases": 8}, "approval": None},
            "stages.on learns from rewards, but there is no [approval]",
        ),
        "no judge that rates": (
            {
                "suite": {"name": "office", "train_cases": 8, "test_cases": 8},
                "judges/rules": None,
                "judges/state": {"kind": "state"},
            },
            '[approval] has no judge; add one of kind "approval" or "rating"',
        ),
        "no judge that reads": (
            {"suite": {"name": "office", "train_cases": 8, "test_cases": 8}},
            "no judge reads the cases of 'office'",
        ),
        "a reward that nobody tells": (
            {
                "judges/rules": None,
                "judges/critic": {"kind": "rating", "model": "small"},
                "stages/on/reward": "success",
            },
            "stages.on.reward is 'success', which rules tell",
        ),
        "a judge who does not rate": (
            {
                "suite": {"name": "office", "train_cases": 8, "test_cases": 8},
                "judges/state": {"kind": "state"},
                "approval/judge": "state",
            },
            "approval.judge names 'state', not among the judges that rate",
        ),
        "a stage of pairs without cases": (
            {
                "study/lineages": [["S", "on"]],
                "study/only": {},
                "model/bases": ["small"],
                "stages/other": None,
                "stages/weighted": None,
                "stages/S": {"objective": "safety"},
            },
            "stages.S learns from pairs, and the suite 'approval' has no cases for it",
        ),
        "none of one label": (
            {"approval/settings/style/gameable_share": 0.01},
            "approval.settings.style.gameable_share is 0.01: of 24 practice scenarios none has a gameable user",
        ),
        "all of one label": (
            {"approval/settings/style/gameable_share": 0.99},
            "approval.settings.style.gameable_share is 0.99: of 24 practice scenarios none has a user who cannot",
        ),
        "a topic in both halves": (
            {"approval/train_topics": ["sending"], "approval/test_topics": ["sending"]},
            "approval.train_topics and approval.test_topics both have",
        ),
        "a topic that is none": ({"approval/train_topics": ["weather"]}, "approval.train_topics has 'weather'"),
        "no room for two turns": (
            {"rollouts/max_turns": 2},
            "rollouts.max_turns is 2, but approval.settings.two takes 3",
        ),
        "roles that rules do not see": (
            {"approval/settings/style/judge_role": "professional"},
            "approval.settings differ in judge_role (friend, professional), which has no effect on judges by rules",
        ),
        "words that rules do not see": (
            {"approval/settings/style/clause": "validation"},
            "approval.settings differ in clause (validation, wants), which has no effect on judges by rules",
        ),
        "attacks on users": ({"attacks": {}}, "[attacks] is for the cases of a suite"),
        "a search among users": (
            {"search": {"lineage": ["on"], "parent": ["lag"], "maximize": "safety"}},
            "search.lineage ends in on, which learns from no pairs",
        ),
        "shifts of users": ({"shifts": {}}, "[shifts] is for the cases of a suite"),
        "probes of a tiny base": ({"probes": {}}, "[probes] asks 'small', a tiny base"),
        "lineages that are not trained": (
            {"approval/lineages": [["off"]]},
            "approval.lineages has 'off', not among study.lineages",
        ),
        "an unknown base": ({"study/only": {"third": [["on"]]}}, "study.only has 'third', not among model.bases"),
        "a lineage of one base alone": (
            {"study/only": {"other": [["two"]]}},
            "study.only.other has ['two'], which is none",
        ),
        "doses": ({"doses": {"on": [1, 2]}}, "doses.'on': its last stage learns from rewards"),
        "a remote base": (
            {"models/small": {"kind": "remote", "name": "openai/some-model"}},
            "model.bases has 'small', a remote model, which cannot be trained here",
        ),
        "a level twice": ({"approval/kl_levels": [0.1, 0.1]}, "approval.kl_levels repeats a level"),
        "true for one": ({"stages/on/steps": True}, "stages.on.steps: true or false, where a number"),
    },
}


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, rows in REFUSED.items() for name in rows])
def test_a_study_is_refused_in_one_line(
    base: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changes, words = REFUSED[base][name]
    write_toml(changed(BASES[base](), changes), Path("study.toml"))
    for command in (["check"], ["run", "-o", "run"]):
        line = refused(capsys, command[0], "study.toml", *command[1:])
        assert re.search(".*".join(map(re.escape, words.split("…"))), line), line
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


# What no dictionary holds: the file's own text.
TEXTS: dict[str, tuple[str, str]] = {
    "an empty key": ('"" = 1\n' + SHORT, '"": unknown key'),
    "an empty key in a table": (SHORT + '"" = 1\n', 'stages.S."": unknown key'),
    "an empty table": (SHORT + '[""]\na = 1\n', '"": unknown key'),
    "10^400 steps": (SHORT + f"steps = {HUGE}\n", "stages.S.steps is a whole number of more than 64 bits"),
    "a number of 5,000 hexadecimal digits": (SHORT + f"steps = 0x{'f' * 5000}\n", "more than 64 bits"),
    "10^400 as a float": (SHORT + "steps = 1e400\n", "stages.S.steps: input should be a finite number"),
    "10^12 steps": (SHORT + f"steps = {10**12}\n", "stages.S.steps: input should be less than or equal to"),
    "a width of 1e30": (SHORT + "[model]\nhidden = 1e30\n", "model.hidden: "),
    "a width of 1e9": (SHORT + "[model]\nhidden = 1e9\n", "model.hidden: input should be less than or equal to"),
    "10^18 rollouts": (
        SHORT + f"[rollouts]\nper_train_case = {10**18}\n",
        "rollouts.per_train_case: input should be",
    ),
    "axes that multiply": (
        SHORT + f"[axes]\nsteps = {list(range(1, 200))}\nbeta = {[n / 100 for n in range(1, 200)]}\n",
        "the study has 39,601 checkpoints, more than 20,000",
    ),
    "10^6 brackets": (SHORT + "steps = " + "[" * 10**6, "not valid TOML (values are nested too deeply)"),
    "closed brackets": (
        SHORT + f"steps = {'[' * 300}{']' * 300}\n",
        "not valid TOML (values are nested too deeply)",
    ),
    "tables in tables": (SHORT + f"steps = {'{a = ' * 99}1{'}' * 99}\n", "not valid TOML (values are nested"),
    "dotted keys galore": (
        SHORT + "a." * 10**5 + "a = 1\n",
        "not valid TOML (a dotted key has more than 64 parts)",
    ),
    "a header of dots": ("[" + '"a" . ' * 10**5 + "a]\n", "not valid TOML (a dotted key has more than 64 parts)"),
    "NUL": (SHORT + '[suite]\ncases = "a\\u0000b"\n', "suite.cases holds a NUL character"),
    "5 MiB": (SHORT + "#" * (5 << 20), "has more than 4 MiB"),
    "a rule that is a date": (
        SHORT.replace('"state"', '"rules"') + "[[judges.state.rules.safety]]\nvalue = 2024-01-01\n",
        "judges.state.rules.safety[0].value",
    ),
    "true for a number": (SHORT + "[gate]\nmargin = true\n", "gate.margin: true or false"),
    "true for a count": (SHORT + "[attacks]\ncases = true\n", "attacks.cases: true or false"),
    "NUL in a file's name": (SHORT + '[probes]\nitems = "a\\u0000b"\n', "probes.items holds a NUL character"),
    "a device": (SHORT + '[probes]\nitems = "/dev/null"\n', "is a device or a pipe"),
    "10^5000": (f"[gate]\nmargin = {'9' * 5000}\n", "not valid TOML"),
    "20,000 brackets": ("[gate]\nblocking = " + "[" * 20_000, "not valid TOML"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = TEXTS[name]
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    for command in ("check", "plan"):
        if (name, command) != ("a rule that is a date", "plan"):  # a plan opens no judge
            line = refused(capsys, command, file)
            assert words in line and str(file) in line and len(line) < 1000


@pytest.mark.parametrize("base", BASES)
def test_unchanged_it_is_taken(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_toml(BASES[base](), Path("study.toml"))
    assert main(["check", "study.toml"]) == 0, capsys.readouterr().err
