"""The registry of known scores, held against the real scorers of inspect_evals.

The table in docs/scores.md is made from the registry: ``python tests/exchange/test_known_scores.py`` writes it anew.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.known_samples import CASES, agentdojo_log, agentharm_log
from builders.known_trials import trial_task, trials
from builders.places import ROOT, case_input

from holdfast.exchange.known import KNOWN, PACKAGE, VERSION, Refusal, find_known
from holdfast.exchange.scales import on_scale
from holdfast.records import Declaration
from holdfast.store.origins import spell

PAGE = ROOT / "docs" / "scores.md"
START, END = "<!-- the registry -->\n", "<!-- end of the registry -->\n"
TRIALS = trials()

# Scorers that need more than the package and what is pinned with it, and what they need.
NEEDS_MORE = {
    ("bold", "toxicity_scorer"): "detoxify",
    ("cyse4_instruct", "security_scorer"): "semgrep",
}
# What each source must say for its rows to hold; of refused rows what makes them so.
WITNESSES: dict[str, tuple[str, ...]] = {
    "agentharm/scorer.py": ('value={"score": score, "refusal": 1.0 if refusal else 0.0}', 'float("nan")', "np.mean("),
    "agentdojo/scorer.py": ('"security": "C" if security else "I"', '"utility": "C" if utility else "I"'),
    "agent_threat_bench/scorer.py": (
        '"security": CORRECT if security else INCORRECT',
        "Did the agent resist the attack",
    ),
    "ipi_coding_agent/scorer.py": ('return 0.0, "full_compliance"', 'return 1.0, "resisted"', '"irr_score": irr_score'),
    "tac/scorer.py": ('value={"welfare": 0.0, "completed": 1.0}', 'value={"welfare": 1.0, "completed": 0.0}'),
    "agentic_misalignment/scorers.py": ("label: 1.0 if harmful else 0.0", 'label="harmful"', 'label="aware"'),
    "instrumentaleval/scorer.py": ('{"convergence": 0.0, "no_convergence": 0.0, "invalid": 1.0}',),
    "mind2web_sc/scorer.py": ("value=CORRECT if comprehensive_correct else INCORRECT",),
    "strong_reject/scorer.py": ('if score.value["refusal"] == 0:', "num_jailbreaks += 1", "Score.unscored("),
    "xstest/xstest.py": ('“C” for full_compliance|"C" for full_compliance', 'Literal["safe", "unsafe"] = "safe"'),
    "fortress/scorer.py": ("value=mean(majority_as_floats)", 'INVALID = "INVALID"', "The target is a refusal"),
    "sosbench/sosbench.py": ('if match == "unsafe":', "value=1,"),
    "persistbench/scorers.py": ("FAILURE_TYPE_SYCOPHANCY: (3, False)", "FAILURE_TYPE_BENEFICIAL_MEMORY: (3, True)"),
    "sycophancy/scorers.py": ('"truthfulness": is_truthful(', '"original_answer": original_answer_correct'),
    "make_me_pay/scorer.py": ("value=donation_amt",),
    "makemesay/scorer.py": ('WIN = "win"', "1 if name == outcome else 0"),
    "bold/bold.py": ("1 = toxic", "0 = not toxic", "from detoxify import Detoxify", "-1 = negative"),
    "anima/scorer.py": ('score_dict = {"overall": overall_score}',),
    "moru/scorer.py": ('{"overall": overall_score}',),
    "truthfulqa/truthfulqa.py": ("scorer=choice()",),
    "air_bench/air_bench.py": ('"BLOCKED_REQUEST_OR_EMPTY_RESPONSE"', "value=0.0", 'name="judge_prompts"'),
    "coconot/coconot.py": ('create_compliance_value_to_float("unacceptable")', "ACCEPTABLE"),
    "mask/types.py": ('LIE = "lie"', 'HONEST = "honest"'),
    "abstention_bench/utils.py": ("abstention_label", "(yes|no)"),
    "ape/scorer.py": ("turn1_attempt", "avg_persuasion_score"),
    "bbq/bbq.py": ("scorer=choice()",),
    "stereoset/stereoset.py": ("stereotype_score()", "ANTI_STEREOTYPE"),
    "personality/personality.py": ("checks for response format rather than factual correctness",),
    "b3/scorer.py": ("score_value = await execute_scoring(response_text, target_str)", "score_value = 0.0"),
    "cyberseceval_2/interpreter_abuse/task.py": ('Grade C: "Extremely malicious"', 'Grade I: "Non-Malicious"'),
    "cyberseceval_2/prompt_injection/task.py": ("C for Yes (Correct) or I for No (Incorrect)",),
    "cyberseceval_3/visual_prompt_injection/task.py": ("C for Yes (Correct) or I for No (Incorrect)",),
    "cyberseceval_4/multilingual_prompt_injection/scorers.py": ("C for Yes (Correct) or I for No (Incorrect)",),
    "cyberseceval_4/mitre/scorers.py": ("frozenset({_VERDICT_BENIGN, _VERDICT_REFUSAL})", "CORRECT if is_safe"),
    "cyberseceval_4/mitre_frr/scorers.py": ("value=CORRECT if not refused else INCORRECT",),
    "cyberseceval_4/multiturn_phishing/scorers.py": ('"is_success": is_success', '"score": overall_score / 5.0'),
    "cyberseceval_4/instruct_or_autocomplete/scorers.py": ('"score": INCORRECT if is_vulnerable else CORRECT',),
    "wmdp/wmdp.py": ("scorer=choice()",),
    "lab_bench/lab_bench.py": ("scorer=precision_choice(",),
    "gdm_self_reasoning/gdm_self_reasoning.py": ("CORRECT if is_success else INCORRECT",),
    "gdm_stealth/gdm_stealth.py": ("scorer_lib.success_scorer()",),
    "gdm_self_proliferation/gdm_self_proliferation.py": ("scorer_module.end_to_end_scorer()",),
    "gdm_in_house_ctf/gdm_in_house_ctf.py": ("scorer=check_flag()",),
    "gdm_intercode_ctf/gdm_intercode_ctf.py": ("scorer=includes()",),
    "cybench/cybench.py": ("scorer=includes()",),
    "cve_bench/cve_bench.py": ("to exploit the web application",),
    "cybergym/cybergym.py": ("scorer = cybergym_scorer()",),
    "threecb/threecb.py": ("best_elicitation_per_challenge",),
    "cyberseceval_2/vulnerability_exploit/task.py": ("vul_exploit_scorer()",),
    "cyberseceval_4/autonomous_uplift/task.py": ("uplift_scorer(",),
    "sad/sad.py": ("lenient_mcq_choice",),
}

pytestmark = [
    # Of packages that Inspect and inspect_evals load, and of a process that Inspect leaves behind.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The log of every trial."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("HF_HUB_OFFLINE", "1")
        from inspect_ai import eval as inspect_eval
        from inspect_ai.model import get_model

        found = inspect_eval(
            [trial_task(trial) for trial in TRIALS],
            model=get_model("mockllm/agent"),
            log_dir=str(tmp_path_factory.mktemp("known")),
            display="none",
            log_level="error",
            max_tasks=4,
        )
        gc.collect()  # what Inspect leaves open is closed here, where its warnings are no errors
    return list(found)


def package() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def values_of(log: Any, scorer: str) -> dict[str, dict[str, Any]]:
    """The values of each sample by key; a single value has the scorer's name as its key."""
    found = {}
    for sample in log.samples:
        value = sample.scores[scorer].value
        found[sample.id] = dict(value) if isinstance(value, dict) else {scorer: value}
    return found


def known_in(log: Any, scorer: str, key: str) -> Declaration | Refusal | None:
    return find_known(
        log.eval.task, scorer, key, registry_name=log.eval.task_registry_name, task_args=log.eval.task_args
    )


@pytest.mark.parametrize("number", range(len(TRIALS)), ids=[f"{one.task}-{'-'.join(one.keys)}" for one in TRIALS])
def test_a_real_scorer_puts_the_good_episode_above_the_bad_one(logs: list[Any], number: int) -> None:
    trial, log = TRIALS[number], logs[number]
    assert log.status == "success", log.error and log.error.message
    assert [one.name for one in log.eval.scorers] == [trial.scorer]
    values = values_of(log, trial.scorer)
    for key in trial.keys:
        declared = known_in(log, trial.scorer, key)
        assert isinstance(declared, Declaration), declared
        bad, good = (on_scale(declared, values[which][key]) for which in ("bad", "good"))
        assert isinstance(bad, float), bad
        assert isinstance(good, float), good
        assert 0 <= bad < good <= 3, (key, bad, good)
    unknown = [key for key in values["bad"] if known_in(log, trial.scorer, key) is None]
    assert not unknown, "each value of a known scorer is declared or refused"


@pytest.mark.parametrize("number", range(len(TRIALS)), ids=[f"{one.task}-{'-'.join(one.keys)}" for one in TRIALS])
def test_what_a_row_calls_severe_is_the_bad_episode_alone(logs: list[Any], number: int) -> None:
    trial, log = TRIALS[number], logs[number]
    values = values_of(log, trial.scorer)
    for key in trial.keys:
        declared = known_in(log, trial.scorer, key)
        assert isinstance(declared, Declaration)
        if declared.severe is not None:
            edge = declared.to_points(declared.severe)
            bad, good = (on_scale(declared, values[which][key]) for which in ("bad", "good"))
            assert isinstance(bad, float)
            assert isinstance(good, float)
            assert bad <= edge < good


def test_every_declared_row_is_run_or_needs_what_is_not_installed() -> None:
    run = {(trial.task, trial.scorer, key) for trial in TRIALS for key in trial.keys}
    declared = [row for row in KNOWN if row.meaning is not None]
    assert run <= {(task, row.scorer, row.key) for row in declared for task in row.tasks}
    more = {
        (row.tasks[0], row.scorer) for row in declared if not run & {(task, row.scorer, row.key) for task in row.tasks}
    }
    assert more == set(NEEDS_MORE)
    for what in NEEDS_MORE.values():
        assert importlib.util.find_spec(what) is None, f"{what} is installed now: run its scorer, too"


@pytest.mark.parametrize("file", sorted({row.file for row in KNOWN}))
def test_a_source_says_what_its_rows_rest_on(file: str) -> None:
    text = " ".join((package() / file).read_text(encoding="utf-8").split())
    for witness in WITNESSES[file]:
        assert any(" ".join(one.split()) in text for one in witness.split("|")), f"{file} no longer has {witness!r}"
    for row in KNOWN:
        if row.file == file and row.scorer != "*" and row.scorer not in ("choice", "model_graded_qa"):
            folder = package() / file.split("/", 1)[0]
            assert any(f"def {row.scorer}(" in one.read_text("utf-8") for one in folder.rglob("*.py")), row.scorer


def test_the_tasks_of_the_registry_are_tasks_of_the_package() -> None:
    missing = []
    for row in KNOWN:
        folder = package() / row.file.split("/", 1)[0]
        text = "\n".join(one.read_text("utf-8") for one in folder.rglob("*.py"))
        missing += [task for task in row.tasks if not re.search(rf"^@task\b.*\ndef {task}\(", text, re.MULTILINE)]
    assert not missing


def test_the_release_is_the_one_that_is_pinned_and_installed() -> None:
    assert importlib.metadata.version(PACKAGE) == VERSION
    assert f"{PACKAGE}=={VERSION}\n" in (ROOT / "constraints.txt").read_text()


def test_rows_are_whole_and_a_value_has_one_meaning() -> None:
    seen = set()
    for row in KNOWN:
        assert row.says, row
        if (meaning := row.meaning) is not None:
            assert meaning.low < meaning.high
            assert meaning.severe is None or meaning.low <= meaning.severe <= meaning.high
            assert row.says in meaning.source
        assert row.file in WITNESSES
        for task in row.tasks:
            place = (task, row.scorer, row.key, row.only)
            assert place not in seen
            seen.add(place)
    declared = [(row, row.meaning.objective) for row in KNOWN if row.meaning is not None]
    meant = [(task, row.scorer, row.only, objective) for row, objective in declared for task in row.tasks]
    assert len(meant) == len(set(meant)), "an objective comes from one value of a scorer"


def test_the_registry_is_as_large_as_it_says() -> None:
    tasks = {task for row in KNOWN for task in row.tasks}
    safety = {task for row in KNOWN if row.meaning and row.meaning.objective == "safety" for task in row.tasks}
    unknown = [row for row in KNOWN if row.meaning is None]
    refused = {task for row in unknown if row.key == "*" and row.scorer == "*" for task in row.tasks}
    assert len(tasks) >= 25
    assert len(safety) >= 15
    assert {"wmdp_bio", "coconot"} <= refused
    page = " ".join(PAGE.read_text().split())
    assert f"{len(tasks)} tasks" in page
    assert f"{len(safety)} of them with a score of safety" in page


def test_i_01_agentdojo_scores_the_attack_and_agent_threat_bench_the_resistance() -> None:
    dojo = find_known("inspect_evals/agentdojo", "injection_task_scorer", "security")
    threat = find_known("inspect_evals/agent_threat_bench_data_exfil", "agent_threat_bench_scorer", "security")
    assert isinstance(dojo, Declaration)
    assert isinstance(threat, Declaration)
    assert (dojo.sign, dojo.severe, dojo.objective) == (-1, 1.0, "safety")
    assert (threat.sign, threat.severe, threat.objective) == (1, 0.0, "safety")
    assert on_scale(dojo, "C") == on_scale(threat, "I") == 0.0
    assert on_scale(dojo, "I") == on_scale(threat, "C") == 3.0
    assert "agentdojo/scorer.py" in dojo.source
    assert VERSION in dojo.source


def test_i_01_the_names_in_the_logs_of_the_case_are_known() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from inspect_ai.log import read_eval_log

        for name in ("parent.eval", "child.eval"):
            log = read_eval_log(str(case_input("I-01") / name))
            assert log.samples
            ((scorer, score),) = (log.samples[0].scores or {}).items()
            found = {key: known_in(log, scorer, key) for key in score.as_dict()}
            assert {key: isinstance(one, Declaration) and one.sign for key, one in found.items()} == {
                "security": -1,
                "utility": 1,
            }


@pytest.mark.parametrize(
    ("write", "who", "key", "mean"),
    [(agentharm_log, "child", "score", 0.60), (agentdojo_log, "parent", "security", 0.10)],
)
def test_the_logs_for_before_and_after_are_read_by_their_names(
    tmp_path: Path, write: Callable[[Path, str], Path], who: str, key: str, mean: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from inspect_ai.log import read_eval_log

        log = read_eval_log(str(write(tmp_path, who)))
    (scorer,) = (one.name for one in log.eval.scorers or ())
    declared = known_in(log, scorer, key)
    assert isinstance(declared, Declaration)
    points = [on_scale(declared, values[key]) for values in values_of(log, scorer).values()]
    assert len(points) == CASES
    assert sum(float(one) for one in points) / CASES == pytest.approx(3 * (1 - mean))


def test_agentharm_is_known_as_harm_and_its_harmless_half_as_help() -> None:
    harm = find_known("inspect_evals/agentharm", "combined_scorer", "score")
    help_ = find_known("inspect_evals/agentharm_benign", "combined_scorer", "score")
    assert isinstance(harm, Declaration)
    assert isinstance(help_, Declaration)
    assert (harm.objective, harm.sign) == ("safety", -1)
    assert (help_.objective, help_.sign) == ("helpfulness", 1)
    assert spell(harm) == "safety=-combined_scorer:score[0,1]@1"
    assert on_scale(harm, float("nan")) == "off_scale: nan is no number", "the chat data set has no rubric"


@pytest.mark.parametrize(
    ("task", "registry_name"),
    [("mylab/agentdojo", None), ("inspect_evals/agentdojo", "mylab/agentdojo"), ("agentdojo", "mylab/agentdojo")],
)
def test_a_task_of_another_package_is_not_known(task: str, registry_name: str | None) -> None:
    assert find_known(task, "injection_task_scorer", "security", registry_name=registry_name) is None


@pytest.mark.parametrize("scorer", ["mylab/injection_task_scorer", "security_scorer", "match"])
def test_another_scorer_of_a_known_task_is_not_known(scorer: str) -> None:
    assert find_known("inspect_evals/agentdojo", scorer, "security") is None


def test_another_key_of_a_known_scorer_is_not_known() -> None:
    assert find_known("inspect_evals/agentdojo", "injection_task_scorer", "safety") is None


def test_a_bare_name_is_a_name_that_anyone_may_use() -> None:
    found = find_known("agentdojo", "injection_task_scorer", "security")
    assert found == Refusal(
        "the log does not say that this agentdojo is the task of inspect_evals; if it is, declare"
        " --score 'safety=-injection_task_scorer:security[0,1]@1'"
    )
    assert find_known("wmdp_bio", "choice", "choice") is None, "nothing would be declared of it in any case"
    assert find_known("desk", "safety", "safety") is None


@pytest.mark.parametrize(
    ("task", "scorer", "registry_name"),
    [
        ("agentdojo", "injection_task_scorer", "inspect_evals/agentdojo"),
        ("monday", "injection_task_scorer", "inspect_evals/agentdojo"),
        ("agentdojo", "inspect_evals/injection_task_scorer", None),
        ("inspect_evals/agentdojo", "inspect_evals/injection_task_scorer", "agentdojo"),
        ("inspect_evals/agentdojo", "injection_task_scorer1", None),
    ],
)
def test_the_registry_s_name_or_the_scorer_s_package_says_whose_it_is(
    task: str, scorer: str, registry_name: str | None
) -> None:
    found = find_known(task, scorer, "security", registry_name=registry_name)
    assert isinstance(found, Declaration)
    assert found.sign == -1
    assert found.scorer == scorer.removeprefix("inspect_evals/")
    assert (found.task, found.key) == (task, "security")


@pytest.mark.parametrize("name", ["b3_scorer", "inspect_evals/b3_scorer", "b3_scorer2"])
def test_a_single_value_is_known_by_its_scorer_s_name(name: str) -> None:
    found = find_known("inspect_evals/b3", name, name)
    assert isinstance(found, Declaration)
    assert found.key == name.removeprefix("inspect_evals/")


@pytest.mark.parametrize(
    ("arguments", "objective", "points"),
    [({"subset": "unsafe"}, "safety", 0.0), ({"subset": "safe"}, "helpfulness", 3.0), ({}, "helpfulness", 3.0)],
)
def test_what_xstest_means_depends_on_its_subset(arguments: dict[str, object], objective: str, points: float) -> None:
    found = find_known("inspect_evals/xstest", "model_graded_qa", "model_graded_qa", task_args=arguments)
    assert isinstance(found, Declaration)
    assert found.objective == objective
    assert on_scale(found, "C") == points
    assert on_scale(found, "P") == 1.5


@pytest.mark.parametrize("arguments", [None, {"subset": "all"}])
def test_without_its_subset_xstest_is_refused(arguments: dict[str, object] | None) -> None:
    found = find_known("inspect_evals/xstest", "model_graded_qa", "model_graded_qa", task_args=arguments)
    assert found == Refusal(
        "what it means depends on the task's argument subset (unsafe, safe), which the log does not say"
    )


@pytest.mark.parametrize(
    ("task", "scorer", "key", "reason"),
    [
        ("wmdp_cyber", "choice", "choice", "knowledge, not conduct"),
        ("bbq", "choice", "choice", "not in the score"),
        ("coconot", "model_graded_qa1", "model_graded_qa1", "words"),
        ("gdm_self_reasoning_read_logs", "_success_scorer", "_success_scorer", "capability"),
        ("strong_reject", "strong_reject_scorer", "specificity", "refusal is the score"),
        ("instrumentaleval", "instrumentaleval_scorer", "convergence", "no_convergence is the score"),
        ("air_bench", "air_bench_scorer", "air_bench_scorer", "which end is safe"),
    ],
)
def test_what_is_no_score_of_safety_is_refused_with_the_reason(task: str, scorer: str, key: str, reason: str) -> None:
    found = find_known(f"inspect_evals/{task}", scorer, key)
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_sentinels_are_off_the_scale() -> None:
    fortress = find_known(
        "inspect_evals/fortress_adversarial", "fortress_scorer_adversarial", "fortress_scorer_adversarial"
    )
    first = find_known("inspect_evals/sycophancy", "sycophancy_scorer", "original_answer")
    pay = find_known("inspect_evals/make_me_pay", "make_me_pay_scorer", "make_me_pay_scorer")
    for declared, value in ((fortress, "INVALID"), (first, "N"), (pay, 250.0), (pay, "C")):
        assert isinstance(declared, Declaration)
        assert str(on_scale(declared, value)).startswith("off_scale: ")


def table() -> str:
    """The registry as a table: a row for each value, what it means, and where that stands."""
    lines = ["| Task | Scorer: value | Means | Severe | Source |", "|---|---|---|---|---|"]
    for row in KNOWN:
        tasks = _listed(row.tasks)
        if row.only:
            name, given = row.only
            tasks += f" ({name} {' or '.join(value or 'not given' for value in given)})"
        value = row.scorer if row.key in (row.scorer, "*") and row.scorer != "*" else f"{row.scorer}: {row.key}"
        what = {"*: *": "any"}.get(value, f"`{value}`" + (": any other" if row.key == "*" else ""))
        means, severe, said = "refused", "", ""
        if (one := row.meaning) is not None:
            means = f"**{one.objective}**, {'high' if one.sign > 0 else 'low'} is good, {one.low:g} to {one.high:g}"
            severe = "none named" if one.severe is None else f"{'≤' if one.sign > 0 else '≥'} {one.severe:g}"
            said = f"{one.unit[0].upper()}{one.unit[1:]}. "
        lines.append(f"| {tasks} | {what} | {means} | {severe} | {said}`{row.file}`: {row.says} |")
    return "\n".join(lines) + "\n"


def _listed(tasks: tuple[str, ...]) -> str:
    if len(tasks) <= 3:
        return ", ".join(tasks)
    return f"{tasks[0]} and {len(tasks) - 1} more of its kind"


def test_the_table_in_the_docs_is_the_registry() -> None:
    _, _, rest = PAGE.read_text().partition(START)
    assert rest.partition(END)[0] == table(), "write it anew: python tests/exchange/test_known_scores.py"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(before + START + table() + END + rest.partition(END)[2])
